"""Images checked by their headers, and read ahead by threads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images import loader as reading
from featuresExtractor.images.decode import decode_image
from featuresExtractor.images.folders.dataset import Dataset, Skipped, find_images
from featuresExtractor.images.folders.scan import OUTSIDE
from featuresExtractor.images.loader import Batch, check_images, read_batches, read_item, without
from featuresExtractor.images.settings import Decoding
from featuresExtractor.transforms import Preprocessing
from featuresExtractor.units import missing_units

SMALL = Preprocessing(12, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NO_FORMAT = "not an image in a format that is known here"


# --- the check before ---


def named(dataset: Dataset, workers: int = 2, links: bool = False) -> dict[str, str]:
    """What the check finds, in its order."""
    return {fault.name: fault.reason for fault in check_images(dataset, SMALL, workers, links)}


@pytest.mark.parametrize("workers", [1, 4])
def test_check_names_every_fault_in_order(
    workers: int, image: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "d"
    for name in ("b.jpg", "d.jpg", "f.png", "m.webp"):
        image(root / name, (330, 210))
    monkeypatch.chdir(root)  # the name of a socket must be short
    monkeypatch.setattr(reading, "CHECKED", 2)
    Path("a.png").touch()
    Path("c.png").mkdir()
    Path("d.jpg").write_bytes(Path("d.jpg").read_bytes()[:-900])
    os.mkfifo("e.png")
    Path("f.png").write_bytes(Path("f.png").read_bytes()[:-900])
    Path("g.png").symlink_to("gone.png")
    Path("h.png").write_text("no image")
    Path("i.png").write_bytes(b"P6 3000000 1 255\n")
    Path("j.png").write_bytes(b"P6 20000 20000 255\n")
    Image.new("RGB", (1, 1)).save("k.png")
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save("l.gif", save_all=True, append_images=frames[1:])
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("n.png")
        actual = named(find_images(root), workers)
    assert [name[0] for name in actual] == list("acdefghijn")
    cut = {name: actual.pop(name) for name in ("d.jpg", "f.png")}
    assert all("truncated" in reason for reason in cut.values())
    assert actual.pop("j.png").startswith(
        "20000 x 20000 pixels are more than the 178,956,970 that are read; --max-pixels"
    )
    assert actual.pop("i.png").startswith("3000000 x 1 pixels are too narrow")
    assert list(actual.items()) == [
        ("a.png", "an empty file"),
        ("c.png", "a folder, not a file"),
        ("e.png", "a pipe, not a file"),
        ("g.png", "a link that leads nowhere"),
        ("h.png", NO_FORMAT),
        ("n.png", "a socket, not a file"),
    ]


def test_both_sides_of_a_pair_are_checked(pairs: Callable[..., Path]) -> None:
    root = pairs(3)
    assert named(find_images(root)) == {}
    for name in ("right/a0.png", "left/a1.png", "right/a1.png"):
        (root / name).write_bytes(b"no image")
    assert named(find_images(root)) == dict.fromkeys(("right/a0.png", "left/a1.png", "right/a1.png"), NO_FORMAT)


def test_link_that_leads_out_of_the_dataset_is_named_unless_it_may(image: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "d"
    image(root / "a.png")
    (root / "inside.png").symlink_to("a.png")
    (root / "outside.png").symlink_to(image(tmp_path / "secret.png"))
    (root / "twice.png").symlink_to("outside.png")
    (root / "text.png").symlink_to(__file__)
    (root / "way.png").symlink_to("../d/a.png")  # leads out and in again
    dataset = find_images(root)
    assert named(dataset) == dict.fromkeys(("outside.png", "text.png", "twice.png"), OUTSIDE)
    assert named(dataset, links=True) == {"text.png": NO_FORMAT}


def test_folder_of_a_side_that_is_elsewhere_is_named_unless_it_may_be(
    pairs: Callable[..., Path], tmp_path: Path
) -> None:
    root = pairs(2)
    (root / "right").rename(tmp_path / "elsewhere")
    (root / "right").symlink_to(tmp_path / "elsewhere")
    assert named(find_images(root)) == dict.fromkeys(("right/a0.png", "right/a1.png"), OUTSIDE)
    assert named(find_images(root), links=True) == {}


def test_dataset_may_itself_be_reached_by_a_link(pairs: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pairs(2))
    assert named(find_images(tmp_path / "link")) == {}


def test_items_of_a_fault_are_left_out_with_both_their_images(pairs: Callable[..., Path]) -> None:
    root = pairs(4)
    for name in ("right/a1.png", "left/a3.png"):
        (root / name).write_bytes(b"")
    dataset = Dataset(root, ("left", "right"), find_images(root).items, (Skipped("left/x.png", "no partner"),))
    kept = without(dataset, check_images(dataset, SMALL, 1))
    assert [left.name for left, _ in kept.items] == ["a0.png", "a2.png"]
    empty = "an empty file"
    assert kept.skipped == (*dataset.skipped, Skipped("right/a1.png", empty), Skipped("left/a3.png", empty))


def test_bar_counts_the_images_that_are_checked(pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    named(find_images(pairs(3)))
    assert "6/6" in capsys.readouterr().err


# --- one item ---


def room(sides: int = 2) -> NDArray[np.uint8]:
    return np.full((sides, 3, SMALL.crop, SMALL.crop), 7, np.uint8)


def test_item_holds_all_sides_in_their_order(pairs: Callable[..., Path]) -> None:
    dataset, pixels = find_images(pairs(2)), room()
    assert read_item(dataset, 1, SMALL, pixels) == []
    assert np.array_equal(pixels, np.stack([decode_image(path, SMALL).pixels for path in dataset.items[1]]))


def test_unreadable_files_are_reported_with_side_and_reason(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(3))
    left, right = dataset.items[0]
    left.write_bytes(b"no image")
    right.write_bytes(right.read_bytes()[:200])
    Image.new("F", (3, 3)).save(dataset.items[1][0].with_suffix(".tif"))
    dataset.items[1][0].unlink()
    dataset = find_images(dataset.root)
    faults = [fault for fault in read_item(dataset, 0, SMALL, room()) if isinstance(fault, Skipped)]
    assert faults[0] == Skipped("left/a0.png", "not an image in a format that is known here")
    assert faults[1].name == "right/a0.png"
    assert "truncated" in faults[1].reason
    reason = "32-bit floats of unknown range: pass --value-range LOW HIGH, or save it as 8 or 16 bits"
    assert read_item(dataset, 1, SMALL, room()) == [Skipped("left/a1.tif", reason)]


@pytest.mark.parametrize("free", [2**20, 2**40])
def test_a_full_memory_is_no_fault_of_an_image(
    pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """With much memory left the file is at fault, which asks for more than there is."""

    def decode(*_: object) -> None:
        np.empty(2**56, np.uint8)

    dataset = find_images(pairs(2))
    monkeypatch.setattr(reading, "decode_image", decode)
    monkeypatch.setattr(reading, "check_image", decode)
    monkeypatch.setattr("common.machine.shortage.available_memory", lambda: free)
    if free > 2**30:
        assert [fault.name for fault in read_item(dataset, 0, SMALL, room())] == ["left/a0.png", "right/a0.png"]
        assert len(check_images(dataset, SMALL, 2)) == 4
        return
    with pytest.raises(MemoryError):
        read_item(dataset, 0, SMALL, room())
    with pytest.raises(MemoryError):
        check_images(dataset, SMALL, 2)


def test_vanished_file_is_reported(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(1))
    dataset.items[0][1].unlink()
    assert read_item(dataset, 0, SMALL, room()) == [Skipped("right/a0.png", "gone")]


# --- reading ahead, in batches ---


class Reader:
    """A `read_item` that notes what it starts with, takes its time, and draws the item's number; `bad` ones it cannot
    read."""

    def __init__(self, pauses: Sequence[float] = (0.0,), bad: Collection[int] = ()) -> None:
        self.started: list[int] = []
        self.lock = threading.Lock()
        self.pauses, self.bad = pauses, bad

    def __call__(
        self,
        _dataset: Dataset,
        index: int,
        _preprocessing: Preprocessing,
        pixels: NDArray[np.uint8],
        _decoding: Decoding,
    ) -> list[Skipped]:
        with self.lock:
            self.started.append(index)
        time.sleep(self.pauses[index % len(self.pauses)])
        if index in self.bad:
            return [Skipped(f"{index}", "bad")]
        pixels[:] = index
        return []


class Rooms:
    """An `allocate` that notes what it gave."""

    def __init__(self) -> None:
        self.given: list[NDArray[np.uint8]] = []

    def __call__(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        self.given.append(np.full(shape, 255, np.uint8))
        return self.given[-1]


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reader]:
    """`reader(pauses, bad)` reads in place of `read_item`."""

    def make(*words: Any) -> Reader:
        made = Reader(*words)
        monkeypatch.setattr(reading, "read_item", made)
        return made

    return make


def many(count: int) -> Dataset:
    return Dataset(Path(), ("features",), [(Path("x"),)] * count)


def parts(count: int, size: int) -> list[range]:
    return missing_units(count, size, [])


def drawn(batch: Batch) -> list[int]:
    """The numbers that the images of a batch are filled with; each image is of one."""
    assert batch.pixels.shape[1:] == (3, SMALL.crop, SMALL.crop)
    numbers = batch.pixels[:, 0, 0, 0]
    assert (batch.pixels == numbers[:, None, None, None]).all()
    return [int(number) for number in numbers]


UNEVEN = (0.004, 0.0, 0.002, 0.0, 0.0)


@pytest.mark.parametrize(("size", "workers"), [(1, 1), (1, 4), (4, 1), (4, 4), (7, 3), (30, 2), (100, 64), (3, 64)])
def test_batches_come_in_order_however_long_each_item_takes(
    size: int, workers: int, reader: Callable[..., Reader]
) -> None:
    reader(UNEVEN)
    actual = []
    for batch in read_batches(many(30), SMALL, parts(30, size), workers, Rooms()):
        time.sleep(0.002)  # what reads ahead must leave this batch alone
        assert drawn(batch) == batch.indices
        assert batch.faults == []
        actual.append(batch.indices)
    assert actual == [list(range(start, min(start + size, 30))) for start in range(0, 30, size)]


@pytest.mark.parametrize("workers", [1, 3])
def test_only_what_is_left_is_read_in_the_parts_that_are_given(workers: int, reader: Callable[..., Reader]) -> None:
    started = reader(UNEVEN).started
    left = [range(2, 6), range(9, 10), range(12, 16), range(16, 17)]
    actual = []
    for batch in read_batches(many(30), SMALL, left, workers, Rooms()):
        time.sleep(0.002)
        assert drawn(batch) == batch.indices == list(batch.items)
        actual.append(batch.items)
    assert actual == left
    assert sorted(started) == [index for part in left for index in part]


def test_batches_of_nothing_are_none(reader: Callable[..., Reader]) -> None:
    reader()
    assert list(read_batches(many(0), SMALL, [], 2, Rooms())) == []


@pytest.mark.parametrize(
    ("size", "workers", "rooms"), [(2, 4, 5), (4, 1, 3), (3, 2, 3), (1, 3, 7), (1, 100, 20), (19, 1, 2), (20, 9, 1)]
)
def test_readers_run_ahead_but_never_further_than_the_rooms_that_are_used_again(
    size: int, workers: int, rooms: int, reader: Callable[..., Reader]
) -> None:
    """At least three rooms, and in all but the one in hand two items a worker, but no more rooms than batches."""
    started, allocate = reader().started, Rooms()
    for number, batch in enumerate(read_batches(many(20), SMALL, parts(20, size), workers, allocate)):
        front = min((number + rooms) * size, 20)  # the batch in hand is in one of the rooms
        for _ in range(1000):  # a busy machine takes its time
            if len(started) >= front:
                break
            time.sleep(0.005)
        time.sleep(0.002)
        assert sorted(started) == list(range(front))
        assert any(np.shares_memory(batch.pixels, room) for room in allocate.given)
    assert [room.shape for room in allocate.given] == [(size, 1, SMALL.crop, SMALL.crop, 3)] * rooms


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_what_cannot_be_read_leaves_the_others_in_their_place(size: int, reader: Callable[..., Reader]) -> None:
    reader(UNEVEN, (0, 3, 4, 8))
    indices, faults, counts = [], [], []
    for batch in read_batches(many(9), SMALL, parts(9, size), 3, Rooms()):
        time.sleep(0.002)
        assert drawn(batch) == batch.indices
        indices += batch.indices
        faults += batch.faults
        counts.append(batch.items)
    assert indices == [1, 2, 5, 6, 7]
    assert faults == [Skipped(name, "bad") for name in "0348"]
    assert counts == parts(9, size)


def test_pixels_are_those_of_the_images_and_of_no_batch_before(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(7))
    (dataset.items[5][1]).write_bytes(b"no image")
    actual = [(batch.indices, batch.pixels.copy()) for batch in read_batches(dataset, SMALL, parts(7, 2), 1, Rooms())]
    assert [indices for indices, _ in actual] == [[0, 1], [2, 3], [4], [6]]
    for indices, pixels in actual:
        paths = [path for index in indices for path in dataset.items[index]]
        assert np.array_equal(pixels, np.stack([decode_image(path, SMALL).pixels for path in paths]))


def test_torch_sees_images_with_their_channels_last(pairs: Callable[..., Path]) -> None:
    for batch in read_batches(find_images(pairs(3)), SMALL, parts(3, 2), 1, Rooms()):
        pixels = torch.from_numpy(batch.pixels)
        assert pixels.shape == (2 * len(batch.indices), 3, SMALL.crop, SMALL.crop)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert not pixels.is_contiguous()


def test_readers_stop_when_the_consumer_does(reader: Callable[..., Reader]) -> None:
    started, before = reader([0.01]).started, set(threading.enumerate())
    batches = read_batches(many(1000), SMALL, parts(1000, 25), 2, Rooms())
    next(batches)
    assert len(set(threading.enumerate()) - before) == 2
    batches.close()
    assert set(threading.enumerate()) <= before
    assert len(started) < 50


def test_a_fault_of_the_program_ends_the_readers_too(
    monkeypatch: pytest.MonkeyPatch, pairs: Callable[..., Path]
) -> None:
    def read(*_: object) -> list[Skipped]:
        raise ZeroDivisionError

    before = set(threading.enumerate())
    monkeypatch.setattr(reading, "read_item", read)
    with pytest.raises(ZeroDivisionError):
        list(read_batches(many(50), SMALL, parts(50, 2), 3, Rooms()))
    assert set(threading.enumerate()) <= before
