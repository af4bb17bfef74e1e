"""Folders of pictures: what belongs together, and the pixels of it."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import InputError, listed
from common.names import read_names, select, stem
from featuresExtractor.transforms import Preprocessing, prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

PAIR_SIDES = ("left", "right")
FLAT_SIDES = ("features",)
REFUSED = (
    "BUFR",
    "EPS",
    "GRIB",
    "HDF5",
    "MPEG",
    "WMF",
)  # EPS starts Ghostscript; Pillow knows the others by name alone


@dataclass(frozen=True)
class Skipped:
    """Something left out, and why: what the `.json` beside the features tells."""

    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Pictures in the order in which their features are written.

    `sides` is ("left", "right") for pairs and ("features",) for a flat folder; each item has a path for each side.
    """

    root: Path
    sides: tuple[str, ...]
    items: list[tuple[Path, ...]]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kind(self) -> str:
        """`pairs` or `images`."""
        return "pairs" if self.sides == PAIR_SIDES else "images"

    @property
    def longest_name(self) -> int:
        """Characters of the longest file name."""
        return max(len(path.name) for item in self.items for path in item)

    def fingerprint(self) -> str:
        """SHA-256 over every file's name, size and time of change: differs when a picture does."""
        digest = hashlib.sha256()
        for path in (path for item in self.items for path in item):
            status = path.stat()
            name = os.fsencode(path.relative_to(self.root))
            digest.update(b"%s\0%d\0%d\n" % (name, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()


def find_images(root: Path, skip: bool = False) -> Dataset:
    """The pairs of `root/left` and `root/right`, formed and sorted by file stem; or the pictures of a flat `root`.

    An image without a partner is an InputError that names it; with `skip` its name goes to `skipped` instead.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; it must hold left/ and right/, or images")
    found = [side for side in PAIR_SIDES if (root / side).is_dir()]
    if len(found) == 1:
        missing = PAIR_SIDES[1 - PAIR_SIDES.index(found[0])]
        raise InputError(f"{root}: has {found[0]}/ but no {missing}/; pairs need both")
    dataset = _find_pairs(root, skip) if found else Dataset(root, FLAT_SIDES, _flat(root))
    if not dataset.items:
        if dataset.skipped:
            raise InputError(f"{root}: no pairs: no image in left/ has one of the same name in right/")
        raise InputError(f"{root}: no images found{' in left/ and right/' if found else '; nor left/ and right/'}")
    return dataset


def _flat(folder: Path) -> list[tuple[Path, ...]]:
    return [(path,) for path in _images(folder)]


def _images(folder: Path) -> list[Path]:
    """The files with an image's suffix, sorted by name."""
    suffixes = _suffixes()
    return [path for path in _files(folder) if path.suffix.lower() in suffixes]


def _files(folder: Path) -> list[Path]:
    """The files of a folder, sorted by name, but for hidden ones (such as the `._a.jpg` of some systems)."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    return [folder / name for name in names]


@cache
def _formats() -> list[str]:
    """The picture formats that Pillow reads by itself."""
    Image.init()
    return [name for name in Image.ID if name not in REFUSED]


@cache
def _suffixes() -> set[str]:
    """The suffixes of those formats, in lower case."""
    formats = set(_formats())
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def no_pictures(dataset: Dataset) -> list[str]:
    """Files beside the pictures that are none by their suffix: what a user may have meant as pictures."""
    folders = [dataset.root / side for side in dataset.sides] if dataset.sides == PAIR_SIDES else [dataset.root]
    suffixes = _suffixes()
    files = (path for folder in folders for path in _files(folder))
    return [_name(dataset.root, path) for path in files if path.suffix.lower() not in suffixes]


def _find_pairs(root: Path, skip: bool) -> Dataset:
    left, right = (_by_stem(root / side) for side in PAIR_SIDES)
    orphans = [path for own, other in ((left, right), (right, left)) for key, path in own.items() if key not in other]
    if orphans and not skip:
        raise InputError("; ".join(_orphan_lines(root, orphans)) + "; --on-error skip leaves them out")
    items: list[tuple[Path, ...]] = [(left[key], right[key]) for key in sorted(left.keys() & right.keys())]
    reason = "no image of the same name on the other side"
    return Dataset(root, PAIR_SIDES, items, tuple(Skipped(_name(root, path), reason) for path in orphans))


def _orphan_lines(root: Path, orphans: list[Path]) -> Iterator[str]:
    """A sentence for each side that has images without a partner."""
    for here, there in (PAIR_SIDES, PAIR_SIDES[::-1]):
        if names := [path.name for path in orphans if path.parent.name == here]:
            have = "image has" if len(names) == 1 else "images have"
            yield f"{root}: {len(names):,} {here} {have} no {there} image of the same name: {listed(names)}"


def _by_stem(folder: Path) -> dict[str, Path]:
    """Stem -> path; two files of one stem in one folder are an InputError, since either could be meant."""
    found: dict[str, Path] = {}
    for path in _images(folder):
        other = found.setdefault(stem(path.name), path)
        if other is not path:
            raise InputError(f"{folder}: {listed([other.name, path.name])} share a name; a pair needs one of them")
    return found


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def keep_subset(dataset: Dataset, subset: Path, skip: bool = False) -> Dataset:
    """Only the items that a CSV file names; a name without images is an InputError, or goes to `skipped`."""
    chosen, missing = select([item[0].name for item in dataset.items], read_names(subset), subset)
    if missing and not skip:
        raise InputError(
            f"{subset}: {len(missing):,} of its names are not in {dataset.root}: {listed(missing)}; "
            "--on-error skip leaves them out"
        )
    absent = tuple(Skipped(name, f"named in {subset.name}, not found") for name in missing)
    return replace(dataset, items=[dataset.items[index] for index in chosen], skipped=dataset.skipped + absent)


@dataclass(frozen=True)
class Batch:
    """Consecutive items: how many there are (`count`), the indices of those that could be read, their pixels
    (indices * sides, 3, crop, crop) uint8 with the channels last in memory, and what could not be read and why.

    The pixels hold until the next batch is asked for."""

    count: int
    indices: list[int]
    pixels: Pixels
    faults: list[Skipped]


def read_item(dataset: Dataset, index: int, preprocessing: Preprocessing, pixels: Pixels) -> list[Skipped]:
    """Reads and prepares the pictures of one item into `pixels` (sides, 3, crop, crop), each decoded once; returns what
    could not be read."""
    faults = []
    for path, target in zip(dataset.items[index], pixels, strict=True):
        try:
            target[:] = read_image(path, preprocessing)
        except Exception as error:  # decoders raise whatever a broken file leads them to
            reason = " ".join(str(error).split()) or type(error).__name__
            faults.append(Skipped(_name(dataset.root, path), reason.replace(f" {str(path)!r}", "")))
    return faults


def read_image(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The prepared pixels (3, crop, crop) of the first frame of an image file."""
    with Image.open(path, formats=_formats()) as image:
        return prepare(image, preprocessing)


def read_batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    size: int,
    workers: int,
    allocate: Callable[[tuple[int, ...]], Pixels],
) -> Iterator[Batch]:
    """All items in order, `size` at a time and fewer at the end, decoded by `workers` threads.

    They decode into a few batches' room that `allocate` gives once, and so are never far ahead of the consumer.
    Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock.
    """
    sides, crop = len(dataset.sides), preprocessing.crop
    parts = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    ahead = min(len(parts), max(3, 1 + math.ceil(2 * workers / size)))
    rooms = [allocate((size, sides, crop, crop, 3)).transpose(0, 1, 4, 2, 3) for _ in range(ahead)]
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[list[Future[list[Skipped]]]] = deque()
        try:
            for number, part in enumerate(parts):
                for later in range(number + len(waiting), min(number + ahead, len(parts))):
                    room = rooms[later % ahead]
                    reads = (partial(read_item, dataset, index, preprocessing) for index in parts[later])
                    waiting.append([pool.submit(read, room[slot]) for slot, read in enumerate(reads)])
                yield _finished(part, rooms[number % ahead], [future.result() for future in waiting.popleft()])
        finally:
            for future in chain.from_iterable(waiting):
                future.cancel()


def _finished(part: range, room: Pixels, faults: list[list[Skipped]]) -> Batch:
    """A batch, closed up where items could not be read."""
    good = [slot for slot, found in enumerate(faults) if not found]
    pixels = room[: len(part)] if len(good) == len(part) else room[good]
    indices = [part[slot] for slot in good]
    return Batch(len(part), indices, pixels.reshape(-1, *room.shape[2:]), list(chain.from_iterable(faults)))
