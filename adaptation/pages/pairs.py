"""Vectors of queries and a gallery -> what a page shows: what is found by each measure, and how ranks change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from adaptation.pages.content import Hit, Image, Query
from adaptation.similarity.others import ranks_among_others, search_others
from adaptation.similarity.search import Neighbours

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Indices = NDArray[np.int64]

LEFT_TO_RIGHT, RIGHT_TO_LEFT = "left to right", "right to left"
Order = Literal["failures", "given"]


@dataclass(frozen=True)
class Side:
    """The images of one side of a search, N of them, and their vectors of unit length: `frozen` (N, D) float32 from the
    backbone, `adapted` (N, E) float32 from the similarity."""

    images: Sequence[Image]
    frozen: Vectors
    adapted: Vectors


@dataclass(frozen=True)
class Found:
    """What one measure finds for Q queries: the k nearest of the gallery (`nearest`), their ranks by the other measure
    (Q, k), and the partners' ranks by this measure (Q,), where `targets` named partners."""

    nearest: Neighbours
    other_ranks: Indices
    partner_ranks: Indices


def pair_queries(
    left: tuple[Vectors, Vectors],
    right: tuple[Vectors, Vectors],
    names: Sequence[tuple[str, str]],
    paths: Sequence[tuple[Path | None, Path | None]],
    k: int,
    device: torch.device,
    order: Order = "failures",
    numbers: Indices | None = None,
) -> list[Query]:
    """Return the queries of N pairs in both directions, 2 N in all: each image searches the other side.

    `left` and `right` are (frozen (N, D), adapted (N, E)), float32 of unit length; row i of both sides is pair i, with
    the names and files `names[i]` and `paths[i]`. Each measure finds the `k` nearest, or all N where there are fewer.
    With `order` "failures", queries whose partner's rank by the similarity is worst come first; with "given", the
    queries from left to right come first, in the order of the pairs. `numbers` (N, 2) tell images apart, where one
    is in several pairs or on both sides: it is in a gallery once, and not found as its own neighbour. InputError as
    `search`.
    """
    sides = [
        Side([Image(name[side], path[side]) for name, path in zip(names, paths, strict=True)], *vectors)
        for side, vectors in enumerate((left, right))
    ]
    if numbers is None:
        numbers = np.arange(2 * len(names)).reshape(2, -1).T
    queries = _one_way(sides[0], sides[1], numbers, k, device, LEFT_TO_RIGHT)
    queries += _one_way(sides[1], sides[0], numbers[:, ::-1], k, device, RIGHT_TO_LEFT)
    return failures_first(queries) if order == "failures" else queries


def _one_way(asked: Side, among: Side, numbers: Indices, k: int, device: torch.device, direction: str) -> list[Query]:
    """The queries of pairs in one direction; `numbers` (N, 2) are those of the query and of its partner."""
    distinct, first, partners = np.unique(numbers[:, 1], return_index=True, return_inverse=True)
    if len(distinct) < len(numbers):
        among = Side([among.images[row] for row in first], among.frozen[first], among.adapted[first])
    own = np.searchsorted(distinct, numbers[:, 0]).clip(max=len(distinct) - 1)
    own = np.where((distinct[own] == numbers[:, 0]) & (own != partners), own, -1)  # one may be its own partner
    k = min(k, len(distinct) - int(own.max() >= 0))
    return search_queries(asked, among, k, device, partners.tolist(), direction, own)


def failures_first(queries: Sequence[Query]) -> list[Query]:
    """Return the queries sorted by the partner's rank: the worst by the similarity first, equal ones by the worse rank
    of the frozen features; queries without a partner come last."""
    return sorted(queries, key=lambda query: (-(query.adapted_rank or 0), -(query.frozen_rank or 0)))


def search_queries(
    queries: Side,
    gallery: Side,
    k: int,
    device: torch.device,
    partners: Sequence[int | None] | None = None,
    direction: str = "",
    own: Indices | None = None,
    adapted: Neighbours | None = None,
) -> list[Query]:
    """Return a query for each of the Q images of `queries`, in their order: the `k` images of `gallery` that the frozen
    features find and those that the similarity finds.

    `partners` has the partner's index in the gallery for each query, or None where it is unknown; `own` (Q,) the index
    of the query itself, which does not count, or -1; `adapted` what the similarity finds, where that is known.
    InputError as `search`, such as for k above the gallery.
    """
    known = [None] * len(queries.images) if partners is None else list(partners)
    targets = np.array([[partner or 0] for partner in known], dtype=np.int64).reshape(-1, 1)
    own = np.full(len(known), -1) if own is None else own
    by_frozen, by_adapted = _found_by_both(queries, gallery, k, targets, device, own, adapted)
    return [
        Query(
            image,
            _hits(by_frozen, row, gallery.images, partner),
            _hits(by_adapted, row, gallery.images, partner),
            direction,
            None if partner is None else gallery.images[partner],
            None if partner is None else int(by_frozen.partner_ranks[row]),
            None if partner is None else int(by_adapted.partner_ranks[row]),
        )
        for row, (image, partner) in enumerate(zip(queries.images, known, strict=True))
    ]


def _found_by_both(
    queries: Side,
    gallery: Side,
    k: int,
    targets: Indices,
    device: torch.device,
    own: Indices,
    adapted: Neighbours | None,
) -> tuple[Found, Found]:
    """Return what the frozen features and the similarity find; `targets` (Q, 1) are the partners' indices."""
    measures = [(queries.frozen, gallery.frozen), (queries.adapted, gallery.adapted)]
    nearest = [search_others(queries.frozen, gallery.frozen, k, device, own)]
    nearest.append(adapted or search_others(queries.adapted, gallery.adapted, k, device, own))
    ranks = [
        ranks_among_others(asked, among, np.hstack([other.indices, targets]), device, own)
        for (asked, among), other in zip(measures, reversed(nearest), strict=True)
    ]  # of what the other measure found, and of the partners
    return (
        Found(nearest[0], ranks[1][:, :-1], ranks[0][:, -1]),
        Found(nearest[1], ranks[0][:, :-1], ranks[1][:, -1]),
    )


def _hits(found: Found, row: int, images: Sequence[Image], partner: int | None) -> list[Hit]:
    """Return what was found for the query `row`, best first."""
    of_row = (found.nearest.indices[row], found.nearest.scores[row], found.other_ranks[row])
    return [
        Hit(images[index], rank, float(score), int(other_rank), index == partner)
        for rank, (index, score, other_rank) in enumerate(zip(*of_row, strict=True), start=1)
    ]
