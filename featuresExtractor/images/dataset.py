"""Folders of pictures: what belongs together."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, listed, printable
from common.names import read_names, select, stem
from featuresExtractor.images.kinds import suffixes

PAIR_SIDES = ("left", "right")
FLAT_SIDES = ("features",)
ALONE = "no image of the same name on the other side"


@dataclass(frozen=True)
class Skipped:
    """Something left out, and why: what the `.json` beside the features tells."""

    name: str
    reason: str


class State(NamedTuple):
    """A file's size in bytes and its time of change in nanoseconds; -1 where there is no file."""

    size: int
    changed: int


def state_of(path: Path) -> State:
    """The state of what is at `path`, or of what a link there leads to."""
    try:
        status = path.stat()
    except OSError:
        return State(-1, -1)
    return State(status.st_size, status.st_mtime_ns)


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

    @cached_property
    def states(self) -> list[tuple[State, ...]]:
        """The state of every picture when this was first asked for."""
        return [tuple(state_of(path) for path in item) for item in self.items]

    def fingerprint(self) -> str:
        """SHA-256 over every file's name, size and time of change: differs when a picture does."""
        return self._digest(b"%d\0%d" % (state.size, state.changed) for item in self.states for state in item)

    def names_digest(self) -> str:
        """SHA-256 over every file's name alone: what pictures there are, and in which order."""
        return self._digest(b"" for item in self.items for _ in item)

    def _digest(self, facts: Iterable[bytes]) -> str:
        digest = hashlib.sha256()
        for path, fact in zip((path for item in self.items for path in item), facts, strict=True):
            digest.update(b"%s\0%s\n" % (os.fsencode(path.relative_to(self.root)), fact))
        return digest.hexdigest()

    def name(self, path: Path) -> str:
        """How a picture of the dataset is called: `left/a.jpg`."""
        return path.relative_to(self.root).as_posix()


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
    """What has an image's suffix, sorted by name; whether it is an image is seen when it is opened."""
    known = suffixes()
    return [path for path in _entries(folder) if path.suffix.lower() in known]


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by name, but for what is hidden (such as the `._a.jpg` of some systems)."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    return [folder / name for name in names]


def no_pictures(dataset: Dataset) -> list[str]:
    """Files beside the pictures that are none by their suffix: what a user may have meant as pictures."""
    folders = [dataset.root / side for side in dataset.sides] if dataset.sides == PAIR_SIDES else [dataset.root]
    known = suffixes()
    others = (path for folder in folders for path in _entries(folder) if path.suffix.lower() not in known)
    return [dataset.name(path) for path in others if path.is_file()]


def _find_pairs(root: Path, skip: bool) -> Dataset:
    left, right = (_by_stem(root / side) for side in PAIR_SIDES)
    orphans = [path for own, other in ((left, right), (right, left)) for key, path in own.items() if key not in other]
    if orphans and not skip:
        for path in orphans:
            print(printable(f"{path.parent.name}/{path.name}: {ALONE}"), file=sys.stderr)
        raise InputError("; ".join(_orphan_lines(root, orphans)) + "; --on-error skip leaves them out")
    items: list[tuple[Path, ...]] = [(left[key], right[key]) for key in sorted(left.keys() & right.keys())]
    skipped = tuple(Skipped(path.relative_to(root).as_posix(), ALONE) for path in orphans)
    return Dataset(root, PAIR_SIDES, items, skipped)


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
