"""The field's old features file: a dict that was pickled into a `.npy`; read without running anything in it.

Its keys are `left` and `right` (N x D floats; sometimes `left_ebds` and `right_ebds`), `left_name` and `right_name`
(lists of str). With augmentation the first half of the rows are originals and the second half their flipped copies.
"""

from __future__ import annotations

import io
import pickle  # only its reader of opcodes is used, with every class but arrays refused
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIASES = {"left": ("left", "left_ebds"), "right": ("right", "right_ebds")}


def _empty_array(kind: object, shape: object, code: object) -> NDArray[Any]:
    """What numpy's `_reconstruct` is called with when an array is unpickled, and nothing else: memory comes later,
    with the data."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise pickle.UnpicklingError("an array that numpy did not write")
    return np.ndarray((0,), np.int8)


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, tuples, strings, numbers and numpy arrays. Any other class or function is refused by name,
    before it is imported."""

    ADMITTED: dict[tuple[str, str], object] = {  # noqa: RUF012
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object called `module.name`."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ADMITTED[module, name]


def read_old_file(file: IO[bytes], path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str], list[str]]:
    """Left and right vectors (N, D) and names, from a file positioned behind its `.npy` header; or InputError."""
    content = _unpickled(file, path)
    if isinstance(content, np.ndarray) and content.shape == ():
        content = content.item()
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not a dict of left, right, left_name, right_name")
    left, right = (_vectors(content, side, path) for side in ALIASES)
    names = [_names(content, f"{side}_name", len(left), path) for side in ALIASES]
    if left.shape != right.shape:
        raise InputError(f"{path}: left is {left.shape} and right {right.shape}; one row a pair is expected in both")
    return left, right, names[0], names[1]


def _unpickled(file: IO[bytes], path: Path) -> object:
    try:
        return ArrayUnpickler(io.BytesIO(file.read())).load()
    except Exception as error:  # a file from elsewhere can fail in any way
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: refused: an old features file holds arrays, lists and strings alone ({reason})"
        ) from error


def _vectors(content: dict[str, Any], side: str, path: Path) -> NDArray[np.float32]:
    """The (N, D) array of a side under one of its names."""
    for key in ALIASES[side]:
        value = content.get(key)
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind == "f":
            return value.astype(np.float32)
    raise InputError(f"{path}: has no float array of shape (N, D) under {' or '.join(ALIASES[side])}")


def _names(content: dict[str, Any], key: str, count: int, path: Path) -> list[str]:
    """The file names of a side, one a row."""
    names = content.get(key)
    if isinstance(names, np.ndarray) and names.dtype.kind == "U":
        names = names.tolist()
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: {key} is not a list of {count:,} names")
    return names


def views_of(names: list[tuple[str, str]]) -> NDArray[np.uint8]:
    """The view of each row: the second half are flipped copies only if it names the same pairs as the first half."""
    half = len(names) // 2
    views = np.zeros(len(names), np.uint8)
    if half and len(names) == 2 * half and names[:half] == names[half:]:
        views[half:] = 1
    return views
