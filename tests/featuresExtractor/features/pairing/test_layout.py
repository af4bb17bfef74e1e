"""Which rows make a pair, and which are views of one: names decide, wherever the rows stand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from featuresExtractor.features.pairing.layout import Layout, in_memory, lay_out
from featuresExtractor.features.table import Table

FILE = Path("f.npy")
N = 12
NAMES = [f"{number:03d}.jpg" for number in range(N)]


def meaning(name: str) -> int:
    """What the number of a row stands for: the pair that its name is of."""
    return int("".join(char for char in name.rpartition("/")[2] if char.isdigit()))


def table(left: Sequence[str], right: Sequence[str], view: Sequence[int] | None = None) -> Table:
    """A row's number is that of its pair; rows of the right side have .5 behind it."""
    numbers = [np.array([[meaning(name) + side] for name in names]) for side, names in ((0, left), (0.5, right))]
    views = None if view is None else np.array(view, np.uint8)
    return Table(numbers[0], numbers[1], list(zip(left, right, strict=True)), views)


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    return random.Random(seed).sample(list(names), len(names))


def laid_out(given: Table) -> Layout:
    """The layout, whose pairs are checked by the numbers: each row is of the pair that it is put to."""
    layout = lay_out(given, FILE)
    assert layout.names == sorted(layout.names)
    expected = [meaning(left) for left, _ in layout.names]
    assert len(set(expected)) == len(expected)
    for left, right in zip(layout.left, layout.right, strict=True):
        assert given.left[left, 0].tolist() == expected
        assert (given.right[right, 0] - 0.5).tolist() == expected
    rows = [sorted(side.ravel().tolist()) for side in (layout.left, layout.right)]
    assert rows == [list(range(len(given.names)))] * 2
    return layout


def refused(given: Table) -> str:
    with pytest.raises(InputError) as raised:
        lay_out(given, FILE)
    text = str(raised.value)
    assert text.startswith("f.npy: ")
    assert text.isprintable()
    return text.removeprefix("f.npy: ")


# ---- partners


def same(name: str) -> str:
    return name


def png(name: str) -> str:
    return name.replace(".jpg", ".png")


def bare(name: str) -> str:
    return name.replace(".jpg", "")


def folder(name: str) -> str:
    return f"photos/right/{name}"


def windows(name: str) -> str:
    return f"C:\\photos\\right\\{name}"


@pytest.mark.parametrize("view", [None, [0] * N])
@pytest.mark.parametrize("other", [same, png, bare, folder, windows])
def test_rows_in_any_order_are_paired_by_name(other: Callable[[str], str], view: list[int] | None) -> None:
    left, right = shuffled(NAMES, 1), [other(name) for name in shuffled(NAMES, 2)]
    layout = laid_out(table(left, right, view))
    moved = sum(meaning(one) != meaning(two) for one, two in zip(left, right, strict=True))
    assert layout.notes == (f"note: f.npy: {moved} of {N} rows are in another order on the right; paired by name",)
    assert layout.names == sorted((name, other(name)) for name in NAMES)


@pytest.mark.parametrize("other", [same, png, bare, folder, windows])
def test_rows_in_order_are_paired_without_a_word(other: Callable[[str], str]) -> None:
    assert laid_out(table(NAMES, [other(name) for name in NAMES])).notes == ()


@pytest.mark.parametrize("shuffle", [False, True])
def test_folders_below_those_of_the_sides_are_part_of_a_name(shuffle: bool) -> None:
    inner = [f"{kind}/{number}.jpg" for kind in ("cats", "dogs") for number in range(3)]
    left, right = [f"all/left/{name}" for name in inner], [f"all/right/{name}" for name in inner]
    right = shuffled(right, 1) if shuffle else right
    numbers = [np.array([[inner.index(name.split("/", 2)[2])] for name in names], float) for names in (left, right)]
    given = Table(numbers[0], numbers[1], list(zip(left, right, strict=True)), None)
    layout = lay_out(given, FILE)
    assert np.array_equal(given.left[layout.left], given.right[layout.right])
    assert not any(note.startswith("warning") for note in layout.notes)


