"""A features file from anyone's arrays: written so that it is read as it was given, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptation.data.pairs import load_pairs
from common.errors import InputError
from featuresExtractor.features.features_file import open_features
from featuresExtractor.features.reader import read_pairs
from featuresExtractor.features.writing import write_pairs

N, D = 8, 5
LEFT, RIGHT = np.random.default_rng(0).normal(size=(2, N, D)).astype(np.float32)
NAMES = [f"é{number}.jpg" for number in range(N)]


def refused(path: Path | str, *given: Any, **named: Any) -> str:
    with pytest.raises(InputError) as raised:
        write_pairs(path, *given, **named)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("path", [str, Path])
def test_what_was_written_is_what_training_reads(kind: Any, path: Any, tmp_path: Path) -> None:
    write_pairs(path(tmp_path / "f.npy"), LEFT.astype(kind), RIGHT.astype(kind), NAMES)
    pairs = load_pairs(path(tmp_path / "f.npy"))
    assert pairs.names == [(name, name) for name in sorted(NAMES)]
    assert np.array_equal(pairs.left[0].numpy(), LEFT.astype(kind).astype(np.float32))
    assert np.array_equal(pairs.right[0].numpy(), RIGHT.astype(kind).astype(np.float32))
    assert pairs.left.dtype == torch.float32
    assert open_features(tmp_path / "f.npy").count == N  # this project's own rows


def test_views_go_under_their_originals(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(2 * N)
    left, right = np.concatenate([LEFT, -LEFT])[order], np.concatenate([RIGHT, -RIGHT])[order]
    names, views = np.array(NAMES * 2)[order], np.repeat([0, 1], N)[order]
    write_pairs(tmp_path / "f.npy", left, right, names.tolist(), views)
    table = np.load(tmp_path / "f.npy")
    assert table["view"].tolist() == [0] * N + [1] * N  # originals first
    pairs = load_pairs(tmp_path / "f.npy")
    assert np.array_equal(pairs.left.numpy(), np.stack([LEFT, -LEFT]))
    assert np.array_equal(pairs.right.numpy(), np.stack([RIGHT, -RIGHT]))


def test_each_side_may_have_its_own_names(tmp_path: Path) -> None:
    names = [(name, f"right of {name}") for name in NAMES]
    write_pairs(tmp_path / "f.npy", LEFT, RIGHT, names)
    assert read_pairs(tmp_path / "f.npy").names == names


@pytest.mark.parametrize("views", [None, [0] * 4 + [1] * 4, [0, 1] * 4])
def test_without_names_rows_are_numbered_in_each_view(views: Any, tmp_path: Path) -> None:
    write_pairs(tmp_path / "f.npy", LEFT, RIGHT, views=views)
    pairs = load_pairs(tmp_path / "f.npy")
    places = (
        [list(range(N))] if views is None else [np.flatnonzero(np.array(views) == view).tolist() for view in (0, 1)]
    )
    assert [name for name, _ in pairs.names] == [f"row{number:06d}" for number in range(1, len(places[0]) + 1)]
    assert np.array_equal(pairs.left.numpy(), np.stack([LEFT[rows] for rows in places]))


def test_tensors_are_arrays(tmp_path: Path) -> None:
    write_pairs(tmp_path / "f.npy", torch.from_numpy(LEFT), torch.from_numpy(RIGHT), NAMES)  # type: ignore[arg-type]
    assert np.array_equal(read_pairs(tmp_path / "f.npy").left, LEFT)


def test_a_file_is_replaced_unless_it_is_of_an_extraction(tmp_path: Path) -> None:
    for left in (LEFT, -LEFT):
        write_pairs(tmp_path / "f.npy", left, RIGHT, NAMES)
    assert np.array_equal(read_pairs(tmp_path / "f.npy").left, -LEFT)
    (tmp_path / "f.json").write_text("{}")
    assert refused(tmp_path / "f.npy", LEFT, RIGHT, NAMES).startswith("f.json beside it is of a file that extract.py")


HALF = NAMES[:4]
NAN = LEFT.copy()
NAN[3, 2] = np.nan


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [
        ((LEFT, RIGHT[:-1], NAMES), {}, "left is (8, 5) and right (7, 5)"),
        ((LEFT.astype(int), RIGHT, NAMES), {}, "field left: int64, shape (8, 5); float16, float32 or float64"),
        ((LEFT[0], RIGHT[0], NAMES), {}, "field left: float32, shape (5,)"),
        ((LEFT[:0], RIGHT[:0], []), {}, "holds no pairs"),
        ((NAN, RIGHT, NAMES), {}, "é3.jpg, left, view 0: nan at index 2, not a finite number"),
        ((LEFT, np.ones_like(RIGHT), NAMES), {}, "the right vectors are all alike"),
        ((LEFT, RIGHT, NAMES[:-1]), {}, "field name: list of 7 str; 8 names are expected"),
        ((LEFT, RIGHT, list(range(N))), {}, "names: a text for each row is expected"),
        ((LEFT, RIGHT, [*NAMES[:-1], NAMES[0]]), {}, "pairs that are in it twice: é0.jpg / é0.jpg"),
        ((LEFT, RIGHT, NAMES), {"views": [0] * 7 + [1]}, "its views do not hold the same pairs"),
        ((LEFT, RIGHT, NAMES), {"views": [0.0] * N}, "field view: float64, shape (8,)"),
        ((LEFT, RIGHT, list(zip(NAMES, NAMES[::-1], strict=True))), {}, "the names pair other rows"),
        (
            (LEFT, RIGHT, HALF + [f"flip_{name}" for name in HALF]),
            {},
            "4 of 8 names differ from another only by 'flip_'",
        ),
        ((LEFT, RIGHT, HALF + [f"augmented_{name}" for name in HALF]), {}, "some names begin with augmented_; pass "),
    ],
)
def test_arrays_that_are_no_pairs_are_refused(given: Any, named: Any, expected: str, tmp_path: Path) -> None:
    assert refused(tmp_path / "f.npy", *given, **named).startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_the_suffix_of_arrays(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "f.npz"), LEFT, RIGHT) == "the name of a features file ends with .npy"


def test_names_of_few_views_are_warned_of(tmp_path: Path) -> None:
    names = [*NAMES[:6], f"flip_{NAMES[0]}", f"flip_{NAMES[1]}"]
    with pytest.warns(UserWarning, match="2 of 8 names differ from another only by 'flip_' in front"):
        write_pairs(tmp_path / "f.npy", LEFT, RIGHT, names)
    write_pairs(tmp_path / "g.npy", LEFT, RIGHT, names, views=[0] * N)  # it was said
