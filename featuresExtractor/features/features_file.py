"""The features file: the contract between extraction and training.

One `.npy` without pickle: a structured array, a row for each item and view, originals first. For pairs its fields are
`left (D,) float32`, `right (D,) float32`, `left_name`, `right_name` and `view` (0 original, 1 flipped); for a flat
folder `features`, `name` and `view`. `np.load(file, mmap_mode="r")["left"]` is the N x D matrix. A `.json` of the same
stem beside it tells where the numbers come from. The file of a whole layer (`-p save`) is the same with the layer's
shape, such as (C, H, W), in place of (D,).
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from common.errors import InputError, listed
from common.machine.system import open_own
from featuresExtractor.features.npy import read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]

CHUNK_BYTES = 64 * 2**20


def row_type(sides: Sequence[str], shape: int | tuple[int, ...], name_length: int) -> np.dtype[Any]:
    """The structured type of a row with D dimensions, or with those of a whole layer, such as (C, H, W)."""
    name = f"U{max(1, name_length)}"
    sizes = (shape,) if isinstance(shape, int) else shape
    fields: list[tuple[Any, ...]] = [(side, "<f4", sizes) for side in sides]
    fields += [(name_field(side), name) for side in sides]
    return np.dtype([*fields, ("view", "u1")])


def name_field(side: str) -> str:
    """The field that holds the names of a side: `left` -> `left_name`, `features` -> `name`."""
    return "name" if side == "features" else f"{side}_name"


def make_rows(row: np.dtype[Any], names: Sequence[Sequence[str]], features: Features, view: int) -> NDArray[Any]:
    """Rows of one view: `names` has n rows of one name a side, `features` is (n, sides, ...)."""
    block = np.zeros(len(names), row)
    for number, side in enumerate(sides_of(row)):
        block[side] = features[:, number]
        block[name_field(side)] = [item[number] for item in names]
    block["view"] = view
    return block


def sides_of(row: np.dtype[Any]) -> tuple[str, ...]:
    """The fields that hold features: ("left", "right") or ("features",)."""
    return tuple(name for name in row.names or () if row[name].ndim)


class FeaturesWriter:
    """Writes a features file at `path`, in any order and without ever holding it.

    Every one of `rows` items has its place in each of `views` views; `seal` closes up the places of items that were
    left out. With `resume` the rows of a file that exists are kept. A link in the place of the file is not followed.
    """

    def __init__(
        self, path: str | os.PathLike[str], row: np.dtype[Any], rows: int, views: int = 1, resume: bool = False
    ) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.row, self.rows, self.views = path, row, rows, views
        self.file = _open_existing(path) if resume else _open_new(path)
        self.start = _write_header(self.file, row, rows * views)
        self.file.truncate(self.start + rows * views * row.itemsize)

    def __enter__(self) -> FeaturesWriter:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self.file.close()

    def put(self, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        """Write n items from place `first` on: one block of n rows for each view. Return their checksum (CRC-32)."""
        checksum = 0
        for view, block in enumerate(blocks):
            contents = block.tobytes()
            self._seek(view, first)
            self.file.write(contents)
            checksum = zlib.crc32(contents, checksum)
        self.file.flush()  # what a killed process has in its own memory is lost, what the system has is not
        return checksum

    def checksum(self, items: range) -> int:
        """Return the checksum of these items' rows as they are in the file."""
        checksum, step = 0, max(1, CHUNK_BYTES // self.row.itemsize)
        for view in range(self.views):
            for first in range(items.start, items.stop, step):
                checksum = zlib.crc32(self._read(view, first, min(step, items.stop - first)), checksum)
        return checksum

    def _seek(self, view: int, item: int) -> None:
        self.file.seek(self.start + (view * self.rows + item) * self.row.itemsize)

    def _read(self, view: int, first: int, count: int) -> bytes:
        self._seek(view, first)
        return bytes(self.file.read(count * self.row.itemsize))

    def seal(self, kept: NDArray[np.bool_] | None = None) -> tuple[Path, str]:
        """Bring the file to the disk, without the items that are not `kept` (rows,). Return its path, which is another
        one where items were left out, and its SHA-256. May be repeated."""
        self.file.flush()
        whole = self.path if kept is None or kept.all() else self._closed_up(kept)
        with whole.open("r+b") as file:  # Windows syncs what can be written alone
            os.fsync(file.fileno())
            return whole, hashlib.file_digest(file, "sha256").hexdigest()

    def _closed_up(self, kept: NDArray[np.bool_]) -> Path:
        """Copy the kept rows to another file: whatever happens meanwhile, this one still has all of them."""
        step, path = max(1, CHUNK_BYTES // self.row.itemsize), self.path.with_suffix(".closed.npy")
        with _open_new(path) as file:
            _write_header(file, self.row, self.views * int(kept.sum()))
            for view in range(self.views):
                for first in range(0, self.rows, step):
                    some = kept[first : first + step]
                    rows = np.frombuffer(self._read(view, first, len(some)), self.row)
                    file.write(rows[some].tobytes())
        return path


def _open_new(path: Path) -> IO[bytes]:
    """A new file, in the place of whatever has its name; a link there is not followed."""
    path.unlink(missing_ok=True)
    return path.open("x+b")


def _open_existing(path: Path) -> IO[bytes]:
    """A file that exists, or a new one."""
    return os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT), "r+b")


