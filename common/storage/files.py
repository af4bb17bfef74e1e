"""Files that are either whole or missing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

from common.machine.system import sync_folder as sync_folder  # for those who write files of their own

MOST_JSON = 2**28  # bytes


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; renamed to `path` when all went well, removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    partial.unlink(missing_ok=True)  # what an interrupted process left, or a link that would lead elsewhere
    try:
        yield partial
        finish_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """The name of an unfinished file: `features.npy` -> `features.partial.npy`, so that writers see the true suffix."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def finish_file(partial: Path, path: Path) -> None:
    """Makes the contents durable before the name, so that a power cut leaves the old file or the new one."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    sync_folder(path.parent)


def write_all(file: RawIOBase, contents: bytes) -> None:
    """Write bytes to an unbuffered file: the first write to a full disk is a short one, and the next one an error."""
    while contents:
        contents = contents[file.write(contents) :]


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; ValueError for NaN and infinity, which JSON lacks."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV in UTF-8, whole or not at all. A file name that is not UTF-8 (Python marks its bytes) is
    written with escapes."""
    with (
        written_whole(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(rows)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. FileNotFoundError where there is none; ValueError for anything else, such as a file of
    any size that is not ours."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_JSON:
        raise ValueError("no JSON file of ours")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("no object")
    return content


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
