"""The numbers of features looked at before anything is learned from them: finite, and not all alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, printable
from featuresExtractor.embeddings import CHUNK_BYTES
from featuresExtractor.features.layout import Layout
from featuresExtractor.features.table import Table

Numbers = NDArray[np.floating[Any]]

ALIKE = 1e-5  # of the largest value: what differs by less differs by rounding alone
NARROW = 16  # columns in which a zero vector is looked for first
CAUSES = (
    "weights that do not belong to the network, blank images, or images prepared in another way than it was trained"
)


def check_values(given: Table, layout: Layout, path: Path) -> list[str]:
    """Return warnings about zero vectors. InputError, with the pair, where a value is not finite in float32, and for a
    side whose vectors are all alike or all zero. Rows are looked at in chunks: a memory map is not to be held whole."""
    zeros: list[tuple[str, int]] = []
    for side, values in (("left", given.left), ("right", given.right)):
        empty: list[int] = []
        for first, chunk in _chunks(values):
            if not np.isfinite(chunk).all():
                raise _not_finite(side, first, chunk, layout, path)
            empty += [first + row for row in zero_rows(chunk)]
        if fault := fault_of(values, len(empty)):
            raise InputError(f"{path}: the {side} vectors are {fault}")
        zeros += [(side, row) for row in empty]
    if not zeros:
        return []
    shown = "; ".join(_place(side, row, layout) for side, row in zeros[:2])
    return [f"warning: {path}: {len(zeros):,} vectors are all zero, and like nothing at all ({shown})"]


def _chunks(values: Numbers) -> Iterator[tuple[int, Numbers]]:
    """The rows in order as float32, some 64 MB at a time, each with the number of its first row."""
    step = max(1, CHUNK_BYTES // (4 * values.shape[1]))
    for first in range(0, len(values), step):
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite
            yield first, values[first : first + step].astype(np.float32, copy=False)


def zero_rows(rows: Numbers) -> list[int]:
    """Return the indices of rows (n, D) that are zero in every column; few columns tell for nearly all."""
    candidates = np.flatnonzero(~rows[:, :NARROW].any(axis=1))
    return [row for row in candidates.tolist() if not rows[row].any()]


def fault_of(values: Numbers, zeros: int) -> str | None:
    """Return what is wrong with vectors (N, D), of which `zeros` are zero: all zero, or all alike but for rounding.

    None when they differ. Reads no further than to the first row that differs.
    """
    if zeros == len(values):
        return f"all zero; likely causes: {CAUSES}"
    first = np.asarray(values[0], np.float64)
    tolerance = ALIKE * np.abs(first).max()
    step = 1
    row = 1
    while row < len(values):
        if (np.abs(np.asarray(values[row : row + step], np.float64) - first) > tolerance).any():
            return None
        row, step = row + step, min(2 * step, max(1, CHUNK_BYTES // (8 * values.shape[1])))
    return f"all alike; likely causes: {CAUSES}" if len(values) > 1 else None


def _not_finite(side: str, first: int, chunk: Numbers, layout: Layout, path: Path) -> InputError:
    """The error for the first value of a chunk that is no finite number."""
    row, column = np.argwhere(~np.isfinite(chunk))[0].tolist()
    rows = int((~np.isfinite(chunk)).any(axis=1).sum())
    more = f" ({rows:,} such vectors or more)" if rows > 1 else ""
    value = f"{chunk[row, column]} at index {column}"
    place = _place(side, first + row, layout)
    return InputError(f"{path}: {place}: {value}, not a finite number{more}; extract it again without it, or in fp32")


def _place(side: str, row: int, layout: Layout) -> str:
    """The pair, side and view of a row."""
    ((view, pair),) = np.argwhere((layout.left if side == "left" else layout.right) == row).tolist()
    name = printable(" / ".join(dict.fromkeys(layout.names[pair])))
    return f"{name}, {side}, view {view}"
