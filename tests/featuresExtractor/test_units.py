"""The units of an extraction: what is recorded of them, which of them hold, and which are missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.storage.staging import UNITS, Staging
from featuresExtractor import units as units_module
from featuresExtractor.backbones.drift import Drift
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped, find_images
from featuresExtractor.units import Unit, changed, missing_units, recorded_units

PAIR = ("left", "right")


@pytest.fixture
def dataset(pairs: Callable[..., Path]) -> Dataset:
    return find_images(pairs(6))


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    """Two files that are written."""
    return [tmp_path / "out" / ".unfinished" / name for name in ("a.npy", "b.npy")]


@contextmanager
def writers_of(outputs: Sequence[Path], resume: bool = False) -> Iterator[list[FeaturesWriter]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FeaturesWriter(path, row_type(PAIR, 3, 9), 6, 2, resume)) for path in outputs]


def batch(dataset: Dataset, writers: Sequence[FeaturesWriter], items: range, left_out: Sequence[int] = ()) -> Unit:
    """Writes a batch of random numbers; what is to be recorded of it."""
    names = [[path.name for path in dataset.items[index]] for index in items]
    values = np.random.default_rng(items.start).normal(size=(2, len(items), 2, 3)).astype(np.float32)
    sums = []
    for writer in writers:
        sums.append(writer.put(items.start, [make_rows(writer.row, names, values[view], view) for view in range(2)]))
    states = [state for index in items for state in dataset.states[index]]
    return Unit(items, states, list(left_out), [Skipped(f"left/a{index}.png", "bad") for index in left_out], sums)


@pytest.fixture
def begun(dataset: Dataset, outputs: list[Path]) -> Staging:
    """Unfinished work of three units, the middle one without an item."""
    staging = Staging(outputs[0].parents[1])
    staging.begin({"model": "tiny"}, overwrite=False)
    with writers_of(outputs) as writers:
        for items, left_out in ((range(2), ()), (range(2, 4), (3,)), (range(4, 6), ())):
            add(staging, batch(dataset, writers, items, left_out))
    return staging


def add(staging: Staging, unit: Unit, **other: Any) -> None:
    staging.add(unit.key, {**unit.record(), **other})


def verified(outputs: list[Path], dataset: Dataset) -> list[range]:
    """The units that hold."""
    with writers_of(outputs, resume=True) as writers:
        fresh = Dataset(dataset.root, dataset.sides, dataset.items)
        units = units_module.verified(recorded_units(Staging(outputs[0].parents[1])), fresh, writers)
    return [unit.items for unit in units]


# --- what is recorded ---


def test_what_was_recorded_is_read_back(begun: Staging, outputs: list[Path]) -> None:
    units = recorded_units(Staging(outputs[0].parents[1]))
    assert [unit.key for unit in units] == list(begun.units) == ["0-2", "2-4", "4-6"]
    assert (units[1].left_out, units[1].faults) == ([3], [Skipped("left/a3.png", "bad")])
    whole = Unit(range(6, 8), [], [], [], [7], [Remark("left/é.png", "odd")], Drift("bf16", 2, 0.5, 0.75))
    add(begun, whole)
    assert recorded_units(Staging(outputs[0].parents[1])) == [*units, whole]


# --- what is done again ---


@pytest.mark.usefixtures("begun")
def test_batches_that_are_as_they_were_hold(outputs: list[Path], dataset: Dataset) -> None:
    assert verified(outputs, dataset) == [range(2), range(2, 4), range(4, 6)]


@pytest.mark.parametrize("file", [0, 1])
@pytest.mark.parametrize(("item", "view"), [(0, 0), (1, 1), (2, 1), (5, 0)])
@pytest.mark.usefixtures("begun")
def test_batch_of_a_changed_byte_in_any_file_is_done_again(
    item: int, view: int, file: int, outputs: list[Path], dataset: Dataset
) -> None:
    path, row = outputs[file], row_type(PAIR, 3, 9)
    contents = bytearray(path.read_bytes())
    contents[len(contents) - (12 - 6 * view - item) * row.itemsize] ^= 1
    path.write_bytes(contents)
    good = [items for items in (range(2), range(2, 4), range(4, 6)) if item not in items]
    assert verified(outputs, dataset) == good


@pytest.mark.parametrize("length", [0, 100, 500])
@pytest.mark.usefixtures("begun")
def test_batches_of_a_file_that_a_power_cut_left_short_are_done_again(
    length: int, outputs: list[Path], dataset: Dataset
) -> None:
    path = outputs[1].with_name("b.npy")
    path.write_bytes(path.read_bytes()[:length])
    assert verified(outputs, dataset) == []


@pytest.mark.usefixtures("begun")
def test_batches_of_a_file_that_is_gone_are_done_again(outputs: list[Path], dataset: Dataset) -> None:
    outputs[1].with_name("b.npy").unlink()
    assert verified(outputs, dataset) == []


@pytest.mark.usefixtures("begun")
def test_batch_of_an_image_that_changed_or_vanished_is_done_again(outputs: list[Path], dataset: Dataset) -> None:
    os.utime(dataset.items[0][1], ns=(0, 0))
    dataset.items[5][0].unlink()
    assert verified(outputs, dataset) == [range(2, 4)]


@pytest.mark.usefixtures("begun")
def test_batch_of_a_left_out_image_that_was_mended_is_done_again(outputs: list[Path], dataset: Dataset) -> None:
    dataset.items[3][0].write_bytes(b"mended")
    assert verified(outputs, dataset) == [range(2), range(4, 6)]


def test_batch_that_was_done_again_holds_beside_the_line_that_no_longer_does(
    begun: Staging, outputs: list[Path], dataset: Dataset
) -> None:
    dataset.items[2][0].write_bytes(b"changed")
    now = find_images(dataset.root)
    assert verified(outputs, now) == [range(2), range(4, 6)]
    with writers_of(outputs, resume=True) as writers:
        for items in (range(2, 3), range(3, 4)):
            add(begun, batch(now, writers, items))
    assert verified(outputs, now) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
    assert len(begun.units) == 5


WRONG = [
    {"items": [0, 7]},
    {"items": [-1, 1]},
    {"items": [1, 1]},
    {"items": [3, 1]},
    {"items": [0, 2, 2]},
    {"items": [2, 4]},  # of the states of another batch
    {"items": 5},
    {"items": [0, "b"]},
    {"items": [0, 10**21]},
    {"states": []},
    {"states": 3},
    {"states": [[1]]},
    {"states": [[0, 0]] * 4},
    {"states": [["a", None]] * 4},
    {"states": [["INF", 0]] * 4},
    {"sums": []},
    {"sums": [0, 0]},
    {"sums": "ab"},
    {"sums": None},
    {"faults": [["a"]]},
    {"remarks": 3},
    {"drift": 3},
    {"drift": {"precision": "bf16", "images": "x", "lowest": 0, "mean": 0}},
    {"drift": {"precision": "bf16", "images": "INF", "lowest": 0, "mean": 0}},
    *({"left_out": left_out} for left_out in (None, "ab", 3, [7], ["a"], [-1])),
]


@pytest.mark.parametrize("other", WRONG, ids=str)
def test_record_of_a_batch_that_is_not_of_this_work_does_not_hold(
    other: dict[str, Any], begun: Staging, outputs: list[Path], dataset: Dataset
) -> None:
    unit = recorded_units(begun)[0]
    add(begun, unit, **other)
    journal = begun.path / UNITS
    journal.write_bytes(journal.read_bytes().replace(b'"INF"', b"1e999"))  # which Python reads as infinite
    assert verified(outputs, dataset) == [range(2, 4), range(4, 6)]
    add(begun, unit)
    assert verified(outputs, dataset) == [range(2), range(2, 4), range(4, 6)]


def test_records_of_other_things_are_no_units(begun: Staging, outputs: list[Path], dataset: Dataset) -> None:
    begun.add("sealed", {"a.npy": "a.npy"})
    begun.add("0-2", {})
    assert verified(outputs, dataset) == [range(2, 4), range(4, 6)]


def test_batches_that_overlap_are_taken_once(begun: Staging, outputs: list[Path], dataset: Dataset) -> None:
    with writers_of(outputs, resume=True) as writers:
        sums = [writer.checksum(range(1, 3)) for writer in writers]
    states = [state for index in (1, 2) for state in dataset.states[index]]
    across = Unit(range(1, 3), states, [], [], sums)
    add(begun, across)
    assert verified(outputs, dataset) == [range(2), range(2, 4), range(4, 6)]
    for key in ("0-2", "2-4", "4-6"):
        begun.add(key, {})
    assert verified(outputs, dataset) == [range(1, 3)]  # which holds by itself


# --- what is left ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 11, 64])
def test_without_an_interruption_all_is_left_in_parts_of_one_size(size: int) -> None:
    parts = missing_units(10, size, [])
    assert [index for part in parts for index in part] == list(range(10))
    assert {len(part) for part in parts[:-1]} <= {size}
    assert len(parts[-1]) == 10 % size or size


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
def test_whatever_was_done_the_same_parts_are_left(size: int) -> None:
    parts = missing_units(12, size, [])
    for chosen in range(2 ** len(parts)):
        done = [part for number, part in enumerate(parts) if chosen >> number & 1]
        assert missing_units(12, size, done[::-1]) == [part for part in parts if part not in done]


def test_with_parts_of_another_size_every_item_is_left_once() -> None:
    assert missing_units(10, 4, [range(2, 5), range(8, 9)]) == [range(2), range(5, 8), range(9, 10)]
    assert missing_units(10, 2, [range(3)]) == [range(3, 5), range(5, 7), range(7, 9), range(9, 10)]
    assert missing_units(0, 4, []) == missing_units(3, 4, [range(3)]) == []


def test_changed_images_are_named_with_their_items(dataset: Dataset) -> None:
    states = [state for item in dataset.states for state in item]
    first, last = Unit(range(3), states[:6], [1], [], []), Unit(range(3, 6), states[6:], [], [], [])
    assert changed(dataset, first) == changed(dataset, last) == []
    dataset.items[0][1].unlink()
    dataset.items[1][1].unlink()
    os.utime(dataset.items[5][0], ns=(0, 0))
    assert changed(dataset, first) == [(0, "right/a0.png"), (1, "right/a1.png")]
    assert changed(dataset, last) == [(5, "left/a5.png")]
