"""Folders of images: what belongs together."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, listed, printable
from common.names.finding import Names
from common.names.lists import choose
from common.names.matching import match, stem
from featuresExtractor.images.folders import advice
from featuresExtractor.images.folders.scan import OTHER, NotRead, scan, scan_beside

PAIR_SIDES = ("left", "right")
FLAT_SIDES = ("features",)
ALONE = "no image of the same name on the other side"


@dataclass(frozen=True)
class Skipped:
    """Something left out, and why: what the `.json` beside the features tells."""

    name: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """Something that a person should know about an image that was read: what the `.json` beside the features lists."""

    name: str
    text: str


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
    """Images in the order in which their features are written.

    `sides` is ("left", "right") for pairs and ("features",) for a flat folder; each item has a path for each side.
    `skipped` are images that would belong to items, `not_read` are other files in the folders, `notes` is what a person
    should know about them. With `recursive` the images may lie in subfolders.
    """

    root: Path
    sides: tuple[str, ...]
    items: list[tuple[Path, ...]]
    skipped: tuple[Skipped, ...] = ()
    not_read: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    recursive: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @property
    def kind(self) -> str:
        """`pairs` or `images`."""
        return "pairs" if self.sides == PAIR_SIDES else "images"

    @property
    def longest_name(self) -> int:
        """Characters of the longest name in the features file."""
        return max(len(self.row_name(path)) for item in self.items for path in item)

    @cached_property
    def states(self) -> list[tuple[State, ...]]:
        """The state of every image when this was first asked for."""
        return [tuple(state_of(path) for path in item) for item in self.items]

    def fingerprint(self) -> str:
        """SHA-256 over every file's name, size and time of change: differs when an image does."""
        return self._digest(b"%d\0%d" % (state.size, state.changed) for item in self.states for state in item)

    def names_digest(self) -> str:
        """SHA-256 over every file's name alone: what images there are, and in which order."""
        return self._digest(b"" for item in self.items for _ in item)

    def _digest(self, facts: Iterable[bytes]) -> str:
        digest = hashlib.sha256()
        for path, fact in zip((path for item in self.items for path in item), facts, strict=True):
            digest.update(b"%s\0%s\n" % (os.fsencode(path.relative_to(self.root)), fact))
        return digest.hexdigest()

    def name(self, path: Path) -> str:
        """How an image of the dataset is called: `left/a.jpg`."""
        return path.relative_to(self.root).as_posix()

    def row_name(self, path: Path) -> str:
        """Return the name of an image in the features file: `a.jpg`, or with `recursive` `cat/a.jpg`."""
        if not self.recursive:
            return path.name
        parts = path.relative_to(self.root).parts
        return "/".join(parts[1:] if self.sides == PAIR_SIDES else parts)

    def warnings(self) -> list[str]:
        """Return what a person should know before anything is read: notes, and a line for each reason why files are not
        read."""
        lines = [*self.notes, *advice.summary(NotRead(item.name, item.reason) for item in self.not_read)]
        return [f"{'note' if line.endswith(OTHER) else 'warning'}: {line}" for line in lines]


