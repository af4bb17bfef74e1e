"""Files that are either whole or not there, and what is said about them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.errors import InputError, printable

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; renamed to `path` when all went well, removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
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


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes `folder` where needed and keeps it for this process alone; a process that has ended holds nothing.

    InputError where another process holds it, or where no folder can be made.
    """
    shown = printable(str(folder))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{shown}: is a file; -s takes a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{shown}: no folder can be made here ({error.strerror})") from error
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what_to_do = "wait for it, or give another folder"
            raise InputError(f"{shown}: another process is writing here; {what_to_do}") from error
        yield
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """The versions that numbers depend on, of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
