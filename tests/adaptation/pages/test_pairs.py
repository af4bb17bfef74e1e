"""What a page shows of a search, against an exhaustive sort in float64."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from adaptation.pages.content import Hit, Image, Query
from adaptation.pages.pairs import Side, failures_first, pair_queries, search_queries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

CPU = torch.device("cpu")
PAIRS, K = 9, 4


def units(rows: int, numbers: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).normal(size=(rows, numbers))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


LEFT = (units(PAIRS, 12, 1), units(PAIRS, 5, 2))
RIGHT = (units(PAIRS, 12, 3), units(PAIRS, 5, 4))
NAMES = [(f"left/{number}.png", f"right/{number}.png") for number in range(PAIRS)]
PATHS: list[tuple[Path | None, Path | None]] = [(Path(f"/l/{number}"), None) for number in range(PAIRS)]


def ranks(query: Vectors, gallery: Vectors) -> dict[int, tuple[int, float]]:
    """Rank and cosine of every row of the gallery for one query, by Python's own sort."""
    cosines = [float(np.dot(query.astype(float), row.astype(float))) for row in gallery]
    order = sorted(range(len(gallery)), key=lambda index: -cosines[index])
    return {index: (rank, cosines[index]) for rank, index in enumerate(order, start=1)}


def near(score: float) -> Any:
    """What a float32 cosine may differ from one in float64."""
    return pytest.approx(score, abs=1e-6)


def expected_hits(
    by: dict[int, tuple[int, float]], other: dict[int, tuple[int, float]], images: list[Image], partner: int | None
) -> list[Hit]:
    found = sorted(by, key=lambda index: by[index][0])[:K]
    return [Hit(images[index], by[index][0], near(by[index][1]), other[index][0], index == partner) for index in found]


def expected_query(image: Image, vectors: list[Vectors], side: Side, partner: int | None, direction: str = "") -> Query:
    frozen, adapted = ranks(vectors[0], side.frozen), ranks(vectors[1], side.adapted)
    images = list(side.images)
    hits = expected_hits(frozen, adapted, images, partner), expected_hits(adapted, frozen, images, partner)
    if partner is None:
        return Query(image, *hits, direction)
    return Query(image, *hits, direction, images[partner], frozen[partner][0], adapted[partner][0])


def sides() -> tuple[Side, Side]:
    left = Side([Image(name[0], path[0]) for name, path in zip(NAMES, PATHS, strict=True)], *LEFT)
    return left, Side([Image(name[1], path[1]) for name, path in zip(NAMES, PATHS, strict=True)], *RIGHT)


def test_pairs_are_searched_in_both_directions() -> None:
    queries = pair_queries(LEFT, RIGHT, NAMES, PATHS, K, CPU, order="given")
    left, right = sides()
    ways = ((left, right, "left to right"), (right, left, "right to left"))
    assert queries == [
        expected_query(own.images[i], [own.frozen[i], own.adapted[i]], other, i, direction)
        for own, other, direction in ways
        for i in range(PAIRS)
    ]


def test_failures_come_first() -> None:
    given = pair_queries(LEFT, RIGHT, NAMES, PATHS, K, CPU, order="given")
    queries = pair_queries(LEFT, RIGHT, NAMES, PATHS, K, CPU)
    found = [(query.adapted_rank or 0, query.frozen_rank or 0) for query in queries]
    assert found == sorted(found, reverse=True)
    assert len({rank for rank, _ in found}) > 2
    assert sorted(query.image.name for query in queries) == sorted(query.image.name for query in given)


def test_query_without_partner_comes_after_the_failures() -> None:
    image = Image("a")
    unknown, first, last = (
        Query(image, [], []),
        Query(image, [], [], "", image, 9, 1),
        Query(image, [], [], "", image, 1, 2),
    )
    assert failures_first([unknown, first, last]) == [last, first, unknown]


def test_an_image_of_several_pairs_is_in_a_gallery_once_and_does_not_find_itself() -> None:
    """Pairs (a, b), (b, a), (c, b), (c, d), (d, d) of four images."""
    numbers = np.array([[0, 1], [1, 0], [2, 1], [2, 3], [3, 3]])
    frozen, adapted = units(4, 12, 1), units(4, 5, 2)
    left, right = ((frozen[side], adapted[side]) for side in numbers.T)
    names = [("abcd"[one], "abcd"[other]) for one, other in numbers.tolist()]
    queries = pair_queries(left, right, names, [(None, None)] * 5, 10, CPU, order="given", numbers=numbers)
    for query, (one, other) in zip(queries, [*numbers.tolist(), *numbers[:, ::-1].tolist()], strict=True):
        gallery = sorted(set(numbers[:, 1 if query.direction == "left to right" else 0].tolist()))
        others = [image for image in gallery if image != one or image == other]
        for hits, rank, vectors in (
            (query.frozen, query.frozen_rank, frozen),
            (query.adapted, query.adapted_rank, adapted),
        ):
            order = sorted(others, key=lambda image: -float(vectors[one] @ vectors[image]))
            assert [hit.image.name for hit in hits] == ["abcd"[image] for image in order][: len(hits)]
            assert [hit.partner for hit in hits] == [image == other for image in order][: len(hits)]
            assert rank == order.index(other) + 1


def test_few_pairs_are_all_found() -> None:
    queries = pair_queries(LEFT, RIGHT, NAMES, PATHS, 50, CPU)
    assert {(len(query.frozen), len(query.adapted)) for query in queries} == {(PAIRS, PAIRS)}


def test_ordinary_search_marks_the_partners_that_are_known() -> None:
    left, right = sides()
    gallery = Side(right.images, right.frozen, right.adapted)
    asked = Side(left.images[:3], left.frozen[:3], left.adapted[:3])
    partners = [0, None, 7]
    assert search_queries(asked, gallery, K, CPU, partners) == [
        expected_query(asked.images[i], [asked.frozen[i], asked.adapted[i]], gallery, partner)
        for i, partner in enumerate(partners)
    ]


def test_ordinary_search_needs_no_partners() -> None:
    left, right = sides()
    queries = search_queries(left, right, K, CPU)
    assert [query.image for query in queries] == list(left.images)
    assert {(query.partner, query.frozen_rank, query.adapted_rank) for query in queries} == {(None, None, None)}
    assert not any(hit.partner for query in queries for hit in (*query.frozen, *query.adapted))


def test_numbers_of_vectors_and_names_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        pair_queries(LEFT, RIGHT, NAMES, PATHS[:-1], K, CPU)
