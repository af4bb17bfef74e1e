"""The journal of an unfinished extraction: what it keeps of what it reads, and which batches are left."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.storage.files import sha256
from featuresExtractor.backbones.inference import Drift
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from featuresExtractor.images.folders.dataset import Dataset, Skipped, find_images
from featuresExtractor.journal import Done, Journal, changed, left_to_do

BEGUN = {"model": "tiny", "views": ["original", "flipped"]}
PAIR = ("left", "right")


@pytest.fixture
def dataset(pairs: Callable[..., Path]) -> Dataset:
    return find_images(pairs(6))


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    """Two files that are written."""
    (tmp_path / "out").mkdir()
    return [tmp_path / "out" / name for name in ("a.npy", "b.npy")]


@contextmanager
def writers_of(outputs: Sequence[Path], again: bool = False) -> Iterator[list[FeaturesWriter]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FeaturesWriter(path, row_type(PAIR, 3, 9), 6, 2, True, again)) for path in outputs]


def batch(dataset: Dataset, writers: Sequence[FeaturesWriter], items: range, left_out: Sequence[int] = ()) -> Done:
    """Writes a batch of random numbers; what the journal is to say of it."""
    names = [[path.name for path in dataset.items[index]] for index in items]
    values = np.random.default_rng(items.start).normal(size=(2, len(items), 2, 3)).astype(np.float32)
    sums = []
    for writer in writers:
        sums.append(writer.put(items.start, [make_rows(writer.row, names, values[view], view) for view in range(2)]))
    states = [state for index in items for state in dataset.states[index]]
    return Done(items, states, list(left_out), [Skipped(f"left/a{index}.png", "bad") for index in left_out], sums)


@pytest.fixture
def begun(dataset: Dataset, outputs: list[Path]) -> Journal:
    """A journal of three batches, the middle one without an item, and no longer open."""
    journal = Journal(outputs)
    journal.begin(BEGUN, 4)
    with writers_of(outputs) as writers:
        for items, left_out in ((range(2), ()), (range(2, 4), (3,)), (range(4, 6), ())):
            journal.add(batch(dataset, writers, items, left_out))
    journal.close()
    return journal


def verified(outputs: list[Path], dataset: Dataset) -> list[range]:
    """The batches of the journal that hold."""
    journal = Journal(outputs)
    with writers_of(outputs, again=True) as writers:
        journal.verify(Dataset(dataset.root, dataset.sides, dataset.items), writers)
    return [done.items for done in journal.done]


# --- what is read back ---


def test_journal_stands_beside_the_first_file(begun: Journal, outputs: list[Path]) -> None:
    assert begun.path == outputs[0].with_name("a.partial.jsonl")
    assert sorted(path.name for path in begun.path.parent.iterdir()) == [
        "a.partial.jsonl",
        "a.partial.npy",
        "b.partial.npy",
    ]


def test_what_was_noted_is_read_back(begun: Journal, outputs: list[Path]) -> None:
    again = Journal(outputs)
    assert (again.begun, again.done, again.items) == (BEGUN, begun.done, 6)
    assert (again.drift, again.sealed) == (None, None)
    again.begin(BEGUN, 4)
    again.add_drift(drift := Drift("bf16", 2, 0.5, 0.75))
    outputs[1].with_name("b.closed.npy").touch()
    whole = [{"facts": {"é": 1}, "file": "a.partial.npy"}, {"facts": {}, "file": "b.closed.npy"}]
    again.seal(whole)
    again.close()
    last = Journal(outputs)
    assert (last.begun, last.done, last.drift) == (BEGUN, begun.done, drift)
    assert last.sealed == whole


def test_without_a_journal_there_is_nothing_to_go_on_with(outputs: list[Path]) -> None:
    journal = Journal(outputs)
    assert (journal.begun, journal.done, journal.sealed, journal.items) == (None, [], None, 0)
    journal.check(BEGUN, overwrite=False)


def test_every_line_is_on_the_disk_when_it_is_noted(dataset: Dataset, outputs: list[Path]) -> None:
    journal = Journal(outputs)
    journal.begin(BEGUN, 4)
    with writers_of(outputs) as writers:
        for number in range(3):
            journal.add(batch(dataset, writers, range(number, number + 1)))
            assert Journal(outputs).done == journal.done
    journal.close()


def test_last_line_that_was_cut_short_is_dropped_and_cut_off(begun: Journal, outputs: list[Path]) -> None:
    contents = begun.path.read_bytes()
    starts = [0, *(place + 1 for place, byte in enumerate(contents) if byte == ord("\n"))]
    for length in range(starts[1], len(contents)):
        begun.path.write_bytes(contents[:length])
        again = Journal(outputs)
        whole = max(start for start in starts if start <= length)
        assert again.done == begun.done[: starts.index(whole) - 1]
        with closing(again):
            again.begin(BEGUN, 4)
            assert begun.path.read_bytes() == contents[:whole]
            for done in begun.done[len(again.done) :]:
                again.add(done)
        assert begun.path.read_bytes() == contents


def test_journal_without_a_whole_first_line_is_begun_anew(begun: Journal, outputs: list[Path]) -> None:
    contents = begun.path.read_bytes()
    for length in (0, 1, contents.index(b"\n")):
        begun.path.write_bytes(contents[:length])
        again = Journal(outputs)
        assert (again.begun, again.done) == (None, [])
        with closing(again):
            again.begin(BEGUN, 4)
            assert begun.path.read_bytes() == contents[: contents.index(b"\n") + 1]


def test_journal_of_nothing_does_not_stay(outputs: list[Path]) -> None:
    with writers_of(outputs):
        journal = Journal(outputs)
        journal.begin(BEGUN, 4)
        assert journal.path.exists()
    journal.close()
    assert list(outputs[0].parent.iterdir()) == []


# --- links ---


@pytest.mark.parametrize("content", [b"mine", b""])
def test_link_in_the_place_of_the_journal_is_not_followed(content: bytes, outputs: list[Path], tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(content)
    path = outputs[0].with_name("a.partial.jsonl")
    path.symlink_to(mine)
    with closing(Journal(outputs)) as journal:
        assert journal.begun is None
        journal.begin(BEGUN, 4)
        assert mine.read_bytes() == content
        assert not path.is_symlink()


def test_journal_that_a_link_leads_to_is_not_gone_on_with(begun: Journal, outputs: list[Path], tmp_path: Path) -> None:
    begun.path.rename(tmp_path / "elsewhere.jsonl")
    begun.path.symlink_to(tmp_path / "elsewhere.jsonl")
    before = (tmp_path / "elsewhere.jsonl").read_bytes()
    again = Journal(outputs)
    assert (again.begun, again.done) == (None, [])
    again.remove()
    assert (tmp_path / "elsewhere.jsonl").read_bytes() == before


# --- other settings ---


def test_work_begun_with_other_settings_is_refused_by_name(begun: Journal, outputs: list[Path]) -> None:
    before = sorted((path.name, path.read_bytes()) for path in begun.path.parent.iterdir())
    with pytest.raises(InputError) as caught:
        Journal(outputs).check({**BEGUN, "model": "other", "precision": "bf16"}, overwrite=False)
    assert str(caught.value) == (
        f"{begun.path}: unfinished work of other settings is here (model: tiny there, other asked; "
        "precision: none there, bf16 asked); give the settings that it was begun with, or --overwrite to begin anew"
    )
    assert sorted((path.name, path.read_bytes()) for path in begun.path.parent.iterdir()) == before


def test_work_begun_with_other_settings_is_dropped_when_asked_for(begun: Journal, outputs: list[Path]) -> None:
    with closing(Journal(outputs)) as journal:
        journal.check({**BEGUN, "model": "other"}, overwrite=True)
        assert (journal.begun, journal.done, journal.items) == (None, [], 0)
        assert list(begun.path.parent.iterdir()) == []
        journal.begin({**BEGUN, "model": "other"}, 4)
        assert Journal(outputs).begun == {**BEGUN, "model": "other"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_work_begun_with_the_same_settings_is_gone_on_with(
    overwrite: bool, begun: Journal, outputs: list[Path]
) -> None:
    journal = Journal(outputs)
    journal.check({**BEGUN, "views": ("original", "flipped")}, overwrite)  # as JSON has it
    assert journal.done == begun.done


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
    path, row = outputs[file].with_name(f"{outputs[file].stem}.partial.npy"), row_type(PAIR, 3, 9)
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
    path = outputs[1].with_name("b.partial.npy")
    path.write_bytes(path.read_bytes()[:length])
    assert verified(outputs, dataset) == []


@pytest.mark.usefixtures("begun")
def test_batches_of_a_file_that_is_gone_are_done_again(outputs: list[Path], dataset: Dataset) -> None:
    outputs[1].with_name("b.partial.npy").unlink()
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
    begun: Journal, outputs: list[Path], dataset: Dataset
) -> None:
    dataset.items[2][0].write_bytes(b"changed")
    now = find_images(dataset.root)
    assert verified(outputs, now) == [range(2), range(4, 6)]
    journal = Journal(outputs)
    journal.begin(BEGUN, 4)
    with writers_of(outputs, again=True) as writers:
        for items in (range(2, 3), range(3, 4)):
            journal.add(batch(now, writers, items))
    journal.close()
    assert verified(outputs, now) == [range(2), range(2, 3), range(3, 4), range(4, 6)]
    assert len(begun.path.read_bytes().splitlines()) == 6


def line_of(done: Done, **other: Any) -> bytes:
    return json.dumps({**done.line(), **other}).encode() + b"\n"


WRONG = [
    {"items": [0, 7]},
    {"items": [-1, 1]},
    {"items": [1, 1]},
    {"items": [3, 1]},
    {"items": [0, 2, 2]},
    {"items": [2, 4]},  # of the states of another batch
    {"states": []},
    {"states": [[0, 0]] * 4},
    {"states": [["a", None]] * 4},
    {"sums": []},
    {"sums": [0, 0]},
    {"sums": "ab"},
    {"sums": None},
]


@pytest.mark.parametrize("other", WRONG, ids=str)
def test_line_of_a_batch_that_is_not_of_this_work_does_not_hold(
    other: dict[str, Any], begun: Journal, outputs: list[Path], dataset: Dataset
) -> None:
    first, *lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(b"".join([first, line_of(begun.done[0], **other), *lines[1:]]))
    assert verified(outputs, dataset) in ([], [range(2, 4), range(4, 6)])


NO_LINES = [
    b"\0" * 40,
    b"\xff\xfe",
    b"{",
    b"5",
    b"null",
    b"[]",
    b'"begun"',
    b"{}",
    b"[" * 100_000,
    b'{"items": 5}',
    b'{"items": [0, "b"], "states": [], "left_out": [], "faults": [], "sums": []}',
    b'{"items": [0, 2], "states": 3, "left_out": [], "faults": [], "sums": []}',
    b'{"items": [0, 2], "states": [[1]], "left_out": [], "faults": [], "sums": []}',
    b'{"items": [0, 2], "states": [], "left_out": [], "faults": [["a"]], "sums": []}',
    b'{"drift": 3}',
    b'{"drift": {"precision": "bf16", "images": "x", "lowest": 0, "mean": 0}}',
]


@pytest.mark.parametrize("line", NO_LINES, ids=range(len(NO_LINES)))
def test_line_of_a_stranger_ends_what_is_read(
    line: bytes, begun: Journal, outputs: list[Path], dataset: Dataset
) -> None:
    lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(b"".join([*lines[:2], line, b"\n", *lines[2:]]))
    assert verified(outputs, dataset) == [range(2)]
    with closing(Journal(outputs)) as again:
        again.begin(BEGUN, 4)
    assert begun.path.read_bytes() == b"".join(lines[:2])


STRANGE = [
    b'{"begun": 5}',
    b'{"begun": [1]}',
    b'{"drift": {"precision": "bf16", "images": Infinity, "lowest": 0, "mean": 0}}',
    b'{"items": [0, 1000000000000000000000], "states": [], "left_out": [], "faults": [], "sums": []}',
]


@pytest.mark.parametrize("line", STRANGE, ids=range(len(STRANGE)))
def test_values_of_a_wrong_type_do_not_end_the_program(
    line: bytes, begun: Journal, outputs: list[Path], dataset: Dataset
) -> None:
    first, *lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(b"".join([first, line, b"\n", *lines]))
    Journal(outputs).check(BEGUN, overwrite=False)
    assert verified(outputs, dataset) in ([], [range(2), range(2, 4), range(4, 6)])


@pytest.mark.parametrize("left_out", [None, "ab", 3, [7], ["a"], [-1]])
def test_batch_that_leaves_out_what_is_no_item_of_it_does_not_hold(
    left_out: object, begun: Journal, outputs: list[Path], dataset: Dataset
) -> None:
    first, _, *lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(b"".join([first, line_of(begun.done[0], left_out=left_out), *lines]))
    assert verified(outputs, dataset) in ([], [range(2, 4), range(4, 6)])


@pytest.mark.parametrize("first", [b"", b'{"begun": null}\n'])
def test_batches_without_a_beginning_are_none(first: bytes, begun: Journal, outputs: list[Path]) -> None:
    _, *lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(b"".join([first, *lines]))
    with closing(Journal(outputs)) as again:
        again.check(BEGUN, overwrite=False)
        again.begin(BEGUN, 4)
        assert again.done == []
        assert (
            begun.path.read_bytes()
            == json.dumps({"begun": BEGUN, "files": ["a.npy", "b.npy"], "batch": 4}).encode() + b"\n"
        )


@pytest.mark.parametrize("value", ["5", "[]", "[5]", "[{}, {}]", '[{"facts": {}, "file": "a.partial.npy"}]'])
def test_seal_of_other_files_is_none(value: str, begun: Journal, outputs: list[Path]) -> None:
    with begun.path.open("a") as file:
        file.write(f'{{"sealed": {value}}}\n')
    assert Journal(outputs).sealed is None


def test_batches_that_overlap_are_taken_once(begun: Journal, outputs: list[Path], dataset: Dataset) -> None:
    with writers_of(outputs, again=True) as writers:
        sums = [writer.checksum(range(1, 3)) for writer in writers]
    states = [state for index in (1, 2) for state in dataset.states[index]]
    across = Done(range(1, 3), states, [], [], sums)
    with begun.path.open("ab") as file:
        for done in (across, begun.done[2], begun.done[0]):
            file.write(line_of(done))
    assert verified(outputs, dataset) == [range(2), range(2, 4), range(4, 6)]
    lines = begun.path.read_bytes().splitlines(keepends=True)
    begun.path.write_bytes(lines[0] + lines[4])
    assert verified(outputs, dataset) == [range(1, 3)]  # which holds by itself


# --- names ---


def sealed(begun: Journal, outputs: list[Path]) -> Journal:
    """The journal with all files whole, one of them as a copy without what was left out."""
    outputs[1].with_name("b.closed.npy").write_bytes(b"closed")
    journal = Journal(outputs)
    journal.begin(BEGUN, 4)
    whole = ["a.partial.npy", "b.closed.npy"]
    journal.seal([{"facts": {"sha256": sha256(outputs[0].with_name(name))}, "file": name} for name in whole])
    journal.close()
    return Journal(outputs)


def test_sealed_files_get_their_names_and_the_journal_ends(begun: Journal, outputs: list[Path]) -> None:
    expected = outputs[0].with_name("a.partial.npy").read_bytes()
    sealed(begun, outputs).give_names()
    assert sorted(path.name for path in begun.path.parent.iterdir()) == ["a.json", "a.npy", "b.json", "b.npy"]
    assert outputs[0].read_bytes() == expected
    assert outputs[1].read_bytes() == b"closed"
    assert json.loads(outputs[0].with_suffix(".json").read_text()) == {"sha256": sha256(outputs[0])}


def test_seal_of_a_file_that_a_power_cut_took_is_none(begun: Journal, outputs: list[Path]) -> None:
    """What there is of the work stays, to be gone on with."""
    sealed(begun, outputs)
    outputs[1].with_name("b.closed.npy").unlink()
    journal = Journal(outputs)
    assert (journal.sealed, journal.items) == (None, 6)
    outputs[1].write_bytes(b"of before")
    assert Journal(outputs).sealed is None
    assert outputs[0].with_name("a.partial.npy").exists()


@pytest.mark.parametrize("steps", range(5))
def test_naming_that_was_cut_short_is_finished(
    steps: int, begun: Journal, outputs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the step at which it was: two `.json`, two names."""
    journal, taken = sealed(begun, outputs), 0
    expected, rename = outputs[0].with_name("a.partial.npy").read_bytes(), Path.replace

    def cut(path: Path, target: Path) -> Path:
        nonlocal taken
        if taken == steps:
            raise KeyboardInterrupt
        taken += 1
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut)
        if steps < 4:
            with pytest.raises(KeyboardInterrupt):
                journal.give_names()
            assert begun.path.exists()
            Journal(outputs)
    if steps < 4:
        Journal(outputs).give_names()
    else:
        journal.give_names()
    assert sorted(path.name for path in begun.path.parent.iterdir()) == ["a.json", "a.npy", "b.json", "b.npy"]
    assert (outputs[0].read_bytes(), outputs[1].read_bytes()) == (expected, b"closed")


