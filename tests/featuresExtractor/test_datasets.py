"""What belongs together in a folder, and how its pictures are read."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.errors import InputError
from featuresExtractor import datasets
from featuresExtractor.datasets import (
    Batch,
    Dataset,
    Skipped,
    find_images,
    keep_subset,
    read_batches,
    read_image,
    read_item,
)
from featuresExtractor.transforms import Preprocessing, prepare

SMALL = Preprocessing(12, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def touch(root: Path, *names: str) -> Path:
    """Empty files `left/a.png`, ... below `root`: finding does not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, skip: bool = False) -> list[tuple[str, ...]]:
    return [tuple(path.relative_to(root).as_posix() for path in item) for item in find_images(root, skip).items]


def refusal(root: Path, skip: bool = False) -> str:
    """The error line about `root`, without its name."""
    with pytest.raises(InputError) as caught:
        find_images(root, skip)
    text = str(caught.value)
    assert text.startswith(f"{root}")
    return text.removeprefix(f"{root}")


# --- finding ---


def test_pairs_are_files_of_one_stem_whatever_their_suffixes(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/b.jpg", "left/a.JPEG", "left/c.d.webp", "right/a.PNG", "right/b.jpg", "right/c.d.tif")
    assert found(root) == [
        ("left/a.JPEG", "right/a.PNG"),
        ("left/b.jpg", "right/b.jpg"),
        ("left/c.d.webp", "right/c.d.tif"),
    ]
    assert (find_images(root).sides, find_images(root).kind) == (("left", "right"), "pairs")


def test_order_is_that_of_the_stems_and_not_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path, *(f"{side}/{number:03}.png" for side in ("left", "right") for number in range(30)))
    listing = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: sorted(listing(folder), key=lambda entry: entry.name[::-1]))
    assert found(root) == [(f"left/{number:03}.png", f"right/{number:03}.png") for number in range(30)]


def test_names_with_spaces_and_accents_in_either_form_are_paired(tmp_path: Path) -> None:
    left, right = (unicodedata.normalize(form, "un été à Nîmes.png") for form in ("NFC", "NFD"))
    assert left != right
    assert found(touch(tmp_path, f"left/{left}", f"right/{right}")) == [(f"left/{left}", f"right/{right}")]


def test_hidden_files_folders_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    touch(
        tmp_path, "left/a.png", "right/a.png", "left/._a.png", "left/.hidden.jpg", "left/notes.txt", "right/Thumbs.db"
    )
    touch(tmp_path, "left/scan.pdf", "left/film.mpg", "right/features.h5", "left/LICENCE", "left/folder.png/b.png")
    assert found(tmp_path) == [("left/a.png", "right/a.png")]


def test_flat_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    root = touch(tmp_path, "b.png", "a.jpg", "a.png", "notes.txt", "other/c.png")
    assert found(root) == [("a.jpg",), ("a.png",), ("b.png",)]
    assert (find_images(root).sides, find_images(root).kind) == (("features",), "images")


def test_orphans_are_named_on_both_sides(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "left/c.png", "right/a.png", "right/d e.png")
    assert refusal(root) == (
        ": 2 left images have no right image of the same name: b.png, c.png; "
        f"{root}: 1 right image has no left image of the same name: d e.png; --on-error skip leaves them out"
    )


