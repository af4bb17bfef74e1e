"""From a features file to views x pairs x numbers: by name, never by position."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.data.pairs import Pairs, by_view, load_pairs, survey
from adaptation.data.splits import draw_split
from common.errors import InputError
from featuresExtractor.features import values
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from featuresExtractor.features.table import Embeddings

NAMES = [("b.jpg", "b.png"), ("a.jpg", "a.png"), ("c.jpg", "c.png")]
FILE = Path("features.npy")


def numbers(names: Sequence[tuple[str, str]], view: int) -> NDArray[np.float32]:
    """(n, 2, 4) numbers that tell which pair, side and view they are of."""
    codes = [[1000 * view + 10 * ord(left[0]) + side for side in (0, 1)] for left, _ in names]
    return np.array([[[code + number / 8 for number in range(4)] for code in sides] for sides in codes], np.float32)


def embeddings(*views: tuple[int, Sequence[tuple[str, str]]]) -> Embeddings:
    blocks = np.concatenate([numbers(names, view) for view, names in views])
    view = np.concatenate([np.full(len(names), view, np.uint8) for view, names in views])
    return Embeddings(blocks[:, 0], blocks[:, 1], [name for _, names in views for name in names], view)


def write(path: Path, names: Sequence[tuple[str, str]], views: int = 1) -> Path:
    row = row_type(("left", "right"), 4, 12)
    with FeaturesWriter(path, row, len(names), views) as writer:
        writer.put(0, [make_rows(row, names, numbers(names, view), view) for view in range(views)])
    return path


def csv_of(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["name", *lines]) + "\n", encoding="utf-8")
    return path


def expect(pairs: Pairs, names: Sequence[tuple[str, str]], views: int) -> None:
    assert pairs.names == list(names)
    assert pairs.left.dtype == pairs.right.dtype == torch.float32
    for view in range(views):
        assert torch.equal(pairs.left[view], torch.from_numpy(numbers(names, view)[:, 0]))
        assert torch.equal(pairs.right[view], torch.from_numpy(numbers(names, view)[:, 1]))
    assert len(pairs.left) == len(pairs.right) == views


def test_views_of_a_pair_are_put_together_by_name() -> None:
    other_order = [NAMES[2], NAMES[0], NAMES[1]]
    expect(by_view(embeddings((0, NAMES), (1, other_order)), FILE), sorted(NAMES), views=2)


def test_the_original_view_is_first_wherever_it_stands() -> None:
    expect(by_view(embeddings((1, NAMES), (0, NAMES)), FILE), sorted(NAMES), views=2)


def test_views_may_stand_row_by_row() -> None:
    mixed = [(view, [name]) for name in NAMES for view in (0, 1)]
    expect(by_view(embeddings(*mixed), FILE), sorted(NAMES), views=2)


def test_features_without_flips_are_one_view() -> None:
    # of an even number of rows too: nothing is taken for a flipped copy because of where it stands
    names = [*NAMES, ("d.jpg", "d.png")]
    expect(by_view(embeddings((0, names)), FILE), sorted(names), views=1)


def test_the_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    expect(load_pairs(write(tmp_path / "features.npy", NAMES, views=2)), sorted(NAMES), views=2)


def test_the_split_depends_on_names_and_not_on_rows(tmp_path: Path) -> None:
    names = [(f"{chr(97 + number)}.jpg", f"{chr(97 + number)}.png") for number in range(20)]
    shuffled = [names[index] for index in np.random.default_rng(0).permutation(20)]
    assert shuffled != names
    tested = []
    for file, order in (("one.npy", names), ("other.npy", shuffled)):
        pairs = load_pairs(write(tmp_path / file, order))
        tested.append(pairs.subset(draw_split(20, 0.25, seed=3).test))
    assert tested[0].names == tested[1].names
    assert torch.equal(tested[0].left, tested[1].left)


def test_a_subset_of_indices_keeps_names_and_numbers_together() -> None:
    pairs = by_view(embeddings((0, NAMES), (1, NAMES)), FILE)
    expect(pairs.subset(torch.tensor([0, 2])), [("a.jpg", "a.png"), ("c.jpg", "c.png")], views=2)
    assert len(pairs.subset(torch.tensor([1]))) == 1


def test_a_csv_chooses_pairs_by_stem(tmp_path: Path) -> None:
    subset = csv_of(tmp_path / "some.csv", "c.jpeg", "b", "c.jpg")
    pairs = load_pairs(write(tmp_path / "features.npy", NAMES, views=2), subset)
    expect(pairs, [("b.jpg", "b.png"), ("c.jpg", "c.png")], views=2)


def test_an_accent_may_be_composed_or_not(tmp_path: Path) -> None:
    subset = csv_of(tmp_path / "some.csv", unicodedata.normalize("NFD", "é.jpg"))
    pairs = load_pairs(write(tmp_path / "features.npy", [*NAMES, ("é.jpg", "é.png")]), subset)
    assert pairs.names == [("é.jpg", "é.png")]


def refused(given: Embeddings) -> str:
    with pytest.raises(InputError) as told:
        by_view(given, FILE)
    return str(told.value)


@pytest.mark.parametrize(
    "views",
    [
        [(0, NAMES), (1, NAMES[:2])],
        [(0, NAMES[:2]), (1, NAMES)],
        [(0, NAMES), (1, [*NAMES[:2], ("c.jpg", "d.png")])],
        [(1, NAMES)],
    ],
)
def test_views_of_different_pairs_are_refused(views: list[tuple[int, list[tuple[str, str]]]]) -> None:
    told = refused(embeddings(*views))
    assert told.startswith("features.npy: its views do not hold the same pairs (not in all of them: ")
    assert told.endswith("); extract it again, or give a pair the same name in all its views")


def test_a_pair_that_stands_there_twice_is_named() -> None:
    found = refused(embeddings((0, [*NAMES, NAMES[1]])))
    assert found == "features.npy: pairs that are in it twice: a.jpg / a.png; give each pair a name of its own, " + (
        "and second views of a pair a number in the field view"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_no_finite_number_is_refused(side: str, value: float) -> None:
    given = embeddings((0, NAMES), (1, NAMES))
    getattr(given, side)[-1, -1] = value
    place = f"c.jpg / c.png, {side}, view 1: {value} at index 3"
    assert (
        refused(given)
        == f"features.npy: {place}, not a finite number; replace or leave out its image and extract it again"
    )


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_nothing_is_refused(shape: tuple[int, int]) -> None:
    nothing = np.zeros(shape, np.float32)
    given = Embeddings(nothing, nothing, NAMES[: shape[0]], np.zeros(shape[0], np.uint8))
    assert refused(given) == "features.npy: holds no pairs, or no numbers for them; extract it again"


def test_a_flat_folders_features_are_refused(tmp_path: Path) -> None:
    path, row = tmp_path / "flat.npy", row_type(("features",), 4, 12)
    with FeaturesWriter(path, row, 2) as writer:
        writer.put(0, [make_rows(row, [("a.jpg",), ("b.jpg",)], np.zeros((2, 1, 4), np.float32), 0)])
    with pytest.raises(InputError) as told:
        load_pairs(path)
    assert (
        str(told.value) == f"{path}: features of a flat folder; training needs pairs (a folder with left/ and right/)"
    )


EXAMPLE = "'x.jpg' is wanted, and for example 'c.jpg' is there"


def test_names_that_no_pair_has_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "features.npy", NAMES)
    subset = csv_of(tmp_path / "some.csv", "a.jpg", "x.jpg", "y.jpg")
    with pytest.raises(InputError) as told:
        load_pairs(path, subset)
    missing = f"{subset}: 2 of its names are not in {path}"
    assert str(told.value) == f"{missing}: x.jpg, y.jpg ({EXAMPLE}); --on-error skip leaves them out"


def test_a_csv_of_other_names_alone_is_refused(tmp_path: Path) -> None:
    subset = csv_of(tmp_path / "some.csv", "x.jpg", "y.jpg")
    with pytest.raises(InputError) as told:
        load_pairs(write(tmp_path / "features.npy", NAMES), subset)
    assert str(told.value) == f"{subset}: none of its 2 names is among the 3 there; {EXAMPLE}"


# ---- looked through before it is loaded


def test_what_was_looked_through_is_what_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "features.npy", NAMES, views=2)
    found = survey(path)
    assert (found.names, found.views, found.width) == (sorted(NAMES), 2, 4)
    expect(found.load(), sorted(NAMES), views=2)
    subset = csv_of(tmp_path / "some.csv", "c.jpg", "b.jpg")
    chosen = survey(path, subset)
    assert chosen.names == [("b.jpg", "b.png"), ("c.jpg", "c.png")]
    expect(chosen.load(), chosen.names, views=2)


def test_the_fields_old_file_is_looked_through_too(tmp_path: Path) -> None:
    values = numbers(NAMES, 0)
    old = {"left": values[:, 0], "right": values[:, 1]}
    names = {f"{side}_name": [name[place] for name in NAMES] for place, side in enumerate(("left", "right"))}
    np.save(tmp_path / "old.npy", np.array({**old, **names}, dtype=object), allow_pickle=True)
    found = survey(tmp_path / "old.npy")
    assert (found.names, found.views, found.width) == (sorted(NAMES), 1, 4)
    expect(found.load(), sorted(NAMES), views=1)


@pytest.mark.parametrize(("names", "views"), [(NAMES[:2], 2), (NAMES, 1), ([*NAMES[:2], ("d.jpg", "d.png")], 2)])
def test_a_file_that_was_changed_since_is_refused(tmp_path: Path, names: Sequence[tuple[str, str]], views: int) -> None:
    found = survey(write(tmp_path / "features.npy", NAMES, views=2))
    write(tmp_path / "features.npy", names, views)
    with pytest.raises(InputError, match="was changed while it was worked on; start again"):
        found.load()


def test_another_number_in_a_file_of_the_same_size_is_a_change(tmp_path: Path) -> None:
    path = write(tmp_path / "features.npy", NAMES, views=2)
    found = survey(path)
    np.lib.format.open_memmap(path, "r+")["right"][-1, 3] += 1
    with pytest.raises(InputError) as told:
        found.load()
    assert str(told.value) == f"{path}: was changed while it was worked on; start again"


def test_the_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "features.npy", NAMES)
    assert survey(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("read", [load_pairs, survey])
def test_a_file_that_is_not_what_its_json_says_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = write(tmp_path / "features.npy", NAMES, views=2)
    path.with_suffix(".json").write_text(json.dumps({"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))
    read(path)
    np.lib.format.open_memmap(path, "r+")["left"][0, 0] += 1
    with pytest.raises(InputError, match=r"was changed or damaged since it was written \(its SHA-256 begins with "):
        read(path)


@pytest.mark.parametrize("chunk", [1, 2**26])
@pytest.mark.parametrize("row", [0, -1])
def test_every_value_is_looked_at(tmp_path: Path, row: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "CHUNK_BYTES", chunk)
    path = write(tmp_path / "features.npy", NAMES, views=2)
    survey(path)
    np.lib.format.open_memmap(path, "r+")["right"][row, 3] = np.inf
    with pytest.raises(InputError, match="inf at index 3, not a finite number"):
        survey(path)