def _write_header(file: IO[bytes], row: np.dtype[Any], rows: int) -> int:
    """Write the `.npy` header at the start of the file and return its length, which does not depend on `rows`: numpy
    pads it for a number of rows that may still change."""
    file.seek(0)
    description = {"descr": np.lib.format.dtype_to_descr(row), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, description)
    return int(file.tell())


@dataclass(frozen=True)
class Rows:
    """An opened features file: its rows are read in chunks, never all at once."""

    path: Path
    row: np.dtype[Any]
    count: int
    start: int

    @property
    def sides(self) -> tuple[str, ...]:
        """("left", "right") or ("features",)."""
        return sides_of(self.row)

    @property
    def width(self) -> int:
        """D, the dimensions."""
        return int(self.row[self.sides[0]].shape[0])

    @property
    def name_length(self) -> int:
        """Characters that a name field has room for."""
        return self.row[name_field(self.sides[0])].itemsize // np.dtype("U1").itemsize

    def chunks(self) -> Iterator[NDArray[Any]]:
        """The rows in order, some 64 MB at a time."""
        step = max(1, CHUNK_BYTES // self.row.itemsize)
        with self.path.open("rb") as file:
            file.seek(self.start)
            for row in range(0, self.count, step):
                yield np.fromfile(file, self.row, min(step, self.count - row))

    def some(self, first: int, count: int) -> NDArray[Any]:
        """At most `count` rows from the row `first` on."""
        return np.fromfile(
            self.path, self.row, min(count, self.count - first), offset=self.start + first * self.row.itemsize
        )

    def all(self) -> NDArray[Any]:
        """All rows as a read-only memory map."""
        mapped: NDArray[Any] = np.memmap(self.path, self.row, mode="r", offset=self.start, shape=(self.count,))
        return mapped


def open_features(path: str | os.PathLike[str]) -> Rows:
    """Opens a features file that this project wrote; InputError for anything else. Nothing is unpickled."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            shape, fortran, row = read_header(file)
            start = file.tell()
    except OSError as error:
        raise InputError(f"{path}: no features file could be read here ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not a .npy file; extract.py writes the features file") from error
    if problem := _problem(shape, fortran, row):
        raise InputError(f"{path}: not a features file: {problem}; extract.py writes one")
    rows = Rows(path, row, shape[0], start)
    if path.stat().st_size != start + rows.count * row.itemsize:
        raise InputError(f"{path}: cut short or damaged: its header promises {rows.count:,} rows; extract it again")
    return rows


def _problem(shape: tuple[int, ...], fortran: bool, row: np.dtype[Any]) -> str | None:
    """What keeps a `.npy` array from being a features file, in words."""
    names = row.names
    if names is None:
        return f"it holds an array of {row} of shape {shape}, not rows with fields"
    if len(shape) != 1 or fortran:
        return f"its shape is {shape}, not (rows,)"
    for sides in (("left", "right"), ("features",)):
        if set(names) == {*sides, *map(name_field, sides), "view"}:
            widths = {row[side].shape for side in sides}
            floats = all(row[side].base == np.float32 for side in sides)
            texts = all(row[name_field(side)].kind == "U" for side in sides)
            if not (floats and texts and len(widths) == 1 and all(widths) and row["view"] == np.uint8 and shape[0]):
                return "its fields have unexpected types or it has no rows"
            (one,) = widths
            return None if len(one) == 1 else f"it holds a layer of shape {one} (-p save), not vectors"
    return f"its fields are {listed(names)}, not left, right, left_name, right_name, view"
