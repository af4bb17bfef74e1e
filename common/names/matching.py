"""Decide which two file names make a pair."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

SUFFIXES = frozenset(
    "." + suffix
    for line in (
        "apng avif avifs blp bmp bw cur dcx dds dib emf eps fit fits fli flc ftc ftu gbr gif hdr heic heics heif heifs",
        "hif icb icns ico iim im j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx jxl jxr mpo msp palm pbm pcd pcx pfm pgm",
        "png pnm ppm ps psb psd pxr qoi ras rgb rgba sgi svg svgz tga tif tiff vda vst webp wmf xbm xcf xpm",
        "3fr ari arw cr2 cr3 crw dcr dng erf gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f",
    )
    for suffix in line.split()
)
"""What counts as the suffix of an image, in lower case; anything else behind a dot belongs to the name."""


def composed(name: str) -> str:
    """Return `name` in Unicode's composed form: some file systems store `é` as `e` and a combining accent."""
    return unicodedata.normalize("NFC", name)


def stem(name: str) -> str:
    """Return `name` without the suffix of an image, in Unicode's composed form: `scene.1.png` -> `scene.1`.

    Folders before the name stay.
    """
    full = composed(name)
    rest, dot, suffix = full.rpartition(".")
    known = f".{suffix}".lower() in SUFFIXES and rest.rpartition("/")[2]
    return rest if dot and known else full


def base_stem(name: str) -> str:
    """Return the stem of the last part of a path, whichever slashes it has."""
    return stem(name.replace("\\", "/").rpartition("/")[2])


@dataclass(frozen=True)
class Match:
    """Which names of two lists belong together: `pairs` of indices, in the order of the first list; the indices without
    a partner on each side; and `doubles`, names of which several have the same stem, so that none is paired."""

    pairs: list[tuple[int, int]]
    left: list[int]
    right: list[int]
    doubles: list[str]


def match(left: Sequence[str], right: Sequence[str], folders: bool = True) -> Match:
    """Pair two lists of names: by the full name first, then by `stem`; without `folders` at last by the stem of the
    last part of a path. A name is paired only where it is the only one of its kind on both sides."""
    partners: dict[int, int] = {}
    doubles: dict[str, None] = {}
    for key in (composed, stem) if folders else (composed, stem, base_stem):
        lefts, rights = _by_key(left, partners.keys(), key), _by_key(right, partners.values(), key)
        for name in lefts.keys() & rights.keys():
            if len(lefts[name]) == len(rights[name]) == 1:
                partners[lefts[name][0]] = rights[name][0]
            elif key is stem:
                doubles |= dict.fromkeys(
                    [left[index] for index in lefts[name]] + [right[index] for index in rights[name]]
                )
    taken = set(partners.values())
    return Match(
        sorted(partners.items()),
        [index for index in range(len(left)) if index not in partners],
        [index for index in range(len(right)) if index not in taken],
        sorted(doubles),
    )


def _by_key(names: Sequence[str], taken: Collection[int], key: Callable[[str], str]) -> dict[str, list[int]]:
    """Return the indices of the names that are not `taken`, by their key."""
    excluded = set(taken)
    return grouped((key(name), index) for index, name in enumerate(names) if index not in excluded)


def grouped(items: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Return the indices that belong to each key, in their order."""
    indices: dict[str, list[int]] = {}
    for key, index in items:
        indices.setdefault(key, []).append(index)
    return indices
