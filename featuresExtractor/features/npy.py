"""Read the header of an untrusted `.npy` file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 2**16  # bytes, which names of fields and shapes do not need


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type from the header of a `.npy` file; ValueError when it has none."""
    major, _ = np.lib.format.read_magic(file)
    if major > 1:
        length = int.from_bytes(file.read(4), "little")
        if length > LONGEST_HEADER:
            raise ValueError("its header is too long")
        file.seek(-4, os.SEEK_CUR)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(file)
    except Exception as error:  # a hostile header leads numpy's parser into errors of many types
        raise ValueError("its header cannot be read") from error
    return shape, fortran, dtype


@dataclass(frozen=True)
class Npy:
    """A `.npy` file by its header: the shape, whether it is in Fortran's order, the type, and where its data starts."""

    path: Path
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    start: int

    @property
    def is_whole(self) -> bool:
        """Whether the file is exactly as long as its header says."""
        size = self.start + math.prod(self.shape) * self.dtype.itemsize
        return min(self.shape, default=0) >= 0 and self.path.stat().st_size == size

    def mapped(self) -> NDArray[Any]:
        """Return the array as a read-only memory map."""
        shape = self.shape[::-1] if self.fortran else self.shape
        array: NDArray[Any] = np.memmap(self.path, self.dtype, mode="r", offset=self.start, shape=shape)
        return array.T if self.fortran else array


def open_npy(path: Path, otherwise: str) -> Npy:
    """Return a `.npy` file by its header; InputError where it cannot be opened, and with the text `otherwise` where it
    is no `.npy` file."""
    try:
        with path.open("rb") as file:
            return Npy(path, *read_header(file), file.tell())
    except OSError as error:
        raise InputError(f"{path}: no features file could be read here ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: {otherwise}") from error
