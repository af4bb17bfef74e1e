"""File names: what makes two of them a pair."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Sequence
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


def stem(name: str) -> str:
    """Return `name` without the suffix of an image, in Unicode's composed form: `scene.1.png` -> `scene.1`.

    Folders before the name stay. The composed form matters because some file systems store `é` as `e` and a combining
    accent.
    """
    composed = unicodedata.normalize("NFC", name)
    rest, dot, suffix = composed.rpartition(".")
    known = f".{suffix}".lower() in SUFFIXES and rest.rpartition("/")[2]
    return rest if dot and known else composed


def base_stem(name: str) -> str:
    """Return the stem of the last part of a path, whichever slashes it has."""
    return stem(name.replace("\\", "/").rpartition("/")[2])


@dataclass(frozen=True)
class Match:
    """Which of two lists of names belong together: `pairs` of indices, in the order of the first list; the indices that
    are left on each side; and names of which several have the same stem, so that none of them can be paired."""

    pairs: list[tuple[int, int]]
    left: list[int]
    right: list[int]
    doubles: list[str]


def match(left: Sequence[str], right: Sequence[str], folders: bool = True) -> Match:
    """Pair two lists of names: by the full name first, then by `stem`; without `folders` at last by the stem of the
    last part of a path. A name is paired only where it is the only one of its kind on both sides."""
    partners: dict[int, int] = {}
    doubles: dict[str, None] = {}
    for key in (_composed, stem) if folders else (_composed, stem, base_stem):
        sides = [_by_key(names, taken, key) for names, taken in ((left, partners.keys()), (right, partners.values()))]
        for name in sides[0].keys() & sides[1].keys():
            here, there = sides[0][name], sides[1][name]
            if len(here) == len(there) == 1:
                partners[here[0]] = there[0]
            elif key is stem:
                doubles |= dict.fromkeys([left[index] for index in here] + [right[index] for index in there])
    taken = set(partners.values())
    return Match(
        sorted(partners.items()),
        [index for index in range(len(left)) if index not in partners],
        [index for index in range(len(right)) if index not in taken],
        sorted(doubles),
    )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _by_key(names: Sequence[str], taken: Collection[int], key: Callable[[str], str]) -> dict[str, list[int]]:
    """The indices of the names that are not `taken`, by their key."""
    found: dict[str, list[int]] = {}
    without = set(taken)
    for index, name in enumerate(names):
        if index not in without:
            found.setdefault(key(name), []).append(index)
    return found
