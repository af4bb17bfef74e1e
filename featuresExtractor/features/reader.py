"""A file of pairs of any known kind, reason by its first bytes: rows with fields, arrays, or the field's old dict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from featuresExtractor.features.arrays import array_advice, open_arrays, read_npz
from featuresExtractor.features.features_file import name_field
from featuresExtractor.features.fields import HOW, pairs_of
from featuresExtractor.features.npy import MAGIC, read_header
from featuresExtractor.features.pairing.layout import in_memory
from featuresExtractor.features.table import Embeddings, Table

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
OTHERS = (
    *(".csv", ".tsv", ".txt", ".json", ".parquet", ".feather", ".arrow", ".xls", ".xlsx", ".mat", ".h5", ".hdf5"),
    *(".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".safetensors", ".zarr", ".tfrecord", ".zip"),
)
"""Suffixes of files that other tools write features to, and that are not read here."""


def open_pairs(path: str | os.PathLike[str], right: str | os.PathLike[str] | None = None) -> Table:
    """Return the pairs of a file as they stand in it: row by row, not yet paired by name.

    Read are `.npy` files of rows with fields and two plain `.npy` arrays (`path` and `right`), both as memory maps;
    `.npz` files and the field's old pickled dicts, both held whole. InputError for anything else. Nothing is unpickled.
    """
    path = Path(path)
    if right is not None:
        return open_arrays(path, Path(right))
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"{path}: no features file could be read here ({error.strerror})") from error
    if path.suffix.lower() in OTHERS and start != MAGIC:
        reason = f"{path.suffix.lower()} files are not read here"
        raise InputError(
            f"{path}: {reason}; save the arrays with np.savez(file, left=..., right=..., name=...), or: {HOW}"
        )
    if start.startswith(ZIP):
        return read_npz(path)
    return _open_npy(path)


def _open_npy(path: Path) -> Table:
    try:
        with path.open("rb") as file:
            shape, fortran, row = read_header(file)
            start = file.tell()
    except ValueError as error:
        reason = "not a .npy or .npz file; extract.py writes the features file"
        raise InputError(f"{path}: {reason}, and {HOW}") from error
    if row == np.dtype(object) and shape == ():
        from featuresExtractor.features.legacy_file import read_old_file

        return read_old_file(path, start)
    if row.names is None:
        raise array_advice(path, shape, row)
    _check_rows(path, shape, fortran, row, start)
    table: NDArray[Any] = np.memmap(path, row, mode="r", offset=start, shape=shape)
    return pairs_of({name: table[name] for name in row.names}, path)


def _check_rows(path: Path, shape: tuple[int, ...], fortran: bool, row: np.dtype[Any], start: int) -> None:
    """InputError for rows with fields that are none of pairs, or not all there."""
    names = set(row.names or ())
    if row.hasobject:
        field = next(name for name in row.names or () if row[name].hasobject)
        reason = f"field {field} holds pickled objects, which are not read"
        raise InputError(f"{path}: {reason}; save names as text (dtype=str), vectors as float32. {HOW}")
    if {"features", name_field("features")} <= names and "left" not in names:
        raise InputError(f"{path}: features of a flat folder; training needs pairs (a folder with left/ and right/)")
    if len(shape) != 1 or fortran:
        raise InputError(f"{path}: not a features file: its shape is {shape}, not (rows,). {HOW}")
    if path.stat().st_size != start + shape[0] * row.itemsize or shape[0] < 0:
        raise InputError(f"{path}: cut short or damaged: its header promises {shape[0]:,} rows; extract it again")
    if not shape[0] or not row.itemsize:
        raise InputError(f"{path}: holds no pairs, or no numbers for them; extract it again")


def read_pairs(path: str | os.PathLike[str]) -> Embeddings:
    """Return the pairs of any file that `train.py` takes, view 0 first in the order of its left rows; or InputError."""
    return in_memory(open_pairs(path), Path(path))
