"""The header of a `.npy` array that may come from anyone."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

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
        shape, fortran, row = read(file)
    except Exception as error:  # a hostile header leads numpy's parser into errors of many types
        raise ValueError("its header cannot be read") from error
    return shape, fortran, row
