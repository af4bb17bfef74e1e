"""Recognise vectors of which nothing can be learned: all alike, or all zero."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, printable
from featuresExtractor.features.features_file import Rows

logger = logging.getLogger(__name__)

ZERO, SAME = "all zero", "all alike"
ALIKE = 1e-6  # of the largest value: what differs by less differs by rounding alone
MOST = 2**22  # values that are compared at once
CAUSES = (
    "likely causes: weights that do not belong to the network, blank images, or another preprocessing than the network "
    "was trained with"
)


def fault_of(vectors: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> str | None:
    """Return what is wrong with these `rows` of vectors (N, D): all zero, or alike but for rounding, and the causes.

    None when they differ. Reads only up to the first row that differs, so that it costs nothing for most files.
    """
    first = np.asarray(vectors[rows[0]], np.float64)
    tolerance, start, step = ALIKE * np.abs(first).max(), 1, 1
    while start < len(rows):
        some = np.asarray(vectors[rows[start : start + step]], np.float64)
        if (np.abs(some - first) > tolerance).any():
            return None
        start, step = start + step, min(2 * step, max(1, MOST // len(first)))
    if not first.any():
        return f"{ZERO}; {CAUSES}"
    return f"{SAME}; {CAUSES}" if len(rows) > 1 else None


def check_varied(path: Path, rows: Rows, views: int) -> None:
    """Check features that are, or will be, at `path`. InputError where nothing can be learned of them, a warning where
    that is so of one side alone."""
    originals = np.arange(rows.count // views)
    faults = {side: fault for side in rows.sides if (fault := fault_of(rows.all()[side], originals))}
    for side, fault in faults.items():
        message = f"{printable(str(path))}: the {side} vectors are {fault}"
        if len(faults) == len(rows.sides) or fault.startswith(ZERO):
            raise InputError(message)
        logger.warning(f"warning: {message}")
