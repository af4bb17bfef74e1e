"""Named arrays -> pairs: what the fields of a features file may be called and may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, listed, printable
from featuresExtractor.features.table import Table

VECTORS = {"left": ("left", "left_ebds"), "right": ("right", "right_ebds")}
NAMES = {"left": ("left_name", "left_names"), "right": ("right_name", "right_names")}
BOTH_NAMES = ("name", "names")
VIEW = ("view", "views")
KNOWN = frozenset([*VECTORS["left"], *VECTORS["right"], *NAMES["left"], *NAMES["right"], *BOTH_NAMES, *VIEW])
FLOATS = (2, 4, 8)  # bytes of float16, float32 and float64
MOST_VIEWS = 256
HOW = "write_pairs in featuresExtractor/features/writing.py writes a features file from arrays"


def pairs_of(fields: Mapping[str, Any], path: Path) -> Table:
    """Return the pairs that the named arrays hold: vectors as they are, rows in their order.

    `left` and `right` (R, D) must be float16, float32 or float64 of any byte order. Names are text or UTF-8 bytes (R,);
    `view` (R,) is of any integer type. InputError names the field that is missing or of another kind.
    """
    left, right = (_vectors(fields, side, path) for side in VECTORS)
    if left.shape != right.shape:
        raise InputError(f"{path}: left is {left.shape} and right {right.shape}; one row a pair is expected in both")
    view = _view(fields, len(left), path)
    names, notes = _names(fields, len(left), view, path)
    if others := sorted(printable(str(key)) for key in fields.keys() - KNOWN):
        notes.append(f"note: {path}: not read: {listed(others, 5)}")
    return Table(left, right, names, view, tuple(notes))


def unnamed(count: int, view: NDArray[np.uint8] | None = None) -> list[tuple[str, str]]:
    """Return names for rows without any: `row000001`, ..., counted within each view."""
    digits, seen, names = max(6, len(str(count))), Counter[int](), []
    for number in [0] * count if view is None else view.tolist():
        seen[number] += 1
        names.append(f"row{seen[number]:0{digits}d}")
    return list(zip(names, names, strict=True))


def unnamed_note(path: Path | str, view: NDArray[np.uint8] | None) -> str:
    """Return a note about rows without names."""
    views = "" if view is not None else "; all count as originals, since no field view says otherwise"
    return f"note: {path}: no names; rows are paired by their order and called row000001, row000002, ...{views}"


def described(value: Any) -> str:
    """Return the type and shape of a field, such as `int32, shape (40, 16)`."""
    if isinstance(value, np.ndarray):
        kind = "text" if value.dtype.kind == "U" else "bytes" if value.dtype.kind == "S" else value.dtype.name
        return f"{kind}, shape {value.shape}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {len(value):,}" + (f" {type(value[0]).__name__}" if value else "")
    return type(value).__name__


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """Return the first of the names that a field has."""
    return next((name for name in names if name in fields), None)


def _vectors(fields: Mapping[str, Any], side: str, path: Path) -> NDArray[np.floating[Any]]:
    """Return the (R, D) array of a side under one of its names."""
    key = _first(fields, VECTORS[side])
    if key is None:
        existing = listed(sorted(map(str, fields)), 8) or "none"
        raise InputError(f"{path}: has no field {' or '.join(VECTORS[side])}; its fields are {existing}; {HOW}")
    value = fields[key]
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.dtype.itemsize not in FLOATS:
        raise _unexpected(path, key, value)
    if value.ndim > 2:
        reason = f"it holds a layer of shape {value.shape[1:]} (-p save), not vectors"
        raise InputError(f"{path}: field {key}: {reason}; -p adapt pools layers to vectors. {HOW}")
    if value.ndim < 2:
        raise _unexpected(path, key, value)
    return value


def _unexpected(path: Path, key: str, value: Any) -> InputError:
    allowed = "float16, float32 or float64 of shape (N, D) is expected"
    return InputError(f"{path}: field {key}: {described(value)}; {allowed}. Convert it: {HOW}")


def _names(
    fields: Mapping[str, Any], count: int, view: NDArray[np.uint8] | None, path: Path
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the names of each row's two sides, and notes about them."""
    left, right = (_texts(fields, _first(fields, [*NAMES[side], *BOTH_NAMES]), count, path) for side in NAMES)
    if left is None and right is None:
        return unnamed(count, view), [unnamed_note(path, view)]
    if left is None or right is None:
        named = "left" if right is None else "right"
        names = left or right or []
        note = f"note: {path}: names of the {named} side alone; rows are paired by their order"
        return list(zip(names, names, strict=True)), [note]
    return list(zip(left, right, strict=True)), []


def _texts(fields: Mapping[str, Any], key: str | None, count: int, path: Path) -> list[str] | None:
    """Return the names in a field, one a row; None without such a field, or with nothing in it."""
    if key is None:
        return None
    names = _decoded(fields[key], key, path)
    text = names is not None and (_is_text(fields[key]) or all(isinstance(name, str) for name in names))
    if names is None or not text or len(names) != count:
        reason = f"field {key}: {described(fields[key])}; {count:,} names are expected, as text of shape ({count},)"
        raise InputError(f"{path}: {reason}. {HOW}")
    if "" not in names:
        return names
    if any(names):
        empty = names.count("")
        raise InputError(f"{path}: field {key}: {empty:,} of {count:,} names are empty; name all rows, or none")
    return None


def _decoded(value: Any, key: str, path: Path) -> list[str] | None:
    """Return text as a list of strings; bytes are taken as UTF-8. None for what is no list of one dimension."""
    if isinstance(value, np.ndarray) and value.ndim != 1:
        return None
    try:
        names = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(names, list):
            return None
        return names if _is_text(value) else [name.decode() if isinstance(name, bytes) else name for name in names]
    except ValueError as error:  # bytes that are no UTF-8, or numbers that are no characters
        raise InputError(f"{path}: field {key}: names that are no UTF-8 text; write them as text. {HOW}") from error


def _is_text(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "U"


def _view(fields: Mapping[str, Any], count: int, path: Path) -> NDArray[np.uint8] | None:
    """Return the view of each row; None where no field says it."""
    key = _first(fields, VIEW)
    if key is None:
        return None
    value = fields[key]
    if isinstance(value, list) and value and all(isinstance(number, int) for number in value):
        value = np.array(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iub" or value.shape != (count,):
        reason = f"whole numbers of shape ({count},) are expected, 0 for an original and 1 for its flipped view"
        raise InputError(f"{path}: field {key}: {described(value)}; {reason}. {HOW}")
    if count and not 0 <= int(value.min()) <= int(value.max()) < MOST_VIEWS:
        reason = f"from {value.min()} to {value.max()}; 0 to {MOST_VIEWS - 1} are possible, 0 for an original"
        raise InputError(f"{path}: field {key}: numbers {reason}")
    return np.array(value, np.uint8)