def find_images(root: Path, skip: bool = False, recursive: bool = False, links: bool = False) -> Dataset:
    """Return the pairs of `root/left` and `root/right`, found and sorted by name; or the images of a flat `root`.

    With `recursive` subfolders are read too, and partners have the same relative path; with `links` also folders behind
    links. An image without a partner is an InputError that names it; with `skip` its name goes to `skipped` instead.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; it must hold left/ and right/, or images")
    if advice.check_sides(root):
        return _find_pairs(root, skip, recursive, links)
    found = scan(root, recursive, links)
    if not found.images:
        raise advice.nothing_found(root, False, found.not_read)
    items: list[tuple[Path, ...]] = [(root / name,) for name in found.images]
    notes = tuple(advice.notes_on_flat(root, found.images))
    return Dataset(root, FLAT_SIDES, items, (), _skipped(found.not_read), notes, recursive)


def _find_pairs(root: Path, skip: bool, recursive: bool, links: bool) -> Dataset:
    if (root / PAIR_SIDES[0]).samefile(root / PAIR_SIDES[1]):
        raise InputError(f"{root}: left/ and right/ are one folder, so that every image would be its own partner")
    scans = [scan(root / side, recursive, links, root) for side in PAIR_SIDES]
    not_read = [
        NotRead(f"{side}/{name}", why)
        for side, own in zip(PAIR_SIDES, scans, strict=True)
        for name, why in own.not_read
    ]
    not_read += scan_beside(root, PAIR_SIDES)
    left, right = (own.images for own in scans)
    if not left and not right:
        raise advice.nothing_found(root, True, not_read)
    found = match(left, right)
    if found.doubles:
        told = f"{listed(found.doubles)} have one name but for the suffix"
        raise InputError(f"{root}: {told}; keep one of each on each side, or give partners the same suffix")
    causes, orphans = _split_orphans(
        ([left[index] for index in found.left], [right[index] for index in found.right]), not_read
    )
    skipped = tuple(causes) + tuple(Skipped(f"{side}/{name}", ALONE) for side, name in _by_side(orphans))
    not_read = [item for item in not_read if Skipped(*item) not in causes]
    if skipped and not (skip and found.pairs):
        raise _no_partners(root, causes, orphans, not_read, bool(found.pairs), skip)
    pairs = sorted(((left[one], right[other]) for one, other in found.pairs), key=lambda names: (stem(names[0]), names))
    items: list[tuple[Path, ...]] = [(root / "left" / one, root / "right" / other) for one, other in pairs]
    notes = advice.without_partners(root, orphans) if any(orphans) else []
    return Dataset(root, PAIR_SIDES, items, skipped, _skipped(not_read), tuple(notes), recursive)


def _by_side(names: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(side, name) for side, own in zip(PAIR_SIDES, names, strict=True) for name in own]


def _skipped(items: Iterable[NotRead]) -> tuple[Skipped, ...]:
    return tuple(Skipped(*item) for item in items)


def _split_orphans(
    orphans: Sequence[Sequence[str]], not_read: Sequence[NotRead]
) -> tuple[list[Skipped], list[list[str]]]:
    """The files that are not read and would be partners of `orphans`, as the reason of these pairs; and the orphans of
    each side that have no such file."""
    partners = {stem(item.name): item for item in not_read}
    causes: dict[Skipped, None] = {}
    alone: list[list[str]] = []
    for names, other in zip(orphans, PAIR_SIDES[::-1], strict=True):
        keys = {name: f"{other}/{stem(name)}" for name in names}
        causes |= dict.fromkeys(Skipped(*partners[key]) for key in keys.values() if key in partners)
        alone.append([name for name, key in keys.items() if key not in partners])
    return list(causes), alone


def _no_partners(
    root: Path,
    causes: Sequence[Skipped],
    orphans: Sequence[Sequence[str]],
    not_read: Sequence[NotRead],
    some: bool,
    skip: bool,
) -> InputError:
    """The error for images without a partner, with what may explain them; `some` others have one."""
    lines = ["no pairs: no image in left/ has one of the same name in right/"] if skip else []
    lines += [listed(f"{item.name}: {item.reason}" for item in causes)] if causes else []
    lines += advice.without_partners(root, orphans) if any(orphans) else []
    lines += advice.summary(item for item in not_read if item.reason != OTHER)
    lines += ["--on-error skip leaves them out"] if some else []
    return InputError(f"{root}: {'; '.join(lines)}")


def keep_subset(dataset: Dataset, subset: Path, skip: bool = False) -> Dataset:
    """Return only the items that a CSV file names; a name without images is an InputError, or goes to `skipped`."""
    choice = choose([dataset.row_name(item[0]) for item in dataset.items], subset)
    for note in choice.notes:
        print(printable(note), file=sys.stderr)
    absent = _absent(choice.missing, dataset, subset)
    if absent:
        told = f"{subset}: {len(absent):,} of its names are not in {dataset.root}: {listed(choice.missing)}"
        told += f" ({choice.reason})"
        if not skip:
            raise InputError(f"{told}; --on-error skip leaves them out")
        print(printable(f"warning: {told}"), file=sys.stderr)
    items = [dataset.items[index] for index in choice.indices]
    return replace(dataset, items=items, skipped=dataset.skipped + absent)


def _absent(missing: Sequence[str], dataset: Dataset, subset: Path) -> tuple[Skipped, ...]:
    """Names of a list that have no image, each with its reason: a file of that name that is not read, or none."""
    others = (*dataset.skipped, *dataset.not_read)
    files = Names([item.name for item in others])
    found = [(name, files.find(name)[0]) for name in missing]
    absent = f"named in {subset.name}, not found"
    return tuple(Skipped(name, others[indices[0]].reason if indices else absent) for name, indices in found)
