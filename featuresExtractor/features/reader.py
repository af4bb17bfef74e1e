"""Read the pairs of a features file of any known kind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from common.errors import InputError
from featuresExtractor.features.arrays import array_advice, open_arrays, read_npz
from featuresExtractor.features.features_file import name_field
from featuresExtractor.features.fields import HOW, pairs_of
from featuresExtractor.features.npy import MAGIC, Npy, open_npy
from featuresExtractor.features.pairing.layout import in_memory
from featuresExtractor.features.table import Embeddings, Table

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
OTHERS = (
    *(".csv", ".tsv", ".txt", ".json", ".parquet", ".feather", ".arrow", ".xls", ".xlsx", ".mat", ".h5", ".hdf5"),
    *(".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin", ".safetensors", ".zarr", ".tfrecord", ".zip"),
)
"""Suffixes of files that other tools write features to, and that are not read here."""


def open_pairs(path: str | os.PathLike[str], right: str | os.PathLike[str] | None = None) -> Table:
    """Return the pairs of a file as it holds them: row by row, not yet paired by name.

    Two plain `.npy` arrays (`path` and `right`) and `.npy` files of rows with fields are memory maps; `.npz` files and
    old pickled dicts are read whole. InputError for anything else. Nothing is unpickled.
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
    return read_npz(path) if start.startswith(ZIP) else _read_npy(path)


def _read_npy(path: Path) -> Table:
    """Return the pairs of a `.npy`: rows with fields, or one pickled dict."""
    npy = open_npy(path, f"not a .npy or .npz file; extract.py writes the features file, and {HOW}")
    if npy.dtype == np.dtype(object) and npy.shape == ():
        from featuresExtractor.features.legacy_file import read_old_file

        return read_old_file(path, npy.start)
    if npy.dtype.names is None:
        raise array_advice(npy)
    _check_rows(npy, set(npy.dtype.names))
    rows = npy.mapped()
    return pairs_of({name: rows[name] for name in npy.dtype.names}, path)


def _check_rows(npy: Npy, names: set[str]) -> None:
    """Raise InputError for rows with fields that are none of pairs, or a file that is not whole."""
    path, row, shape = npy.path, npy.dtype, npy.shape
    if row.hasobject:
        field = next(name for name in row.names or () if row[name].hasobject)
        reason = f"field {field} holds pickled objects, which are not read"
        raise InputError(f"{path}: {reason}; save names as text (dtype=str), vectors as float32. {HOW}")
    if {"features", name_field("features")} <= names and "left" not in names:
        raise InputError(f"{path}: features of a flat folder; training needs pairs (a folder with left/ and right/)")
    if len(shape) != 1 or npy.fortran:
        raise InputError(f"{path}: not a features file: its shape is {shape}, not (rows,). {HOW}")
    if not npy.is_whole:
        raise InputError(f"{path}: cut short or damaged: its header promises {shape[0]:,} rows; extract it again")
    if not shape[0] or not row.itemsize:
        raise InputError(f"{path}: holds no pairs, or no numbers for them; extract it again")


def read_pairs(path: str | os.PathLike[str]) -> Embeddings:
    """Return the pairs of any file that `train.py` takes, view 0 first in the order of its left rows; or InputError."""
    return in_memory(open_pairs(path), Path(path))
