"""Which row of the right side belongs to a row of the left one: the names decide, not the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import printable
from common.names import SUFFIXES, Match, match


@dataclass(frozen=True)
class Partners:
    """For each row on the left the `rows` (N,) of its partner on the right; how many of these were `moved` from another
    place, and a `warning` where names do not tell partners, so that the order of the rows had to."""

    rows: NDArray[np.int64]
    moved: int = 0
    warning: str | None = None


def find_partners(left: Sequence[str], right: Sequence[str]) -> Partners:
    """Return the partners among the rows of one view.

    Where both sides hold the same names (in full, or but for folders and the suffix of an image), each once, partners
    are those of the same name. Otherwise the rows belong together by their order, with a warning.
    """
    in_order = np.arange(len(left))
    if left == right or _alike(left, right):
        return Partners(in_order)
    found = match(left, right, folders=False)
    if len(found.pairs) < len(left):
        return Partners(in_order, warning=_warning(left, right, found))
    rows = np.array([there for _, there in found.pairs], np.int64)
    return Partners(rows, int((rows != in_order).sum()))


def _alike(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether each row has one name on both sides but for the suffix, and no other row has it: then nothing need be
    looked for."""
    stems = [name[: name.rfind(".")] for name in left]
    if stems != [name[: name.rfind(".")] for name in right] or len(set(stems)) < len(stems):
        return False
    suffixes = {name[len(rest) :] for names in (left, right) for name, rest in zip(names, stems, strict=True)}
    return {suffix.lower() for suffix in suffixes} <= SUFFIXES and "" not in stems and "".join(stems).isascii()


def _warning(left: Sequence[str], right: Sequence[str], found: Match) -> str:
    """What to say where names do not tell the partners: how many, two of them, and whether some are in other rows."""
    known = dict(found.pairs)
    without = [row for row in range(len(left)) if known.get(row) != row]
    shown = "; ".join(f"{printable(left[row])} beside {printable(right[row])}" for row in without[:2])
    elsewhere = sum(row != there for row, there in found.pairs)
    more = f", although {elsewhere:,} names stand in another row of the right side" if elsewhere else ""
    return (
        f"{len(without):,} of {len(left):,} rows have another name on the right than on the left ({shown}); partners "
        f"are taken by the order of the rows{more}. Give both sides of a pair one name to have them paired by name"
    )
