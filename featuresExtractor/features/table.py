"""The types of what is read: rows as a file holds them, and pairs in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import printable


@dataclass(frozen=True)
class Table:
    """Rows as a file holds them, not yet paired by name: `left` and `right` (R, D) floats of any size, the two names of
    each row, and its view (0 original, 1 flipped; None where the file does not say). `notes` are to be printed."""

    left: NDArray[np.floating[Any]]
    right: NDArray[np.floating[Any]]
    names: list[tuple[str, str]]
    view: NDArray[np.uint8] | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Embeddings(Table):
    """The vectors of pairs in memory, paired by name: `left` and `right` (R, D) float32, the two names of each row, and
    its view. `notes` is what was odd about the file."""

    left: NDArray[np.float32]
    right: NDArray[np.float32]
    view: NDArray[np.uint8]


def row_label(names: tuple[str, str]) -> str:
    """Return both names of a row for a message: `a.jpg / a.png`, or only `a.jpg` where they are the same."""
    return printable(" / ".join(dict.fromkeys(names)))
