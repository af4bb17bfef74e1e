"""Read lists of names in CSV files, as spreadsheets, pandas, numpy and people write them.

The encoding, separator, column and header are those with which most names exist in the data set. The format of the
file is described in `docs/files.md`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, listed, printable
from common.names.finding import Names, likely_reason, set_of
from common.names.matching import SUFFIXES

MOST_CSV = 2**28  # bytes
COLUMNS = (
    *("TLL_obj", "left_name", "name", "names", "file_name", "file", "files", "image_name", "image", "images", "img"),
    *("picture", "left", "left_image", "path", "file_path", "image_path", "key", "id", "image_id"),
)
"""Headers of the column that holds the names, whatever their case, with spaces or `_`; of several the first one."""
OLDER = ("cp1252", "mac_roman", "cp437", "cp1251", "gb18030", "shift_jis")  # encodings before Unicode
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
SEPARATORS = (",", ";", "\t", "|", " ")
NO_SEPARATOR = "\x1f"
NO_NAMES = "no names found; one name a line is expected, below a header or without one"
_Row = list[str]


@dataclass(frozen=True)
class Choice:
    """What a list of names chooses: sorted indices of existing names; names that are `missing` and the likely `reason`;
    and notes to print."""

    indices: list[int]
    missing: list[str]
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """One way to read a list: its rows, the column of the names or the `fault` that there is none, and the existing
    names that it chooses. How good it is: how many cells match a name, whether the column is a well-known one, whether
    it has a header, and how regular the rows are."""

    rows: list[_Row]
    column: int
    fault: str
    matches: int
    named: bool
    headed: bool
    regular: int
    chosen: set[str]

    @property
    def rank(self) -> tuple[int, bool, int]:
        """What readings are compared by."""
        return self.matches, self.named, self.regular


def choose(names: Sequence[str], path: Path) -> Choice:
    """Return which of `names` the list in the CSV file `path` chooses.

    InputError for a file that is no list, that can be read in two ways or that names nothing that exists, and for a
    name that several files have.
    """
    known = Names(names)
    reading = _best(_read_bytes(path), known, path)
    wanted, notes = _wanted(reading, known, path)
    chosen: dict[int, str] = {}
    missing = []
    for name in wanted:
        indices, folders = known.find(name)
        _check_unique(name, [names[index] for index in indices], path)
        for index in indices:
            _check_set(names[index], chosen.setdefault(index, folders), folders, path)
        missing += [] if indices else [name.strip()]
    reason = likely_reason(missing, names) if missing and names else ""
    if not chosen:
        raise InputError(f"{path}: none of its {len(wanted):,} names is among the {len(names):,} there; {reason}")
    return Choice(sorted(chosen), missing, reason, notes)


def _check_unique(wanted: str, candidates: Sequence[str], path: Path) -> None:
    """Raise InputError where several files could be meant."""
    if len(set(candidates)) > 1:
        raise InputError(f"{path}: '{printable(wanted)}' may be any of {listed(candidates)}; give the full name")


def _check_set(name: str, before: str, folders: str, path: Path) -> None:
    """Raise InputError where paths of different folders lead to one file: they were files of other sets."""
    sets = {set_of(parent) for parent in (before, folders) if parent} - {"."}
    if len(sets) > 1:
        reason = f"lists files called '{printable(name)}' of {listed(sorted(sets))}, and there is one"
        raise InputError(f"{path}: {reason}; list names relative to the data set")


# --- bytes to text to rows ---


def _read_bytes(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MOST_CSV:
            raise InputError(f"{path}: has {size:,} bytes; a CSV of names has no more than {MOST_CSV:,}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no CSV file could be read here ({error})") from error


def _texts(contents: bytes, path: Path) -> Iterator[str]:
    """Yield the text in every encoding that it may have."""
    if contents.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{path}: a workbook, and no CSV file; save the sheet as CSV (UTF-8)")
    for encoding in _encodings(contents):
        text = contents.decode(encoding, errors="replace")
        if "\0" not in text:
            yield text


def _encodings(contents: bytes) -> tuple[str, ...]:
    """Return the encoding by its mark; UTF-16 where there are zero bytes; else several, to see which matches more."""
    for mark, encoding in MARKS:
        if contents.startswith(mark):
            return (encoding,)
    if b"\0" in contents:
        return "utf-16-le", "utf-16-be"
    if contents.isascii():
        return ("utf-8",)
    try:
        contents.decode()
    except UnicodeDecodeError:
        return OLDER
    return "utf-8", *OLDER  # a few letters of others may look like UTF-8


def _tables(text: str) -> Iterator[tuple[str, list[_Row]]]:
    """Yield each separator that occurs and the rows by it, and the rows with each line as one name."""
    text = re.sub(r'\A"?sep=.?"?\r?\n', "", text)  # a line for Excel
    spaced = bool(re.search('[,;|\t] +"', text))  # a quote counts as one at the start of a cell alone
    for separator in (*(sign for sign in SEPARATORS if sign in text), NO_SEPARATOR):
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced))
        except csv.Error:
            continue
        yield separator, rows
    if '"' in text:  # which may be part of a name
        yield NO_SEPARATOR, [[line] for line in text.splitlines()]


# --- rows to names ---


def _best(contents: bytes, known: Names, path: Path) -> _Reading:
    """Return the reading with most matches; InputError where there is none, or two that choose differently."""
    if not (texts := list(_texts(contents, path))):
        raise InputError(f"{path}: no text, since it holds zero bytes; a CSV file of names is expected")
    tables = (table for text in texts for table in _tables(text))
    readings = [_reading(rows, separator, known) for separator, rows in tables if any(map(_filled, rows))]
    if not readings:
        raise InputError(f"{path}: {NO_NAMES}")
    best = max(readings, key=lambda reading: reading.rank)
    if best.fault:
        raise InputError(f"{path}: {best.fault}")
    for rival in readings:
        if rival.matches == best.matches and rival.regular and not rival.fault and rival.chosen != best.chosen:
            both = f"{sorted(best.chosen - rival.chosen)} or {sorted(rival.chosen - best.chosen)}"
            raise InputError(
                f"{path}: its lines can be read in two ways ({both}); put names that hold commas in quotes"
            )
    return best


def _filled(row: _Row) -> bool:
    return any(cell.strip() for cell in row)


def _reading(rows: list[_Row], separator: str, known: Names) -> _Reading:
    """Return rows with the column that holds the names, and how good that reading is."""
    filled = [row for row in rows if _filled(row)]
    columns = _columns(filled)
    counts = [sum(bool(known.find(cell)[0]) for cell in column) for column in columns]
    named = _named(filled[0], known)
    column, fault = _column(filled, counts, named, known)
    if not fault and named:
        fault = _unlike_partners(filled, column, known)
    regular = 1 if separator == NO_SEPARATOR else 2 * (len(set(map(len, filled))) == 1 and separator != " ")
    chosen = {known.names[index] for cell in columns[column] for index in known.find(cell)[0]}
    return _Reading(rows, column, fault, counts[column], column in named, bool(named), regular, chosen)


def _column(rows: Sequence[_Row], counts: Sequence[int], named: Sequence[int], known: Names) -> tuple[int, str]:
    """Return the column of the names, a well-known one or the only one with matches, and what is wrong with it."""
    naming = [column for column, count in enumerate(counts) if count]
    if usable := [column for column in named if counts[column] or not naming]:
        return usable[0], ""
    if len(counts) == 1 or _same(rows, naming, known):
        return (naming or [0])[0], ""
    return max(range(len(counts)), key=counts.__getitem__), _no_column(rows, naming)


def _unlike_partners(rows: Sequence[_Row], column: int, known: Names) -> str:
    """Return why a list of pairs cannot be used: its columns of left and right sides name different images."""
    titles = [_title(cell) for cell in rows[0]]
    partner = titles[column].replace("left", "right")
    if partner == titles[column] or partner not in titles:
        return ""
    partner_column = titles.index(partner)
    for row in rows[1:]:
        if len(row) <= max(column, partner_column) or not (indices := known.find(row[partner_column])[0]):
            continue
        if indices != known.find(row[column])[0]:
            reason = f"pairs '{printable(row[column])}' with '{printable(row[partner_column])}'"
            return f"{reason}; partners have the same name here: rename the files, or leave out the right column"
    return ""


def _columns(rows: Sequence[_Row]) -> list[_Row]:
    width = max(map(len, rows))
    return [[row[column] for row in rows if column < len(row)] for column in range(width)]


def _named(header: _Row, known: Names) -> list[int]:
    """Return the well-known columns, the best one first, by their headers, which are no names of the data set."""
    titles = [_title(cell) for cell in header]
    columns = [column for wanted in map(_title, COLUMNS) for column, title in enumerate(titles) if title == wanted]
    return [column for column in columns if not known.find(header[column])[0]]


def _title(cell: str) -> str:
    """`# File Name` and `file_name` -> `filename`."""
    return re.sub(r"[\W_]+", "", cell).casefold()


def _same(rows: Sequence[_Row], columns: Sequence[int], known: Names) -> bool:
    """Return whether there are columns that match names, and in each row the same."""
    matches = ([known.find(row[column])[0] for column in columns if column < len(row)] for row in rows)
    return bool(columns) and all(indices == of_row[0] for of_row in matches for indices in of_row)


def _no_column(rows: Sequence[_Row], naming: Sequence[int]) -> str:
    """Return why the column of the names is not clear."""
    advice = "give the one with the names the header 'name', or leave it alone in the file"
    if naming:
        which = " and ".join(str(column + 1) for column in naming)
        example = listed(next(row for row in rows if len(row) > naming[-1])[column] for column in naming)
        return f"columns {which} both name images (such as {example}); {advice}"
    return f"columns {listed(rows[0])}; expected one column, or one called {', '.join(COLUMNS[:3])}; {advice}"


def _wanted(reading: _Reading, known: Names, path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the distinct names in their order, and a note where the first line was taken as a header by guess."""
    cells = _cells(reading, path)
    notes: tuple[str, ...] = ()
    first = cells[0].strip()
    headed = reading.headed or not first
    if not headed and reading.matches and not known.find(first)[0] and not _is_path(first):
        headed = True
        notes = (f"{path}: first line '{printable(first)}' names no image here; taken as a header",)
    names = list(dict.fromkeys(cells[headed:]))
    if not names:
        raise InputError(f"{path}: {NO_NAMES}")
    return names, notes


def _cells(reading: _Reading, path: Path) -> list[str]:
    """Return the cells of the column of names; InputError where one behind the first is empty."""
    cells: list[str] = []
    for number, row in enumerate(reading.rows, 1):
        cell = row[reading.column] if reading.column < len(row) else ""
        if not cell.strip() and cells and _filled(row):
            raise InputError(f"{path}: row {number} has no column {reading.column + 1}; it must hold a name")
        cells += [cell] if _filled(row) else []
    return cells


def _is_path(cell: str) -> bool:
    """Return whether a cell is the name of a file and no header."""
    return Path(cell).suffix.lower() in SUFFIXES or "/" in cell or "\\" in cell
