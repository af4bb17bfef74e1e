"""Explain what a folder holds in place of images or pairs, and what is not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from common.errors import InputError, listed
from featuresExtractor.images.folders.patterns import difference, sides_in_names
from featuresExtractor.images.folders.scan import BESIDE, NESTED, NotRead

SIDES = ("left", "right")
MOST_SHOWN = 5


def summary(not_read: Iterable[NotRead]) -> list[str]:
    """Return a line for each reason: how many files it concerns, and which come first; subfolders with their counts."""
    ordered = sorted(not_read, key=lambda item: (item.reason, item.name))
    return [
        _line(reason, [item.name for item in group]) for reason, group in groupby(ordered, lambda item: item.reason)
    ]


def _line(reason: str, names: Sequence[str]) -> str:
    files = "1 file is" if len(names) == 1 else f"{len(names):,} files are"
    shown = _by_folder(names) if reason in (NESTED, BESIDE) else names
    return f"{files} not read: {listed(shown, MOST_SHOWN)}: {reason}"


def _by_folder(names: Sequence[str]) -> list[str]:
    """`a.png`, `more/b.png`, `more/c.png` -> `a.png`, `more/ (2 images)`."""
    counts = Counter(name.rpartition("/")[0] for name in names)
    folders = [f"{folder}/ ({count:,} image{'s' * (count > 1)})" for folder, count in counts.items() if folder]
    return [name for name in names if "/" not in name] + folders


def check_sides(root: Path) -> bool:
    """Return whether `root` holds the folders of pairs; InputError where one is missing or differs in case."""
    folders = _folders(root)
    present = [side for side in SIDES if (root / side).is_dir()]
    near = {side: own for side in SIDES for own in folders if own not in SIDES and own.lower() == side}
    if len(present) == 2:
        return True
    if near:
        spelled = " and ".join(f"{own}/" for own in near.values())
        wanted = " and ".join(f"{side}/" for side in near)
        raise InputError(f"{root}: has {spelled}; rename to {wanted}, since upper and lower case count")
    if present:
        missing = SIDES[1 - SIDES.index(present[0])]
        raise InputError(f"{root}: has {present[0]}/ but no {missing}/; pairs need both{_similar(folders, [missing])}")
    return False


def _folders(root: Path) -> list[str]:
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{root}: the folder cannot be read ({error.strerror})") from error


def _similar(folders: Sequence[str], sides: Sequence[str]) -> str:
    """Return folders whose names contain those of the sides, such as `lefts/`; empty where a side has none."""
    near = [next((own for own in folders if side in own.lower()), "") for side in sides]
    renamings = " and ".join(f"{own}/ to {side}/" for own, side in zip(near, sides, strict=True))
    return f"; rename {listed([renamings])}?" if all(near) else ""


def nothing_found(root: Path, pairs: bool, not_read: Sequence[NotRead]) -> InputError:
    """Return the error for a folder without images, which says what it holds instead."""
    if pairs:
        return InputError("; ".join([f"{root}: no images found in left/ and right/", *summary(not_read)]))
    if sets := _sets([item.name for item in not_read], root):
        named = listed(str(root / name) for name in sets)
        return InputError(f"{root}: no images found; left/ and right/ are in {named}: give that folder")
    similar = _similar(_folders(root), SIDES)
    return InputError("; ".join([f"{root}: no images found; nor left/ and right/{similar}", *summary(not_read)]))


def _sets(names: Iterable[str], root: Path) -> list[str]:
    """Return the folders below `root` that hold left/ and right/, by the names of the images in them."""
    parents = {name.partition("/left/")[0] for name in names if "/left/" in name}
    return sorted(parent for parent in parents if (root / parent / "right").is_dir())


def notes_on_flat(root: Path, names: Sequence[str]) -> list[str]:
    """Return notes on images of a single folder that may be meant as pairs."""
    count, left, right = sides_in_names(names)
    notes = []
    if 4 * count >= len(names) > 0:
        reason = f"{count:,} times two images are called like {listed([left])} and {listed([right])}"
        notes.append(f"{reason}: read as single images; for pairs move them to left/ and right/, under one name")
    if sets := _sets(names, root):
        notes.append(f"{listed(sets)}: holds left/ and right/, read as single images; give that folder for its pairs")
    return notes


def without_partners(root: Path, orphans: Sequence[Sequence[str]]) -> list[str]:
    """Return why images of two sides have no partners: one line for a pattern in their names, else a line a side."""
    if pattern := difference(orphans[0], orphans[1], root):
        count = sum(map(len, orphans))
        return [f"{count:,} images have no partner: {pattern}"]
    lines = []
    for names, side, opposite in zip(orphans, SIDES, SIDES[::-1], strict=True):
        if names:
            have = "image has" if len(names) == 1 else "images have"
            lines.append(f"{len(names):,} {side} {have} no {opposite} image of the same name: {listed(names)}")
    return lines
