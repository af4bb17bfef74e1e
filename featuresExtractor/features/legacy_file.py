"""Read the field's old features file, a dict pickled into a `.npy`, without running anything in it.

Its keys are `left` and `right` (N x D floats; sometimes `left_ebds` and `right_ebds`), `left_name` and `right_name`
(lists of str). With augmentation the first half of the rows are originals and the second half their flipped views,
under the same names or as `augmented_NAME`. Either side is in the order in which `os.listdir` gave its files.
"""

from __future__ import annotations

import io
import pickle  # only its reader of opcodes is used, with every class refused but the stand-ins below
import pickletools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError, printable
from featuresExtractor.features.fields import HOW, KNOWN, pairs_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from featuresExtractor.features.table import Table

MOST_OPCODES = 10_000_000  # a name takes two, an array about twenty whatever its size


class PickledType:
    """Stands for the `numpy.dtype` of a pickled array: numbers, text or objects, and the order of their bytes."""

    dtype = np.dtype("u1")

    def __init__(self, code: str, _align: bool = False, _copy: bool = True) -> None:
        if not re.fullmatch(r"[?biufO]\d?|[SU]\d{1,4}", code):
            raise pickle.UnpicklingError(f"an array of {code}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order from what numpy wrote; the rest is in the code or not for plain types."""
        self.dtype = self.dtype.newbyteorder(state[1])


class PickledArray:
    """Stands for the `numpy.ndarray` of a pickle and is made with checks: numpy itself would believe the pickle's
    description of its type, and then read memory that is not the array's."""

    state: tuple[Any, ...] = (1, (0,), PickledType("f4"), False, b"")

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take (version, shape, type, whether in Fortran's order, bytes or list of objects)."""
        self.state = state

    def value(self) -> NDArray[Any]:
        """Return the array, made only when asked for: a file can hold the same bytes more often than fits in memory."""
        _, shape, pickled_type, fortran, data = self.state
        dtype = pickled_type.dtype
        values = np.fromiter(data, object) if dtype.kind == "O" else np.frombuffer(data, dtype)
        return values.reshape(shape, order="F" if fortran else "C")

    @property
    def size(self) -> int:
        """The bytes of the array, or objects in it."""
        return len(self.state[4])


class PickledScalar:
    """Stands for a single value of numpy, such as a string that was taken out of an array of them."""

    def __init__(self, kind: PickledType, data: bytes = b"") -> None:
        if not isinstance(kind, PickledType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("a value that is not of numpy")
        self.kind, self.data = kind, data

    @property
    def size(self) -> int:
        """The bytes of the value."""
        return len(self.data)

    def value(self) -> Any:
        """Return the value, made only when asked for, as those of arrays are."""
        (value,) = np.frombuffer(self.data, self.kind.dtype).tolist()
        return value


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, tuples, strings, numbers and numpy arrays. Any other class or function is refused by name,
    before it is imported."""

    ADMITTED: dict[tuple[str, str], object] = {  # noqa: RUF012
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): PickledType,
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): PickledArray,
        ("numpy.core.multiarray", "scalar"): PickledScalar,
        ("numpy._core.multiarray", "scalar"): PickledScalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the admitted object called `module.name`."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.ADMITTED[module, name]


def read_old_file(path: Path, start: int) -> Table:
    """Return the pairs of an old file, whose pickle begins `start` bytes into it; InputError for anything else.

    Its arrays may be lists of equally long ones, and its names numpy's own strings.
    """
    try:
        pickled = path.read_bytes()[start:]
        content = _unpickled(pickled)
        fields = _plain(content, len(pickled)) if isinstance(content, dict) else None
    except OSError:
        raise
    except Exception as error:  # a file from elsewhere can fail in any way
        reason = printable(str(error)) or type(error).__name__
        raise InputError(
            f"{path}: refused: an old features file holds arrays, lists and strings alone ({reason}); {HOW}"
        ) from error
    if fields is None:
        raise InputError(f"{path}: holds no dict of left, right, left_name, right_name; {HOW}")
    return pairs_of(fields, path)


def _unpickled(pickled: bytes) -> object:
    """Return what was pickled, without the array of no dimensions that `np.save` puts around it."""
    _check_sizes(pickled)
    content = ArrayUnpickler(io.BytesIO(pickled)).load()
    if isinstance(content, PickledArray) and (array := content.value()).shape == ():
        return array.item()
    return content


def _plain(content: dict[Any, Any], most: int) -> dict[str, Any]:
    """Return the known fields as arrays and lists of strings, and None for the others, which may be anything.

    None of them may take more than `most` bytes, which is the size of the file.
    """
    return {str(key): _field(value, most) if key in KNOWN else None for key, value in content.items()}


def _field(value: Any, most: int) -> Any:
    if isinstance(value, PickledArray):
        array = value.value()
        return array if array.dtype.kind != "O" else _field(array.tolist(), most)
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(part, PickledArray) for part in value):
        return _stacked(value, most)
    if sum(part.size for part in value if isinstance(part, PickledScalar)) > most:
        raise pickle.UnpicklingError("strings that are longer than the file")
    return [part.value() if isinstance(part, PickledScalar) else part for part in value]


def _stacked(parts: list[PickledArray], most: int) -> NDArray[Any]:
    """Return a list of arrays (D,) as one (N, D)."""
    if sum(part.size for part in parts) > most:
        raise pickle.UnpicklingError("arrays that are larger than the file")
    return np.stack([part.value() for part in parts])


def _check_sizes(pickled: bytes) -> None:
    """Refuse opcodes for which the unpickler would allocate far more memory than the file is long: it believes lengths
    and places in its memo. The bytes of an array are one opcode."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):  # which checks the lengths of texts
        number = argument if isinstance(argument, int) else 0
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count:  # writers count them up from 0 or 1
            raise pickle.UnpicklingError(f"place {number:,} in the memo after {count:,} opcodes")
        if opcode.name == "FRAME" and number > len(pickled):
            raise pickle.UnpicklingError(f"a frame of {number:,} bytes in {len(pickled):,}")
        if count >= MOST_OPCODES:
            raise pickle.UnpicklingError(f"more than {MOST_OPCODES:,} opcodes")
