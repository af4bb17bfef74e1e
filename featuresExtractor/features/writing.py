"""Write features from arrays to a file that `train.py` reads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.storage.files import written_whole
from featuresExtractor.features.features_file import CHUNK_BYTES, FeaturesWriter, make_rows, row_type
from featuresExtractor.features.fields import pairs_of
from featuresExtractor.features.pairing.affixes import suspects
from featuresExtractor.features.pairing.layout import in_memory, lay_out
from featuresExtractor.features.pairing.views import PREFIX
from featuresExtractor.features.table import Embeddings, Table
from featuresExtractor.features.values import check_values

VIEWS = "pass views, for each row 0 (original) or 1 (its flipped view)"


def write_pairs(
    path: str | os.PathLike[str],
    left: NDArray[Any],
    right: NDArray[Any],
    names: Sequence[str] | Sequence[tuple[str, str]] | None = None,
    views: Sequence[int] | NDArray[Any] | None = None,
) -> None:
    """Write a features file that `train.py` reads, from arrays of any tool.

    `left` and `right` are (R, D) float16, float32 or float64: row i of one belongs to row i of the other. `names` has R
    names, or R pairs of them (left, right); without it rows are called row000001, row000002, ... `views` has R whole
    numbers, 0 for an original and 1 for its flipped view, which has the same name; without it all rows are originals.

        write_pairs("features.npy", left, right, names)
        write_pairs("features.npy", np.concatenate([left, left_flipped]), np.concatenate([right, right_flipped]),
                    names + names, views=[0] * len(names) + [1] * len(names))

    A file of this name is replaced. InputError where shapes differ, a value is not finite in float32, a name appears
    twice in a view, views hold different names, or the path does not end with `.npy`.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(f"{path}: the name of a features file ends with .npy")
    if path.with_suffix(".json").exists():
        reason = f"{path.with_suffix('.json').name} beside it is of a file that extract.py wrote"
        raise InputError(f"{path}: {reason}; take another name or folder")
    given = _given(left, right, names, views, path)
    layout = lay_out(given, path)
    if (layout.left != layout.right).any():
        raise InputError(f"{path}: the names pair other rows than those of one index; put names or rows in order")
    for warning in check_values(given, layout, path):
        warnings.warn(warning, stacklevel=2)
    _write(path, in_memory(given, path))


def _given(left: Any, right: Any, names: Sequence[Any] | None, views: Any, path: Path) -> Table:
    """Return the arrays as pairs with a view; InputError for arrays that do not fit together."""
    fields = {"left": np.asarray(left), "right": np.asarray(right)}
    if views is not None:
        fields["view"] = np.asarray(views)
    given = pairs_of(fields | _named(names, path), path)
    if given.view is None:
        _check_originals(given.names, path)
    view = np.zeros(len(given.names), np.uint8) if given.view is None else given.view
    return Table(given.left, given.right, given.names, view)


def _named(names: Sequence[Any] | None, path: Path) -> dict[str, list[Any]]:
    """Return the fields of names, for both sides at once or for each."""
    if names is None:
        return {}
    if all(isinstance(name, str) for name in names):
        return {"name": list(names)}
    if not all(isinstance(name, (tuple, list)) and len(name) == 2 for name in names):
        raise InputError(f"{path}: names: a text for each row is expected, or two of them, (left, right)")
    return {"left_name": [name[0] for name in names], "right_name": [name[1] for name in names]}


def _check_originals(names: Sequence[tuple[str, str]], path: Path) -> None:
    """Raise InputError where rows without views look like views of one another."""
    for side in dict.fromkeys(zip(*names, strict=True)):
        if any(name.startswith(PREFIX) for name in side) and not all(name.startswith(PREFIX) for name in side):
            raise InputError(f"{path}: some names begin with {PREFIX}; {VIEWS}, and one name for both")
        try:
            warning = suspects(side)
        except InputError as error:
            raise InputError(f"{path}: {error}: second views of the same pairs? Then {VIEWS}") from error
        if warning:
            warnings.warn(f"{path}: {warning}; they are written as pairs of their own", stacklevel=4)


def _write(path: Path, pairs: Embeddings) -> None:
    """Write rows in chunks, so that no second copy of all is made."""
    row = row_type(("left", "right"), pairs.left.shape[1], max(len(name) for pair in pairs.names for name in pair))
    view = np.asarray(pairs.view)
    step = max(1, CHUNK_BYTES // row.itemsize)
    with written_whole(path) as partial, FeaturesWriter(partial, row, len(view)) as writer:
        for first in range(0, len(view), step):
            part = slice(first, first + step)
            block = make_rows(row, pairs.names[part], np.stack([pairs.left[part], pairs.right[part]], axis=1), 0)
            block["view"] = view[part]
            writer.put(first, [block])
