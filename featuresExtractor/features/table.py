"""Pairs as they stand in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Table:
    """Rows as they stand in a file, not yet paired by name: `left` and `right` (R, D) floats of any size, the two names
    of each row, and its view (0 original, 1 flipped; None where the file does not say). `notes` are to be printed."""

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
