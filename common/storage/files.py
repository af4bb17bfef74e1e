"""Files that are either whole or not there, and what is said about them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from common.errors import InputError, printable
from common.machine.system import sync_folder as sync_folder  # for those who write files of their own

MOST_JSON = 2**28  # bytes
PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow", "simplejpeg")


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


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. FileNotFoundError where there is none; ValueError for anything else, such as a file of
    any size that is not ours."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_JSON:
        raise ValueError("no JSON file of ours")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def read_facts(path: Path) -> dict[str, Any]:
    """The `.json` beside a features file; empty when there is none. InputError when it is damaged: then nothing tells
    whether the features are whole."""
    if path.suffix == ".npz":  # which extract.py does not write: a .json of that stem is of another file
        return {}
    try:
        return read_json(path.with_suffix(".json"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        shown = printable(str(path.with_suffix(".json")))
        raise InputError(f"{shown}: damaged; get it again, or extract again with --overwrite") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the file is there that a `.json` tells of."""
    return path.is_file() and sha256(path) == facts.get("sha256")


def check_whole(path: Path, facts: Mapping[str, Any]) -> str:
    """The SHA-256 of a file; InputError when the `.json` beside it (`facts`) names another one."""
    try:
        found, told = sha256(path), facts.get("sha256")
    except OSError as error:
        raise InputError(f"{path}: no features file could be read here ({error.strerror})") from error
    if told not in (None, found):  # files of before had none
        raise InputError(
            f"{path}: was changed or damaged since it was written (its SHA-256 begins with {found[:8]}, and its .json "
            f"says {str(told)[:8]}); get it again, or extract it again with --overwrite"
        )
    return found


def package_versions() -> dict[str, str]:
    """The versions that numbers depend on, of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
