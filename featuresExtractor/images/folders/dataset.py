"""Find the pairs or the single images in a folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

from common.errors import InputError, listed, printable
from common.names.finding import Names
from common.names.lists import choose
from common.names.matching import match, stem
from featuresExtractor.images.folders import advice
from featuresExtractor.images.folders.scan import OTHER, NotRead, scan, scan_beside

PAIR_SIDES = ("left", "right")
FLAT_SIDES = ("features",)
Item = TypeVar("Item")
ALONE = "no image of the same name on the other side"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Skipped:
    """An image or pair that is skipped, and why, as the `.json` beside the features lists it."""

    name: str
    reason: str


@dataclass(frozen=True)
class Remark:
    """What a person should know about an image that was read, as the `.json` beside the features lists it."""

    name: str
    text: str


class State(NamedTuple):
    """A file's size in bytes and its time of change in nanoseconds; -1 where there is no file."""

    size: int
    changed: int


def state_of(path: Path) -> State:
    """Return the state of the file at `path`, or of the file that a link there leads to."""
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
    should know about them. With `recursive` the images may be in subfolders. `seen` are the states of all images where
    these were looked up before.
    """

    root: Path
    sides: tuple[str, ...]
    items: list[tuple[Path, ...]]
    skipped: tuple[Skipped, ...] = ()
    not_read: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    recursive: bool = False
    seen: list[tuple[State, ...]] | None = field(default=None, compare=False, repr=False)

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
        """The state of every image when it was first looked up."""
        return self.seen or [tuple(state_of(path) for path in item) for item in self.items]

    def fingerprint(self) -> str:
        """Return a SHA-256 over every file's name, size and time of change: differs when an image does."""
        return self._digest(b"%d\0%d" % (state.size, state.changed) for item in self.states for state in item)

    def names_digest(self) -> str:
        """Return a SHA-256 over every file's name alone: which images there are, and in which order."""
        return self._digest(b"" for item in self.items for _ in item)

    def _digest(self, details: Iterable[bytes]) -> str:
        digest = hashlib.sha256()
        for path, detail in zip((path for item in self.items for path in item), details, strict=True):
            digest.update(b"%s\0%s\n" % (os.fsencode(path.relative_to(self.root)), detail))
        return digest.hexdigest()

    def name(self, path: Path) -> str:
        """Return the name of an image in messages: `left/a.jpg`."""
        return path.relative_to(self.root).as_posix()

    def row_name(self, path: Path) -> str:
        """Return the name of an image in the features file: `a.jpg`, or with `recursive` `cat/a.jpg`."""
        if not self.recursive:
            return path.name
        parts = path.relative_to(self.root).parts
        return "/".join(parts[1:] if self.sides == PAIR_SIDES else parts)

    def warnings(self) -> list[str]:
        """Return what a person should know before anything is read: notes, and each reason why files are not read."""
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
    names, not_read = scan(root, recursive, links)
    if not names:
        raise advice.nothing_found(root, False, not_read)
    items: list[tuple[Path, ...]] = [(root / name,) for name in names]
    notes = tuple(advice.notes_on_flat(root, names))
    return Dataset(root, FLAT_SIDES, items, (), _skipped(not_read), notes, recursive)


def _find_pairs(root: Path, skip: bool, recursive: bool, links: bool) -> Dataset:
    if (root / PAIR_SIDES[0]).samefile(root / PAIR_SIDES[1]):
        raise InputError(f"{root}: left/ and right/ are one folder, so that every image would be its own partner")
    scans = [scan(root / side, recursive, links, root) for side in PAIR_SIDES]
    not_read = [NotRead(f"{side}/{item.name}", item.reason) for side, item in _by_side([own.not_read for own in scans])]
    not_read += scan_beside(root, PAIR_SIDES)
    left, right = (own.images for own in scans)
    if not left and not right:
        raise advice.nothing_found(root, True, not_read)
    pairs, orphans = _matched(root, left, right)
    causes, orphans = _split_orphans(orphans, not_read)
    skipped = tuple(causes) + tuple(Skipped(f"{side}/{name}", ALONE) for side, name in _by_side(orphans))
    not_read = [item for item in not_read if Skipped(*item) not in causes]
    if skipped and not (skip and pairs):
        raise _no_partners(root, causes, orphans, not_read, bool(pairs), skip)
    notes = advice.without_partners(root, orphans) if any(orphans) else []
    return Dataset(root, PAIR_SIDES, pairs, skipped, _skipped(not_read), tuple(notes), recursive)


def _matched(root: Path, left: list[str], right: list[str]) -> tuple[list[tuple[Path, ...]], list[list[str]]]:
    """Return the pairs of paths, sorted by name, and the names of each side without a partner."""
    matched = match(left, right)
    if matched.doubles:
        reason = f"{listed(matched.doubles)} have one name but for the suffix"
        raise InputError(f"{root}: {reason}; keep one of each on each side, or give partners the same suffix")
    names = sorted(((left[i], right[j]) for i, j in matched.pairs), key=lambda pair: (stem(pair[0]), pair))
    pairs: list[tuple[Path, ...]] = [
        (root / "left" / of_left, root / "right" / of_right) for of_left, of_right in names
    ]
    return pairs, [[left[index] for index in matched.left], [right[index] for index in matched.right]]


def _by_side(items: Sequence[Sequence[Item]]) -> list[tuple[str, Item]]:
    return [(side, item) for side, own in zip(PAIR_SIDES, items, strict=True) for item in own]


def _skipped(items: Iterable[NotRead]) -> tuple[Skipped, ...]:
    return tuple(Skipped(*item) for item in items)


def _split_orphans(
    orphans: Sequence[Sequence[str]], not_read: Sequence[NotRead]
) -> tuple[list[Skipped], list[list[str]]]:
    """Return the files that are not read and would be partners of `orphans`, as the reason of these pairs; and the
    orphans of each side without such a file."""
    partners = {stem(item.name): item for item in not_read}
    causes: dict[Skipped, None] = {}
    alone: list[list[str]] = []
    for names, opposite in zip(orphans, PAIR_SIDES[::-1], strict=True):
        keys = {name: f"{opposite}/{stem(name)}" for name in names}
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
    """Return the error for images without a partner, with what may explain them; `some` other images have one."""
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
        logger.warning(printable(note))
    absent = _absent(choice.missing, dataset, subset)
    if absent:
        message = f"{subset}: {len(absent):,} of its names are not in {dataset.root}: {listed(choice.missing)}"
        message += f" ({choice.reason})"
        if not skip:
            raise InputError(f"{message}; --on-error skip leaves them out")
        logger.warning(printable(f"warning: {message}"))
    items = [dataset.items[index] for index in choice.indices]
    return replace(dataset, items=items, skipped=dataset.skipped + absent, seen=None)


def _absent(missing: Sequence[str], dataset: Dataset, subset: Path) -> tuple[Skipped, ...]:
    """Return names of a list without an image, each with its reason: a file of that name is not read, or missing."""
    files = (*dataset.skipped, *dataset.not_read)
    names = Names([item.name for item in files])
    indices = [(name, names.find(name)[0]) for name in missing]
    absent = f"named in {subset.name}, not found"
    return tuple(Skipped(name, files[of_name[0]].reason if of_name else absent) for name, of_name in indices)
