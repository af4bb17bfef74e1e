"""Lists of names in CSV files, as spreadsheets, pandas, numpy and people write them.

Encoding, separator, column and header are taken in the way in which the list names most of what is there. The file's
format is described in `docs/files.md`.
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
_Row = list[str]


@dataclass(frozen=True)
class Choice:
    """What a list of names chooses: indices among the names that are there, in order; its names that are not there, and
    why that may be; notes for the person."""

    indices: list[int]
    missing: list[str]
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """One way to read a list: its rows, the column of the names, or why there is none, and the names there that it
    chooses. How good it is: how many cells name something that is there, whether the column is a well-known one,
    whether there is a header, and how regular the rows are."""

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
        """To compare readings by."""
        return self.matches, self.named, self.regular


def choose(names: Sequence[str], path: Path) -> Choice:
    """Return which of `names` the list in the CSV file `path` names.

    InputError for a file that is no list, one that can be read in two ways, one that names nothing that is there, and
    for a name that several files have.
    """
    known = Names(names)
    reading = _best(_read_bytes(path), known, path)
    wanted, notes = _wanted(reading, known, path)
    chosen: dict[int, str] = {}
    missing = []
    for name in wanted:
        indices, folders = known.find(name)
        _check_one(name, [names[index] for index in indices], path)
        for index in indices:
            _check_set(names[index], chosen.setdefault(index, folders), folders, path)
        missing += [] if indices else [name.strip()]
    reason = likely_reason(missing, names) if missing and names else ""
    if not chosen:
        raise InputError(f"{path}: none of its {len(wanted):,} names is among the {len(names):,} there; {reason}")
    return Choice(sorted(chosen), missing, reason, notes)


def _check_one(wanted: str, found: Sequence[str], path: Path) -> None:
    """InputError where several files could be meant."""
    if len(set(found)) > 1:
        raise InputError(f"{path}: '{printable(wanted)}' may be any of {listed(found)}; give the full name")


def _check_set(name: str, before: str, folders: str, path: Path) -> None:
    """InputError where paths of different folders lead to one file: they were files of other sets."""
    sets = {set_of(one) for one in (before, folders) if one and set_of(one) != "."}
    if len(sets) > 1:
        told = f"lists files called '{printable(name)}' of {listed(sorted(sets))}, and there is one"
        raise InputError(f"{path}: {told}; list names relative to the data set")


# --- bytes to text to rows ---


def _read_bytes(path: Path) -> bytes:
    try:
        if (size := path.stat().st_size) > MOST_CSV:
            raise InputError(f"{path}: has {size:,} bytes; a CSV of names has no more than {MOST_CSV:,}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no CSV file could be read here ({error})") from error


def _texts(contents: bytes, path: Path) -> Iterator[str]:
    """The text in every encoding that it may have."""
    if contents.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise InputError(f"{path}: a workbook, and no CSV file; save the sheet as CSV (UTF-8)")
    for encoding in _encodings(contents):
        text = contents.decode(encoding, errors="replace")
        if "\0" not in text:
            yield text


def _encodings(contents: bytes) -> tuple[str, ...]:
    """By its mark; UTF-16 where there are zero bytes; UTF-8 where it is that; else several, to see which names more."""
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
    """The rows by each separator that occurs, and with each line as one name, without blank rows."""
    text = re.sub(r'\A"?sep=.?"?\r?\n', "", text)  # a line for Excel
    spaced = bool(re.search('[,;|\t] +"', text))  # a quote counts as one at the start of a cell alone
    for separator in (*(one for one in SEPARATORS if one in text), NO_SEPARATOR):
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=spaced))
        except csv.Error:
            continue
        yield separator, rows
    if '"' in text:  # which may be part of a name
        yield NO_SEPARATOR, [[line] for line in text.splitlines()]


# --- rows to names ---


def _best(contents: bytes, known: Names, path: Path) -> _Reading:
    """The reading that names most of what is there; InputError where there is none, or two that choose differently."""
    if not (texts := list(_texts(contents, path))):
        raise InputError(f"{path}: no text, since it holds zero bytes; a CSV file of names is expected")
    tables = (table for text in texts for table in _tables(text))
    readings = [_reading(rows, separator, known) for separator, rows in tables if any(map(_filled, rows))]
    if not readings:
        raise InputError(f"{path}: no names found; one name a line is expected, below a header or without one")
    best = max(readings, key=lambda reading: reading.rank)
    if best.fault:
        raise InputError(f"{path}: {best.fault}")
    for other in readings:
        if other.matches == best.matches and other.regular and not other.fault and other.chosen != best.chosen:
            told = f"{sorted(best.chosen - other.chosen)} or {sorted(other.chosen - best.chosen)}"
            raise InputError(
                f"{path}: its lines can be read in two ways ({told}); put names that hold commas in quotes"
            )
    return best


def _filled(row: _Row) -> bool:
    return any(cell.strip() for cell in row)


def _reading(rows: list[_Row], separator: str, known: Names) -> _Reading:
    """Rows with the column that holds the names: a well-known one, or the only one that names what is there."""
    filled = [row for row in rows if _filled(row)]
    columns = _columns(filled)
    counts = [sum(bool(known.find(cell)[0]) for cell in column) for column in columns]
    naming = [column for column, count in enumerate(counts) if count]
    named = _named(filled[0], known)
    fault = ""
    if usable := [column for column in named if counts[column]] or (named if not naming else []):
        column = usable[0]
    elif len(columns) == 1 or _same(filled, naming, known):
        column = naming[0] if naming else 0
    else:
        column, fault = max(range(len(counts)), key=counts.__getitem__), _no_column(filled, naming)
    if not fault and named:
        fault = _other_partners(filled, column, known)
    regular = 1 if separator == NO_SEPARATOR else 2 * (len(set(map(len, filled))) == 1 and separator != " ")
    chosen = {index for cell in columns[column] for index in known.find(cell)[0]}
    return _Reading(
        rows, column, fault, counts[column], bool(usable), bool(named), regular, {known.names[one] for one in chosen}
    )


def _other_partners(rows: Sequence[_Row], column: int, known: Names) -> str:
    """Why a list of pairs cannot be used: its column of right sides names other images than that of left ones."""
    titles = [_title(cell) for cell in rows[0]]
    partner = titles[column].replace("left", "right")
    if partner == titles[column] or partner not in titles:
        return ""
    other = titles.index(partner)
    for row in rows[1:]:
        if len(row) <= max(column, other) or not (there := known.find(row[other])[0]):
            continue
        if there != known.find(row[column])[0]:
            shown = f"pairs '{printable(row[column])}' with '{printable(row[other])}'"
            return f"{shown}; partners have the same name here: rename the files, or leave out the right column"
    return ""


def _columns(rows: Sequence[_Row]) -> list[_Row]:
    width = max(map(len, rows))
    return [[row[column] for row in rows if column < len(row)] for column in range(width)]


def _named(header: _Row, known: Names) -> list[int]:
    """The well-known columns, by their header, which names nothing that is there; the best one first."""
    titles = [_title(cell) for cell in header]
    found = [column for title in map(_title, COLUMNS) for column, own in enumerate(titles) if own == title]
    return [column for column in found if not known.find(header[column])[0]]


def _title(cell: str) -> str:
    """`# File Name` and `file_name` -> `filename`."""
    return re.sub(r"[\W_]+", "", cell).casefold()


def _same(rows: Sequence[_Row], columns: Sequence[int], known: Names) -> bool:
    """Whether there are columns that name something, and in each row the same."""
    found = ([known.find(row[column])[0] for column in columns if column < len(row)] for row in rows)
    return bool(columns) and all(all(one == own[0] for one in own) for own in found)


def _no_column(rows: Sequence[_Row], naming: Sequence[int]) -> str:
    """Why the column of the names is not clear."""
    advice = "give the one with the names the header 'name', or leave it alone in the file"
    if naming:
        which = " and ".join(str(column + 1) for column in naming)
        example = listed(next(row for row in rows if len(row) > naming[-1])[column] for column in naming)
        return f"columns {which} both name images (such as {example}); {advice}"
    return f"columns {listed(rows[0])}; expected one column, or one called {', '.join(COLUMNS[:3])}; {advice}"


def _wanted(reading: _Reading, known: Names, path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The distinct names in their order, and a note where the first line was taken as a header by guess."""
    cells: list[str] = []
    notes: tuple[str, ...] = ()
    for number, row in enumerate(reading.rows, 1):
        cell = row[reading.column] if reading.column < len(row) else ""
        if not _filled(row):
            continue
        if not cell.strip() and cells:
            raise InputError(f"{path}: row {number} has no column {reading.column + 1}; it must hold a name")
        cells.append(cell)
    first = cells[0].strip()
    if reading.headed or not first:
        cells = cells[1:]
    elif reading.matches and not known.find(first)[0] and not _is_path(first):
        notes = (f"{path}: first line '{printable(first)}' names no image here; taken as a header",)
        cells = cells[1:]
    if not cells:
        raise InputError(f"{path}: no names found; one name a line is expected, below a header or without one")
    return list(dict.fromkeys(cells)), notes


def _is_path(cell: str) -> bool:
    """Whether a cell is the name of a file and no header."""
    return Path(cell).suffix.lower() in SUFFIXES or "/" in cell or "\\" in cell