# --- what is left ---


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 11, 64])
def test_without_an_interruption_all_is_left_in_parts_of_one_size(size: int) -> None:
    parts = left_to_do(10, size, [])
    assert [index for part in parts for index in part] == list(range(10))
    assert {len(part) for part in parts[:-1]} <= {size}
    assert len(parts[-1]) == 10 % size or size


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
def test_whatever_was_done_the_same_parts_are_left(size: int) -> None:
    parts = left_to_do(12, size, [])
    for chosen in range(2 ** len(parts)):
        done = [part for number, part in enumerate(parts) if chosen >> number & 1]
        assert left_to_do(12, size, done[::-1]) == [part for part in parts if part not in done]


def test_with_parts_of_another_size_every_item_is_left_once() -> None:
    assert left_to_do(10, 4, [range(2, 5), range(8, 9)]) == [range(2), range(5, 8), range(9, 10)]
    assert left_to_do(10, 2, [range(3)]) == [range(3, 5), range(5, 7), range(7, 9), range(9, 10)]
    assert left_to_do(0, 4, []) == left_to_do(3, 4, [range(3)]) == []


def test_changed_images_are_named_with_their_items(dataset: Dataset) -> None:
    states = [state for item in dataset.states for state in item]
    first, last = Done(range(3), states[:6], [1], [], []), Done(range(3, 6), states[6:], [], [], [])
    assert changed(dataset, first) == changed(dataset, last) == []
    dataset.items[0][1].unlink()
    dataset.items[1][1].unlink()
    os.utime(dataset.items[5][0], ns=(0, 0))
    assert changed(dataset, first) == [(0, "right/a0.png"), (1, "right/a1.png")]
    assert changed(dataset, last) == [(5, "left/a5.png")]
