"""A file from a URL, whole or not at all, and what its source says of its contents."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.errors import InputError
from common.progress import progress
from common.storage.files import finish_file

HASH = re.compile(r"-([0-9a-f]{8,64})\.(?:pth?|safetensors)$")  # torch's custom: the start of its SHA-256
BLOB = re.compile(r"[0-9a-f]{64}")  # the hub's cache calls a file by its SHA-256
CHUNK, PATIENCE = 2**20, 60  # bytes; seconds that a server may say nothing


class Damaged(Exception):
    """What was fetched is not what the source has."""


def download(url: str, path: str | os.PathLike[str]) -> None:
    """Fetch `url` to `path`. Raises what the transport raises, or `Damaged` for a file that was cut short or that is
    not the one whose hash its name holds."""
    path = Path(path)
    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=PATIENCE) as source, _own_file(path) as file:
        length = int(source.headers.get("Content-Length") or 0)
        with progress(length, "fetch", "bytes") as bar:
            while chunk := source.read(CHUNK):
                file.write(chunk)
                digest.update(chunk)
                count += len(chunk)
                bar.update(len(chunk))
        if length and count != length:
            raise Damaged(f"it ended after {count:,} of {length:,} bytes")
        if (named := named_hash(Path(url))) and not digest.hexdigest().startswith(named):
            raise Damaged(f"its SHA-256 begins with {digest.hexdigest()[: len(named)]}, not {named}")


@contextmanager
def _own_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that no other process knows of, since several may fetch the same; it becomes `path` when all
    went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        finish_file(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def named_hash(path: str | os.PathLike[str]) -> str | None:
    """Return the SHA-256, or its start, that a file's source publishes with it: in the file's name, or in the name
    under which the hub's cache keeps it. None where there is none."""
    path = Path(path)
    if match := HASH.search(path.name):
        return match[1]
    blob = path.resolve().name if path.is_symlink() else ""
    return blob if BLOB.fullmatch(blob) else None


def check_fetched(path: str | os.PathLike[str], sha256: str) -> None:
    """Raise InputError for a fetched file that is no longer what its source published."""
    path = Path(path)
    named = named_hash(path)
    if named and not sha256.startswith(named):
        raise InputError(
            f"{path.resolve()}: damaged: its SHA-256 begins with {sha256[:8]}, its source says {named[:8]}; remove it, "
            "and it is fetched again (of a package: install that again)"
        )


def revision(path: str | os.PathLike[str]) -> str:
    """Return `@` and the commit of a file in the hub's cache; nothing for another file."""
    path = Path(path)
    return f"@{path.parent.name}" if path.parent.parent.name == "snapshots" else ""
