"""The field's old features file: a dict that was pickled into a `.npy`; read without running anything in it.

Its keys are `left` and `right` (N x D floats; sometimes `left_ebds` and `right_ebds`), `left_name` and `right_name`
(lists of str). With augmentation the first half of the rows are originals and the second half their flipped copies.
"""

from __future__ import annotations

import io
import pickle  # only its reader of opcodes is used, with every class refused but the stand-ins below
import pickletools
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_OPCODES = 10_000_000  # a name takes two, an array about twenty whatever its size
ALIASES = {"left": ("left", "left_ebds"), "right": ("right", "right_ebds")}


class PickledType:
    """Stands for the `numpy.dtype` of a pickled array: numbers, text or objects, and the order of their bytes."""

    dtype = np.dtype("u1")

    def __init__(self, code: str, _align: bool = False, _copy: bool = True) -> None:
        if not re.fullmatch(r"[?biufO]\d?|U\d{1,4}", code):
            raise pickle.UnpicklingError(f"an array of {code}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes the byte order from what numpy wrote; the rest is in the code or not for plain types."""
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands for the `numpy.ndarray` of a pickle and is made with checks: numpy's own way of filling an array
    believes the pickle's description of its type, and then reads memory that isn't the array's."""

    state: tuple[Any, ...] = (1, (0,), PickledType("f4"), False, b"")

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Takes (version, shape, type, whether in Fortran's order, bytes or list of objects)."""
        self.state = state

    def value(self) -> NDArray[Any]:
        """The array, made when it is asked for: a file can hold more arrays of the same bytes than memory has room."""
        _, shape, kind, fortran, data = self.state
        values = np.fromiter(data, object) if kind.dtype.kind == "O" else np.frombuffer(data, kind.dtype)
        return values.reshape(shape, order="F" if fortran else "C")


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, tuples, strings, numbers and numpy arrays. Any other class or function is refused by name,
    before it is imported."""

    ADMITTED: dict[tuple[str, str], object] = {  # noqa: RUF012
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): PickledType,
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): PickledArray,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The admitted object called `module.name`."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ADMITTED[module, name]


def read_old_file(file: IO[bytes], path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str], list[str]]:
    """Left and right vectors (N, D) and names, from a file positioned behind its `.npy` header; or InputError."""
    try:
        return _sides(_unpickled(file.read()), path)
    except InputError:
        raise
    except Exception as error:  # a file from elsewhere can fail in any way
        reason = printable(str(error)) or type(error).__name__
        raise InputError(
            f"{path}: refused: an old features file holds arrays, lists and strings alone ({reason})"
        ) from error


def _unpickled(pickled: bytes) -> object:
    """What was pickled, without the array of no dimensions that `np.save` puts around it."""
    _check_sizes(pickled)
    content = ArrayUnpickler(io.BytesIO(pickled)).load()
    if isinstance(content, PickledArray) and (array := content.value()).shape == ():
        return array.item()
    return content


def _sides(content: object, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str], list[str]]:
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no dict of left, right, left_name, right_name")
    left, right = (_vectors(content, side, path) for side in ALIASES)
    names = [_names(content, f"{side}_name", len(left), path) for side in ALIASES]
    if left.shape != right.shape:
        raise InputError(f"{path}: left is {left.shape} and right {right.shape}; one row a pair is expected in both")
    return left, right, names[0], names[1]


def _check_sizes(pickled: bytes) -> None:
    """Walks over the opcodes, of which an array's bytes are one, and refuses those for which the reader would make far
    more room than the file is long: it believes the lengths and the places in its memo that it is told."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):  # which checks the lengths of texts
        number = argument if isinstance(argument, int) else 0
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count:  # writers count them up from 0 or 1
            raise pickle.UnpicklingError(f"place {number:,} in the memo after {count:,} opcodes")
        if opcode.name == "FRAME" and number > len(pickled):
            raise pickle.UnpicklingError(f"a frame of {number:,} bytes in {len(pickled):,}")
        if count >= MOST_OPCODES:
            raise pickle.UnpicklingError(f"more than {MOST_OPCODES:,} opcodes")


def _vectors(content: dict[str, Any], side: str, path: Path) -> NDArray[np.float32]:
    """The (N, D) array of a side under one of its names."""
    for key in ALIASES[side]:
        value = _array(content, key)
        if value is not None and value.ndim == 2 and value.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what doesn't fit becomes infinite, and is refused as such
                return value.astype(np.float32)
    raise InputError(f"{path}: has no float array of shape (N, D) under {' or '.join(ALIASES[side])}")


def _array(content: dict[str, Any], key: str) -> NDArray[Any] | None:
    """The array under `key`, if there is one."""
    value = content.get(key)
    return value.value() if isinstance(value, PickledArray) else None


def _names(content: dict[str, Any], key: str, count: int, path: Path) -> list[str]:
    """The file names of a side, one a row."""
    array = _array(content, key)
    names = content.get(key) if array is None else array.tolist()
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
