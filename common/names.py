"""File names: what makes two of them a pair, and subsets of a data set in CSV files."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError, listed

MOST_CSV = 2**28  # bytes
COLUMNS = ("TLL_obj", "name", "left_name")


def stem(name: str) -> str:
    """What makes two file names a pair: the name without its last suffix, in Unicode's composed form.

    The composed form matters because some file systems store `é` as `e` and a combining accent.
    """
    return unicodedata.normalize("NFC", Path(name).stem)


def read_names(path: Path) -> list[str]:
    """The distinct names of a CSV file, in order: its only column, or that called `TLL_obj`, `name` or `left_name`."""
    try:
        if path.stat().st_size > MOST_CSV:
            raise InputError(f"{path}: has {path.stat().st_size:,} bytes; a CSV of names has no more than {MOST_CSV:,}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no CSV file could be read here ({error})") from error
    headed = bool(rows) and not (len(rows[0]) == 1 and Path(rows[0][0]).suffix)  # a file name is no header
    if len(rows) <= headed:
        raise InputError(f"{path}: no names found; a header line and one name a line are expected")
    column = _column(rows[0], path)
    if short := [number for number, row in enumerate(rows, 1) if len(row) <= column]:
        raise InputError(f"{path}: row {short[0]} has no column {column + 1}; it must hold a name")
    return list(dict.fromkeys(row[column].strip() for row in rows[headed:]))


def _column(header: Sequence[str], path: Path) -> int:
    """Index of the column that holds the names."""
    if len(header) == 1:
        return 0
    for name in COLUMNS:
        if name in header:
            return header.index(name)
    raise InputError(f"{path}: columns {listed(header)}; expected one column, or one called {', '.join(COLUMNS)}")


def select(names: Sequence[str], wanted: Sequence[str], subset: Path) -> tuple[list[int], list[str]]:
    """Indices of the `names` that are wanted (compared by stem), in order, and the wanted ones that nothing matches."""
    stems = {stem(name) for name in wanted}
    present = {stem(name) for name in names}
    chosen = [index for index, name in enumerate(names) if stem(name) in stems]
    if not chosen:
        raise InputError(f"{subset}: none of its {len(stems):,} names is among the {len(names):,} there")
    return chosen, [name for name in wanted if stem(name) not in present]