def test_many_orphans_are_counted(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/x.png", "right/x.png", *(f"left/{number:04}.png" for number in range(1200)))
    assert ": 1,200 left images have no right image of the same name: 0000.png, " in refusal(root)
    assert " and 1,190 more; --on-error" in refusal(root)


def test_orphans_are_skipped_and_reported_when_asked_for(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "right/a.png", "right/c.png")
    dataset = find_images(root, skip=True)
    assert found(root, skip=True) == [("left/a.png", "right/a.png")]
    reason = "no image of the same name on the other side"
    assert dataset.skipped == (Skipped("left/b.png", reason), Skipped("right/c.png", reason))


@pytest.mark.parametrize("skip", [False, True])
def test_two_files_of_one_stem_are_refused(skip: bool, tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/a.jpg", "right/a.png")
    assert refusal(root, skip) == "/left: a.jpg, a.png share a name; a pair needs one of them"


@pytest.mark.parametrize(("side", "missing"), [("left", "right"), ("right", "left")])
def test_one_side_alone_is_refused(side: str, missing: str, tmp_path: Path) -> None:
    assert refusal(touch(tmp_path, f"{side}/a.png")) == f": has {side}/ but no {missing}/; pairs need both"


@pytest.mark.parametrize("root", ["none", "file"])
def test_missing_folder_is_refused(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "file")
    assert refusal(tmp_path / root) == ": no such folder; it must hold left/ and right/, or images"


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": no images found; nor left/ and right/"
    touch(tmp_path, "left/notes.txt", "right/notes.txt")
    assert refusal(tmp_path) == ": no images found in left/ and right/"


def test_folder_of_orphans_alone_holds_no_pairs(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "right/b.png")
    assert refusal(root, skip=True) == ": no pairs: no image in left/ has one of the same name in right/"


# --- subsets and fingerprints ---


def subset_csv(folder: Path, *names: str) -> Path:
    path = folder / "subset.csv"
    path.write_text("\n".join(["TLL_obj", *names]))
    return path


@pytest.fixture
def five(tmp_path: Path) -> Dataset:
    return find_images(touch(tmp_path / "d", *(f"{side}/{name}.png" for side in ("left", "right") for name in "abcde")))


def stems(dataset: Dataset) -> list[tuple[str, ...]]:
    return [tuple(path.stem for path in item) for item in dataset.items]


def test_subset_keeps_the_named_pairs_once_in_the_order_of_the_data(five: Dataset, tmp_path: Path) -> None:
    # As in the authors' own file: each name twice, with another suffix than the picture's.
    kept = keep_subset(five, subset_csv(tmp_path, "d.jpg", "b.jpg", "d.jpg", "b.jpg"))
    assert stems(kept) == [("b", "b"), ("d", "d")]
    assert kept.skipped == ()


def test_names_without_images_are_told_or_skipped(five: Dataset, tmp_path: Path) -> None:
    subset = subset_csv(tmp_path, "a.jpg", "x.jpg", "y.jpg")
    with pytest.raises(InputError) as caught:
        keep_subset(five, subset)
    expected = f"{subset}: 2 of its names are not in {five.root}: x.jpg, y.jpg; --on-error skip leaves them out"
    assert str(caught.value) == expected
    kept = keep_subset(five, subset, skip=True)
    assert stems(kept) == [("a", "a")]
    reason = "named in subset.csv, not found"
    assert kept.skipped == (Skipped("x.jpg", reason), Skipped("y.jpg", reason))


def test_fingerprint_changes_with_a_picture(five: Dataset) -> None:
    before, path = five.fingerprint(), five.items[2][1]
    assert find_images(five.root).fingerprint() == before
    path.write_bytes(b"x")
    assert (longer := five.fingerprint()) != before
    path.write_bytes(b"y")
    os.utime(path, ns=(0, 0))
    assert five.fingerprint() not in (before, longer)


def test_fingerprint_changes_with_a_name(five: Dataset) -> None:
    before = five.fingerprint()
    for path in five.items[4]:
        path.rename(path.with_name("f.png"))
    assert find_images(five.root).fingerprint() != before


# --- reading ---


def test_picture_is_read_as_prepare_makes_it(picture: Callable[..., Path], tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", (33, 21))
    with Image.open(path) as image:
        assert np.array_equal(read_image(path, SMALL), prepare(image, SMALL))


def test_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif", SMALL)[:, 0, 0].tolist() == [255, 0, 0]


def room(sides: int = 2) -> NDArray[np.uint8]:
    return np.full((sides, 3, SMALL.crop, SMALL.crop), 7, np.uint8)


def test_item_holds_all_sides_in_their_order(pairs: Callable[..., Path]) -> None:
    dataset, pixels = find_images(pairs(2)), room()
    assert read_item(dataset, 1, SMALL, pixels) == []
    assert np.array_equal(pixels, np.stack([read_image(path, SMALL) for path in dataset.items[1]]))


def test_unreadable_files_are_reported_with_side_and_reason(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(3))
    left, right = dataset.items[0]
    left.write_bytes(b"no picture")
    right.write_bytes(right.read_bytes()[:200])
    Image.new("F", (3, 3)).save(dataset.items[1][0].with_suffix(".tif"))
    dataset.items[1][0].unlink()
    dataset = find_images(dataset.root)
    faults = read_item(dataset, 0, SMALL, room())
    assert faults[0] == Skipped("left/a0.png", "cannot identify image file")
    assert faults[1].name == "right/a0.png"
    assert "truncated" in faults[1].reason
    reason = "pixels of mode F have no known range; save it as an 8- or 16-bit picture"
    assert read_item(dataset, 1, SMALL, room()) == [Skipped("left/a1.tif", reason)]


def test_vanished_file_is_reported(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(1))
    dataset.items[0][1].unlink()
    (fault,) = read_item(dataset, 0, SMALL, room())
    assert fault.name == "right/a0.png"
    assert "No such file" in fault.reason


# --- reading ahead, in batches ---


class Reader:
    """A `read_item` that notes what it starts with, takes its time, and draws the item's number; `bad` ones it cannot
    read."""

    def __init__(self, pauses: Sequence[float] = (0.0,), bad: Collection[int] = ()) -> None:
        self.started: list[int] = []
        self.lock = threading.Lock()
        self.pauses, self.bad = pauses, bad

    def __call__(
        self, _dataset: Dataset, index: int, _preprocessing: Preprocessing, pixels: NDArray[np.uint8]
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
        monkeypatch.setattr(datasets, "read_item", made)
        return made

    return make


def many(count: int) -> Dataset:
    return Dataset(Path(), ("features",), [(Path("x"),)] * count)


def drawn(batch: Batch) -> list[int]:
    """The numbers that the pictures of a batch are filled with; each picture is of one."""
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
    found = []
    for batch in read_batches(many(30), SMALL, size, workers, Rooms()):
        time.sleep(0.002)  # what reads ahead must leave this batch alone
        assert drawn(batch) == batch.indices
        assert batch.faults == []
        found.append(batch.indices)
    assert found == [list(range(start, min(start + size, 30))) for start in range(0, 30, size)]


def test_batches_of_nothing_are_none(reader: Callable[..., Reader]) -> None:
    reader()
    assert list(read_batches(many(0), SMALL, 3, 2, Rooms())) == []


@pytest.mark.parametrize(
    ("size", "workers", "rooms"), [(2, 4, 5), (4, 1, 3), (3, 2, 3), (1, 3, 7), (1, 100, 20), (19, 1, 2), (20, 9, 1)]
)
def test_readers_run_ahead_but_never_further_than_the_rooms_that_are_used_again(
    size: int, workers: int, rooms: int, reader: Callable[..., Reader]
) -> None:
    """At least three rooms, and in all but the one in hand two items a worker, but no more rooms than batches."""
    started, allocate = reader().started, Rooms()
    for number, batch in enumerate(read_batches(many(20), SMALL, size, workers, allocate)):
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
    for batch in read_batches(many(9), SMALL, size, 3, Rooms()):
        time.sleep(0.002)
        assert drawn(batch) == batch.indices
        indices += batch.indices
        faults += batch.faults
        counts.append(batch.count)
    assert indices == [1, 2, 5, 6, 7]
    assert faults == [Skipped(name, "bad") for name in "0348"]
    assert counts == [min(size, 9 - start) for start in range(0, 9, size)]


def test_pixels_are_those_of_the_pictures_and_of_no_batch_before(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(7))
    (dataset.items[5][1]).write_bytes(b"no picture")
    found = [(batch.indices, batch.pixels.copy()) for batch in read_batches(dataset, SMALL, 2, 1, Rooms())]
    assert [indices for indices, _ in found] == [[0, 1], [2, 3], [4], [6]]
    for indices, pixels in found:
        paths = [path for index in indices for path in dataset.items[index]]
        assert np.array_equal(pixels, np.stack([read_image(path, SMALL) for path in paths]))


def test_torch_sees_pictures_with_their_channels_last(pairs: Callable[..., Path]) -> None:
    for batch in read_batches(find_images(pairs(3)), SMALL, 2, 1, Rooms()):
        pixels = torch.from_numpy(batch.pixels)
        assert pixels.shape == (2 * len(batch.indices), 3, SMALL.crop, SMALL.crop)
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        assert not pixels.is_contiguous()


def test_readers_stop_when_the_consumer_does(reader: Callable[..., Reader]) -> None:
    started, before = reader([0.01]).started, set(threading.enumerate())
    batches = read_batches(many(1000), SMALL, 25, 2, Rooms())
    next(batches)
    assert len(set(threading.enumerate()) - before) == 2
    assert isinstance(batches, Iterator)
    batches.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before
    assert len(started) < 50


def test_a_fault_of_the_program_ends_the_readers_too(
    monkeypatch: pytest.MonkeyPatch, pairs: Callable[..., Path]
) -> None:
    def read(*_: object) -> list[Skipped]:
        raise ZeroDivisionError

    before = set(threading.enumerate())
    monkeypatch.setattr(datasets, "read_item", read)
    with pytest.raises(ZeroDivisionError):
        list(read_batches(many(50), SMALL, 2, 3, Rooms()))
    assert set(threading.enumerate()) <= before


def test_no_picture_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by content, and would hand PostScript to the first `gs` on the path."""
    canary, tools = tmp_path / "canary", tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "evil.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image, contextlib.suppress(OSError):  # what must not happen
        image.load()
    assert canary.exists()
    canary.unlink()
    with pytest.raises(OSError, match="cannot identify image file"):
        read_image(path, SMALL)
    assert not canary.exists()


def test_a_picture_too_narrow_to_resize_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 2)).save(tmp_path / "line.png")
    with pytest.raises(ValueError, match="20000 x 2 pixels are too narrow"):
        read_image(tmp_path / "line.png", replace(SMALL, resize=256))
