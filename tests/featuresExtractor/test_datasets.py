"""What belongs together in a folder, and how its pictures are read."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from featuresExtractor import datasets
from featuresExtractor.datasets import (
    Dataset,
    Item,
    Skipped,
    find_images,
    in_batches,
    keep_subset,
    read_ahead,
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


def test_item_holds_all_sides_in_their_order(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(2))
    item = read_item(dataset, 1, SMALL)
    assert (item.index, item.faults) == (1, ())
    assert item.pixels is not None
    assert np.array_equal(item.pixels, np.stack([read_image(path, SMALL) for path in dataset.items[1]]))


def test_unreadable_files_are_reported_with_side_and_reason(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(3))
    left, right = dataset.items[0]
    left.write_bytes(b"no picture")
    right.write_bytes(right.read_bytes()[:200])
    Image.new("F", (3, 3)).save(dataset.items[1][0].with_suffix(".tif"))
    dataset.items[1][0].unlink()
    dataset = find_images(dataset.root)
    faults = read_item(dataset, 0, SMALL).faults
    assert faults[0] == Skipped("left/a0.png", "cannot identify image file")
    assert faults[1].name == "right/a0.png"
    assert "truncated" in faults[1].reason
    assert read_item(dataset, 0, SMALL).pixels is None
    reason = "pixels of mode F have no known range; save it as an 8- or 16-bit picture"
    assert read_item(dataset, 1, SMALL) == Item(1, None, (Skipped("left/a1.tif", reason),))


def test_vanished_file_is_reported(pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(1))
    dataset.items[0][1].unlink()
    (fault,) = read_item(dataset, 0, SMALL).faults
    assert fault.name == "right/a0.png"
    assert "No such file" in fault.reason


def slowly(started: list[int], pauses: list[float]) -> Callable[..., Item]:
    """A `read_item` that notes what it starts with and takes its time."""
    lock = threading.Lock()

    def read(_dataset: Dataset, index: int, _preprocessing: Preprocessing) -> Item:
        with lock:
            started.append(index)
        time.sleep(pauses[index % len(pauses)])
        return Item(index, np.zeros(1, np.uint8))

    return read


def many(count: int) -> Dataset:
    return Dataset(Path(), ("features",), [(Path("x"),)] * count)


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (4, 4), (4, 9), (3, 100)])
def test_items_come_in_order_however_long_each_takes(workers: int, ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "read_item", slowly([], [0.004, 0.0, 0.002, 0.0, 0.0]))
    assert [item.index for item in read_ahead(many(30), SMALL, workers, ahead)] == list(range(30))


def test_readers_run_ahead_but_never_further_than_told(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(datasets, "read_item", slowly(started, [0.0]))
    fronts = []
    for item in read_ahead(many(20), SMALL, workers=4, ahead=5):
        time.sleep(0.005)
        fronts.append(max(started) - item.index)
    assert max(fronts) == 4  # the item in hand is the first of five


def test_readers_stop_when_the_consumer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(datasets, "read_item", slowly(started, [0.01]))
    items = read_ahead(many(1000), SMALL, workers=2, ahead=50)
    next(items)
    assert isinstance(items, Iterator)
    items.close()  # type: ignore[attr-defined]
    assert len(started) < 50


def test_batches_are_consecutive_and_the_last_is_shorter() -> None:
    items = [Item(index, None) for index in range(7)]
    assert [[item.index for item in batch] for batch in in_batches(iter(items), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_batches(iter([]), 3)) == []


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
