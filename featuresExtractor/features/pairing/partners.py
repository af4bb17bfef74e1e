"""Find the right row of each left one: by name, not by the order of the rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import printable
from common.names.matching import SUFFIXES, Match, match


@dataclass(frozen=True)
class Partners:
    """The `rows` (N,) on the right that belong to the rows on the left; how many of them are `moved`, since the sides
    are in different orders; and a `warning` where names do not decide, so that the order of the rows does."""

    rows: NDArray[np.int64]
    moved: int = 0
    warning: str | None = None


def find_partners(left: Sequence[str], right: Sequence[str]) -> Partners:
    """Return the partners among the rows of one view.

    Where both sides hold the same names (in full, or without folders and the suffix of an image), each once, rows of
    one name are partners. Otherwise row i on the left belongs to row i on the right, with a warning.
    """
    in_order = np.arange(len(left))
    if left == right or _same_stems(left, right):
        return Partners(in_order)
    matched = match(left, right, folders=False)
    if len(matched.pairs) < len(left):
        relative = match(_relative(left), _relative(right))
        matched = max(matched, relative, key=lambda way: len(way.pairs))
    if len(matched.pairs) < len(left):
        return Partners(in_order, warning=_warning(left, right, matched))
    rows = np.array([partner for _, partner in matched.pairs], np.int64)
    return Partners(rows, int((rows != in_order).sum()))


def _relative(names: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them begin with, such as `photos/left/`."""
    paths = [name.replace("\\", "/") for name in names]
    start = 1 + os.path.commonprefix(paths).rfind("/")  # noqa: RUF071  (whole folders are taken, by the slash)
    return [path[start:] for path in paths]


def _same_stems(left: Sequence[str], right: Sequence[str]) -> bool:
    """Return whether each row has the same stem on both sides, which no other row has: the quick answer for most
    files."""
    stems = [name[: name.rfind(".")] for name in left]
    if stems != [name[: name.rfind(".")] for name in right] or len(set(stems)) < len(stems):
        return False
    suffixes = {name[len(rest) :] for names in (left, right) for name, rest in zip(names, stems, strict=True)}
    return {suffix.lower() for suffix in suffixes} <= SUFFIXES and "" not in stems and "".join(stems).isascii()


def _warning(left: Sequence[str], right: Sequence[str], matched: Match) -> str:
    """Return how many rows have different names on the two sides, two of them, and how many names are in other rows."""
    partners = dict(matched.pairs)
    differing = [row for row in range(len(left)) if partners.get(row) != row]
    examples = "; ".join(f"{printable(left[row])} beside {printable(right[row])}" for row in differing[:2])
    elsewhere = sum(row != partner for row, partner in matched.pairs)
    more = f", although {elsewhere:,} names are in another row on the right" if elsewhere else ""
    return (
        f"{len(differing):,} of {len(left):,} rows have different names on the left and right ({examples}); rows are "
        f"paired by their order{more}. To pair them by name, give both sides of a pair the same name"
    )
