"""Find wanted names among those of a data set, and say why one is not found."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import PurePosixPath

from common.errors import printable
from common.names.matching import base_stem, composed, grouped, stem

SIDES = ("left", "right")
MOST_COMPARED = 2000  # names that are compared letter by letter
_Table = dict[str, list[int]]


class Names:
    """The names of a data set: file names, or with sub-folders relative paths with `/`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        entries = [(composed(name), index) for index, name in enumerate(names)]
        self._tables = _tables(entries)
        self._ends = _tables([(end, index) for name, index in entries if "/" in name for end in _ends(name)[1:]])
        self._folders = {part for name, _ in entries for part in name.split("/")[:-1]}
        self._known: dict[str, tuple[list[int], str]] = {}

    def find(self, wanted: str) -> tuple[list[int], str]:
        """Return the indices of the names that `wanted` means (several where it is ambiguous), and the folders before
        it that they do not have.

        The order: the full name; `wanted` as a stem; its own stem; then, where either holds folders, the end of the
        path: `left/cat.png`, `/data/left/cat.png` and `left\\cat.png` find `cat.png`, and `0001.png` finds
        `cat/0001.png` where there is only one of that name.
        """
        if wanted not in self._known:
            self._known[wanted] = self._find(wanted)
        return self._known[wanted]

    def _find(self, wanted: str) -> tuple[list[int], str]:
        for name in dict.fromkeys((composed(wanted), composed(wanted.strip()))):
            if indices := _look_up(self._tables, name):
                return indices, ""
        if "/" not in name and "\\" not in name:
            return _look_up(self._ends, name), ""
        path = "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        below = _below_side(path)
        for end in _ends(below):
            folders = path[: len(path) - len(end)].rstrip("/")
            if PurePosixPath(folders).name in self._folders and end != below:
                break  # a folder of the data set, which has no such file
            if indices := _look_up(self._tables, end):
                return indices, folders
        return _look_up(self._ends, below) if below else [], ""


def _tables(items: Sequence[tuple[str, int]]) -> tuple[_Table, _Table]:
    """Return the indices by the full names, and by their stems."""
    return grouped(items), grouped((stem(name), index) for name, index in items)


def _look_up(tables: tuple[_Table, _Table], wanted: str) -> list[int]:
    """Return the indices of a name: in full, as a stem, by its own stem."""
    full, stems = tables
    return full.get(wanted) or stems.get(wanted) or stems.get(stem(wanted)) or []


def _ends(path: str) -> list[str]:
    """`a/b/c` -> `a/b/c`, `b/c`, `c`."""
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _below_side(path: str) -> str:
    """Return what follows the last folder `left` or `right` in a path; the path itself without such a folder."""
    parts = path.split("/")
    sides = [number for number, part in enumerate(parts[:-1], 1) if part.lower() in SIDES]
    return "/".join(parts[sides[-1] :]) if sides else path


def set_of(folders: str) -> str:
    """Return the folders before `left` or `right` at their end: `data/one/left` -> `data/one`."""
    path = PurePosixPath(folders)
    return str(path.parent if path.name.lower() in SIDES else path)


# --- why a name is not found ---


def _without_zeros(name: str) -> str:
    """`0001.png`, `1`, `1.0` and `1e0` -> `1`; every number in a name loses its leading zeros."""
    base = base_stem(name)
    if re.fullmatch(r"\d+(\.0*|[eE]\+?\d{1,2})", base):
        base = str(int(float(base)))
    return re.sub(r"\d+", lambda number: number[0].lstrip("0") or "0", base)


def _shortened(name: str) -> str:
    """`123456789012345` and `1.23457E+14` -> `1.23457E+14`; nothing for names that are no long numbers."""
    base = base_stem(name)
    is_long = re.fullmatch(r"\d{12,300}|\d\.\d+[eE]\+\d{2}", base)
    return f"{float(base):.5E}" if is_long else ""


def _without_accents(name: str) -> str:
    """`été.png`, `ete` and `Ã©tÃ©`, which is UTF-8 that was read as CP-1252, -> `ete`."""
    base = base_stem(name)
    with suppress(ValueError):
        base = base.encode("cp1252").decode("utf-8")
    return re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", base))


def _without_letters(name: str) -> str:
    """`été.png` and `?t?` -> `t`: what every encoding keeps; nothing for names that have no other letters."""
    base = base_stem(name)
    return re.sub(r"[^ -~]+|\?", "", base) if re.search(r"[^ -~]|\?", base) else ""


ENCODING = ": is the list in another encoding than UTF-8?"
SPREADSHEET = ", as spreadsheets do it: keep the column as text"
REASONS: tuple[tuple[str, str, Callable[[str], str]], ...] = (
    ("upper and lower case differ", "", lambda name: stem(name).casefold()),
    ("the folders differ", "", base_stem),
    ("leading zeros are lost", SPREADSHEET, _without_zeros),
    ("long numbers are shortened", SPREADSHEET, _shortened),
    ("the suffix, or what follows a dot, differs", "", lambda name: base_stem(name).partition(".")[0]),
    ("accents or other letters differ", ENCODING, _without_accents),
    ("accents or other letters differ", ENCODING, _without_letters),
    ("spaces, dashes or other signs differ", "", lambda name: re.sub(r"[\W_]+", "", base_stem(name))),
    ("case and other signs differ", "", lambda name: re.sub(r"[\W_]+", "", base_stem(name)).casefold()),
)
"""Likely reasons why names do not match: the reason, what it means for a list, and what two such names have in common.
The first match counts."""


def likely_reason(wanted: Sequence[str], names: Sequence[str]) -> str:
    """Return one of the wanted names beside an existing one, and the likely reason why they do not match."""
    for reason, advice, key in REASONS:
        if near := _alike(wanted[:MOST_COMPARED], names, key):
            return f"'{printable(near[0][0])}' is wanted, and '{printable(near[0][1])}' is there: {reason}{advice}"
    nearest = (get_close_matches(wanted[0], names[:MOST_COMPARED], 1) or names[:1])[0]
    return f"'{printable(wanted[0])}' is wanted, and for example '{printable(nearest)}' is there"


def shared_reason(left: Sequence[str], right: Sequence[str]) -> str:
    """Return why most names of two sides do not match, with an example; empty where there is no such reason."""
    for reason, _, key in REASONS:
        near = _alike(left[:MOST_COMPARED], right, key)
        if near and 2 * len({key(name) for name, _ in near}) >= min(len(left), len(right), MOST_COMPARED):
            return f"{reason}, such as '{printable(near[0][0])}' and '{printable(near[0][1])}'"
    return ""


def _alike(some: Sequence[str], others: Sequence[str], key: Callable[[str], str]) -> list[tuple[str, str]]:
    """Return pairs of names that have a key in common."""
    present = {key(name): name for name in reversed(others)}
    return [(name, present[own_key]) for name in some if (own_key := key(name)) and own_key in present]
