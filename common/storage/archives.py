"""Zip archives of arrays: skops files and torch checkpoints. Looked at before anything in them is read."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from common.errors import InputError

MAGIC = b"PK"
SLACK = 2**20  # bytes by which what an archive holds may be more than its file
OLDEST = (1980, 1, 1, 0, 0, 0)  # that the format can tell


def check_archive(path: Path) -> None:
    """InputError for an archive that would grow when it is read: those of arrays are not compressed, and a few
    kilobytes could fill any memory. What is no archive is left to its reader."""
    try:
        with path.open("rb") as file:
            marked = file.read(len(MAGIC)) == MAGIC
        if not marked and not zipfile.is_zipfile(path):  # which may have anything in front of it
            return
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
            packed = [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except OSError:
        return
    except (ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path}: not a whole archive of arrays ({error}); get it again") from error
    if any(entry.filename.endswith(".pkl") for entry in packed):  # which nobody could look through
        raise InputError(f"{path}: holds a packed pickle, as no archive of arrays does; do not use it")
    if held > (size := path.stat().st_size) + SLACK:
        raise InputError(f"{path}: its {size:,} bytes would become {held:,}: not an archive of arrays; do not use it")


def canonical(contents: bytes) -> bytes:
    """A skops file whose bytes depend on the object alone: as skops makes it, they hold the time and the addresses that
    things had in memory."""
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(entries.pop("schema.json"))
    numbers: dict[int, int] = {}
    renamed = _renumbered(schema, numbers)
    files = {f"{numbers[int(Path(name).stem)]}{Path(name).suffix}": data for name, data in entries.items()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [*sorted(files.items()), ("schema.json", json.dumps(renamed, indent=2).encode())]:
            archive.writestr(zipfile.ZipInfo(name, OLDEST), data)
    return target.getvalue()


def _renumbered(value: Any, numbers: dict[int, int]) -> Any:
    """A part of the schema with addresses replaced by 1, 2, 3, ... in the order in which they are met."""
    if isinstance(value, list):
        return [_renumbered(part, numbers) for part in value]
    if not isinstance(value, dict):
        return value
    if "__id__" in value:
        numbers.setdefault(value["__id__"], 1 + len(numbers))
    renamed = {key: _renumbered(part, numbers) for key, part in value.items()}
    if "__id__" in value:
        renamed["__id__"] = numbers[value["__id__"]]
    if "file" in value and "__id__" in value:
        path = Path(value["file"])
        renamed["file"] = f"{numbers[int(path.stem)]}{path.suffix}"
    return renamed