def test_each_view_is_paired_by_itself() -> None:
    left, right = shuffled(NAMES, 1) + shuffled(NAMES, 2), shuffled(NAMES, 3) + shuffled(NAMES, 4)
    layout = laid_out(table(left, right, [0] * N + [1] * N))
    assert layout.left[0].max() < N <= layout.left[1].min()
    assert layout.right[0].max() < N <= layout.right[1].min()
    assert len(layout.notes) == 1


def test_full_names_come_before_names_without_suffix() -> None:
    layout = lay_out(table(["1.jpg", "1.png"], ["1.png", "1.jpg"], [0, 0]), FILE)
    assert layout.names == [("1.jpg", "1.jpg"), ("1.png", "1.png")]
    assert (layout.left.tolist(), layout.right.tolist()) == ([[0, 1]], [[1, 0]])


@pytest.mark.parametrize(
    ("left", "right", "count", "shown", "elsewhere"),
    [
        (["1.jpg", "2.jpg", "3.jpg"], ["4.jpg", "5.jpg", "6.jpg"], 3, "1.jpg beside 4.jpg; 2.jpg beside 5.jpg", 0),
        (["1.jpg", "2.jpg", "3.jpg"], ["1.jpg", "7.jpg", "3.jpg"], 1, "2.jpg beside 7.jpg", 0),
        (["1.jpg", "2.jpg", "3.jpg"], ["2.jpg", "1.jpg", "9.jpg"], 3, "1.jpg beside 2.jpg; 2.jpg beside 1.jpg", 2),
        (["1.jpg", "1.png", "3.jpg"], ["1.tif", "1.bmp", "3.jpg"], 2, "1.jpg beside 1.tif; 1.png beside 1.bmp", 0),
    ],
)
def test_names_that_tell_no_partners_are_counted_and_rows_stay_as_they_are(
    left: list[str], right: list[str], count: int, shown: str, elsewhere: int
) -> None:
    layout = lay_out(table(left, right, [0] * 3), FILE)
    assert np.array_equal(layout.left, layout.right)
    assert sorted(layout.names) == sorted(zip(left, right, strict=True))
    (warning,) = layout.notes
    assert warning.startswith(f"warning: f.npy: {count} of 3 rows have different names")
    assert f"({shown})" in warning
    assert (f"although {elsewhere} names are in another row" in warning) == (elsewhere > 0)


def test_one_image_may_be_in_several_pairs_where_the_file_says_that_rows_are_originals() -> None:
    left, right = ["1.jpg", "1.jpg", "2.jpg"], ["1.jpg", "3.jpg", "3.jpg"]
    layout = lay_out(table(left, right, [0, 0, 0]), FILE)
    assert layout.names == [("1.jpg", "1.jpg"), ("1.jpg", "3.jpg"), ("2.jpg", "3.jpg")]
    assert np.array_equal(layout.left, layout.right)


# ---- second views, in files without a field that says it


def views(left: Sequence[str], right: Sequence[str]) -> Layout:
    return laid_out(table(left, right))


AUGMENTED = [f"augmented_{name}" for name in NAMES]


def halves(first: int, second: int) -> list[str]:
    return shuffled(NAMES, first) + shuffled(AUGMENTED, second)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (NAMES + AUGMENTED, NAMES + AUGMENTED),
        (halves(1, 1), halves(1, 1)),
        (halves(1, 2), halves(3, 4)),  # os.listdir gave each its own order
        (shuffled(NAMES + AUGMENTED, 1), shuffled(NAMES + AUGMENTED, 2)),
        (NAMES + AUGMENTED, [png(name) for name in NAMES + AUGMENTED]),
        ([f"left/{name}" for name in NAMES + AUGMENTED], [f"right/{name}" for name in halves(1, 2)]),
        (NAMES + [png(name) for name in AUGMENTED], NAMES + [png(name) for name in AUGMENTED]),
    ],
)
def test_augmented_names_are_second_views(left: list[str], right: list[str]) -> None:
    layout = views(left, right)
    assert len(layout.names) == N
    flags = ["augmented_" in name for name in left], ["augmented_" in name for name in right]
    for rows, flag in zip((layout.left, layout.right), flags, strict=True):
        assert [flag[row] for row in rows[0]] == [False] * N
        assert [flag[row] for row in rows[1]] == [True] * N
    assert f"note: f.npy: {N} rows called augmented_NAME are taken as second views of NAME" in layout.notes
    assert not any("augmented_" in side for name in layout.names for side in name)


