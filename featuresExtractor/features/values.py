"""Check the values of features before anything is learned from them: finite, and not all alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from featuresExtractor.features.alike import fault_of
from featuresExtractor.features.features_file import CHUNK_BYTES
from featuresExtractor.features.pairing.layout import Layout
from featuresExtractor.features.table import Table, row_label

Numbers = NDArray[np.floating[Any]]

NARROW = 16  # columns in which a zero vector is looked for first


def check_values(given: Table, layout: Layout, path: Path) -> list[str]:
    """Return warnings about zero vectors. InputError, with the pair, where a value is not finite in float32, and for a
    side whose vectors are all alike or all zero. Rows are read in chunks: a memory map may be larger than memory."""
    zeros: list[tuple[str, int]] = []
    for side, values, rows in (("left", given.left, layout.left), ("right", given.right, layout.right)):
        for first, chunk in _chunks(values):
            if values.dtype.itemsize > chunk.dtype.itemsize:
                _check_range(values[first : first + len(chunk)], chunk, side, path)
            if not np.isfinite(chunk).all():
                raise _not_finite(side, first, chunk, layout, path)
            zeros += [(side, first + row) for row in zero_rows(chunk)]
        if fault := fault_of(values, rows[0]):
            raise InputError(f"{path}: the {side} vectors are {fault}")
    if not zeros:
        return []
    examples = "; ".join(_place(side, row, layout) for side, row in zeros[:2])
    return [f"warning: {path}: {len(zeros):,} vectors are zero, so their similarity to any other is 0 ({examples})"]


def _chunks(values: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Yield the rows in order as float32, some 64 MB at a time, each with the index of its first row."""
    step = max(1, CHUNK_BYTES // (4 * values.shape[1]))
    for first in range(0, len(values), step):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            yield first, values[first : first + step].astype(np.float32, copy=False)


def _check_range(given: Numbers, chunk: Numbers, side: str, path: Path) -> None:
    """Raise InputError where float32 makes most of float64 vectors infinite or zero: all are of another magnitude."""
    infinite = (np.isfinite(given) & ~np.isfinite(chunk)).any(axis=1)
    lost = infinite | (given.any(axis=1) & ~chunk.any(axis=1))
    if 2 * lost.sum() > len(given):
        largest = np.abs(given[np.isfinite(given)]).max()
        reason = f"the {side} vectors hold numbers that float32 does not (the largest is {largest:.3g})"
        raise InputError(f"{path}: {reason}; divide all of them by one number")


def zero_rows(rows: Numbers) -> list[int]:
    """Return the indices of rows (n, D) that are zero in every column; the first columns decide for nearly all."""
    candidates = np.flatnonzero(rows[:, 0] == 0)
    candidates = candidates[~rows[candidates, :NARROW].any(axis=1)]
    return [row for row in candidates.tolist() if not rows[row].any()]


def _not_finite(side: str, first: int, chunk: Numbers, layout: Layout, path: Path) -> InputError:
    """Return the error for the first value of a chunk that is no finite number."""
    row, column = np.argwhere(~np.isfinite(chunk))[0].tolist()
    rows = int((~np.isfinite(chunk)).any(axis=1).sum())
    more = f" ({rows:,} such vectors or more)" if rows > 1 else ""
    value = f"{chunk[row, column]} at index {column}"
    place = _place(side, first + row, layout)
    return InputError(
        f"{path}: {place}: {value}, not a finite number{more}; replace or leave out its image and extract it again"
    )


def _place(side: str, row: int, layout: Layout) -> str:
    """Return the pair, side and view of a row."""
    ((view, pair),) = np.argwhere((layout.left if side == "left" else layout.right) == row).tolist()
    return f"{row_label(layout.names[pair])}, {side}, view {view}"
