"""Read features from plain arrays: the members of a `.npz`, or two `.npy` files of (N, D), left and right."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, listed
from common.machine.resources import available_memory, require_memory
from featuresExtractor.features.fields import FLOATS, HOW, KNOWN, pairs_of, unnamed, unnamed_note
from featuresExtractor.features.npy import Npy, open_npy, read_header
from featuresExtractor.features.table import Table

COPIES = 3  # of the arrays that are in memory for a moment while they are read and paired
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what np.savez and np.savez_compressed write


def read_npz(path: Path) -> Table:
    """Return the pairs in a `.npz`; InputError where it holds none, or more than memory has. Nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            _check_memory(archive, [info for key, info in members.items() if key in KNOWN], path)
            fields = {key: _member(archive, info, path) if key in KNOWN else None for key, info in members.items()}
    except (ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: truncated or corrupt .npz ({error}); copy or write it again") from error
    return pairs_of(fields, path)


def _check_memory(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], path: Path) -> None:
    """Raise OutOfMemory when the arrays would not fit in memory, by their headers: a few compressed bytes can stand for
    any size."""
    needed = COPIES * sum(_header(archive, info, path)[3] for info in members)
    advice = "use fewer dimensions, or a .npy, which is not held whole"
    require_memory(needed, available_memory(), f"{path}: takes", advice)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> tuple[tuple[int, ...], bool, Any, int]:
    """Return shape, order, type and bytes of an array, whose header and size must agree."""
    if info.compress_type not in PACKED:
        raise InputError(f"{path}: {info.filename} is compressed as np.savez never does; write it again with np.savez")
    with archive.open(info) as file:
        shape, fortran, dtype = read_header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            reason = f"field {info.filename.removesuffix('.npy')} holds pickled objects, which are not read"
            raise InputError(f"{path}: {reason}; save names as np.array(names, dtype=str), vectors as float32")
        if min(shape, default=0) < 0 or file.tell() + size != info.file_size:
            raise ValueError(f"{info.filename} is not as long as its header says")
    return shape, fortran, dtype, size


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """Return an array of the archive; its checksum is compared at its end."""
    shape, fortran, dtype, _ = _header(archive, info, path)
    with archive.open(info) as file:
        read_header(file)
        return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")


def open_arrays(left: Path, right: Path) -> Table:
    """Return the pairs in two `.npy` files of (N, D) floats, whose rows belong together by their order; as memory maps.

    InputError where one is of another kind, or their shapes differ.
    """
    left_rows, right_rows = _vectors(left), _vectors(right)
    if left_rows.shape != right_rows.shape:
        shapes = f"{left}: shape {left_rows.shape}, {right}: {right_rows.shape}"
        raise InputError(f"{shapes}; --paired takes two arrays of one shape")
    names = unnamed(len(left_rows))
    return Table(left_rows, right_rows, names, None, (unnamed_note(f"{left} and {right}", None),))


def _vectors(path: Path) -> NDArray[np.floating[Any]]:
    """Return a `.npy` of (N, D) floats as a memory map."""
    npy = open_npy(path, "not a .npy file; --paired takes two .npy files of shape (N, D)")
    dtype, shape = npy.dtype, npy.shape
    if dtype.names or dtype.hasobject:
        raise InputError(f"{path}: holds fields or objects, not one array; give it alone, without --paired")
    if dtype.kind != "f" or dtype.itemsize not in FLOATS or len(shape) != 2 or min(shape) < 1:
        reason = f"{dtype.name}, shape {shape}; float16, float32 or float64 of shape (N, D) is expected"
        raise InputError(f"{path}: {reason}. Convert it, or: {HOW}")
    if not npy.is_whole:
        raise InputError(f"{path}: truncated or corrupt: its header promises shape {shape}; copy or write it again")
    return npy.mapped()


def array_advice(npy: Npy) -> InputError:
    """Return the error for a `.npy` that holds one array and no fields, with what to do."""
    dtype, shape = npy.dtype, npy.shape
    reason = f"{npy.path}: one array ({dtype.name}, shape {shape}), not rows with fields"
    if dtype.kind == "f" and len(shape) == 2:
        return InputError(f"{reason}; give the arrays of both sides, -d LEFT.npy RIGHT.npy --paired, or: {HOW}")
    if dtype.kind == "f" and len(shape) == 3 and 2 in (shape[0], shape[1]):
        sides = "array[0], array[1]" if shape[0] == 2 else "array[:, 0], array[:, 1]"
        return InputError(f"{reason}; where these are both sides, write_pairs(path, {sides}) makes it one. {HOW}")
    return InputError(f"{reason}; fields are {listed(('left', 'right', 'left_name', 'right_name', 'view'))}. {HOW}")