@pytest.mark.parametrize("side", [0, 1])
def test_augmented_names_of_one_side_are_second_views_too(side: int) -> None:
    names = [NAMES + NAMES, NAMES + NAMES]
    names[side] = NAMES + AUGMENTED
    layout = lay_out(table(names[0], names[1]), FILE)
    assert layout.left.tolist() == layout.right.tolist() == [list(range(N)), list(range(N, 2 * N))]
    assert layout.notes[0].startswith("warning: ")


@pytest.mark.parametrize(
    ("names", "odd"),
    [(NAMES + AUGMENTED[1:], "000.jpg"), (NAMES[:-1] + AUGMENTED, NAMES[-1]), (NAMES + AUGMENTED[:1], "001.jpg")],
)
def test_augmented_views_of_some_pairs_alone_are_refused(names: list[str], odd: str) -> None:
    message = refused(table(names, names))
    assert message.startswith("rows called augmented_NAME are the second views of NAME, but ")
    assert f"such as {odd}. Add a field view" in message


def test_images_that_are_all_called_augmented_are_no_views() -> None:
    assert views(AUGMENTED, AUGMENTED).names == [(name, name) for name in AUGMENTED]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (NAMES * 2, NAMES * 2),
        (shuffled(NAMES, 1) + shuffled(NAMES, 2), shuffled(NAMES, 1) + shuffled(NAMES, 2)),
        ([name for name in NAMES for _ in range(2)], [name for name in NAMES for _ in range(2)]),
        (NAMES * 2, [png(name) for name in NAMES] * 2),
        (shuffled(NAMES, 1) * 2, shuffled(NAMES, 2) * 2),  # os.listdir gave each side its own order
        (NAMES * 3, NAMES * 3),
    ],
)
def test_names_that_appear_equally_often_are_views_in_the_order_of_their_rows(
    left: list[str], right: list[str]
) -> None:
    layout, times = views(left, right), len(left) // N
    assert layout.left.shape == (times, N)
    assert f"note: f.npy: each pair's names appear {times} times; taken as {times} views of one pair" in layout.notes
    for column in range(N):
        assert layout.left[:, column].tolist() == sorted(layout.left[:, column])


@pytest.mark.parametrize("names", [[*NAMES, NAMES[1]], NAMES * 2 + NAMES[:1]])
def test_names_that_appear_unequally_often_are_refused(names: list[str]) -> None:
    assert refused(table(names, names)).startswith(
        "pairs that are in it twice: 001.jpg / 001.jpg" if len(names) == N + 1 else "pairs"
    )


def test_a_view_that_the_file_says_is_believed() -> None:
    layout = laid_out(table(NAMES + NAMES, NAMES + NAMES, [0] * N + [1] * N))
    assert (layout.left.shape, layout.notes) == ((2, N), ())
    flips = [f"flip_{name}" for name in NAMES]
    names = NAMES + flips
    assert len(lay_out(table(names, names, [0] * 2 * N), FILE).names) == 2 * N


def test_halves_in_different_orders_on_both_sides_are_not_guessed() -> None:
    left, right = shuffled(NAMES, 1) + shuffled(NAMES, 2), shuffled(NAMES, 3) + shuffled(NAMES, 4)
    message = refused(table(left, right))
    assert message.startswith("each name appears 2 times or more on both sides, beside different names (")
    assert "Add a field view" in message


def test_pairs_of_other_names_in_the_second_half_are_pairs() -> None:
    layout = lay_out(table(["1", "2", "1", "2"], ["3", "4", "4", "3"]), FILE)
    assert len(layout.names) == 4
    assert len(layout.left) == 1


# ---- in memory


def test_pairs_in_memory_keep_the_order_of_the_left_rows() -> None:
    left, right = shuffled(NAMES, 1), shuffled(NAMES, 2)
    actual = in_memory(table(left * 2, right * 2, [0] * N + [1] * N), FILE)
    assert actual.names == [(name, name) for name in left] * 2
    assert actual.left[:, 0].tolist() == [meaning(name) for name in left] * 2
    assert np.array_equal(actual.right, actual.left + 0.5)
    assert actual.left.dtype == actual.right.dtype == np.float32
    assert actual.view.tolist() == [0] * N + [1] * N
