"""Heads and losses in files of the user's own: `path/to/mine.py:MyHead`. Such a file is run: the user names it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from common.errors import InputError, nearest, printable

SUFFIX = ".py"
_sources: dict[str, bytes] = {}  # as `digest` read them


class _Source(SourceLoader):
    """The module of these very bytes, and not of others that were compiled before."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        """Return the path of the file."""
        return self.path

    def get_data(self, path: str | bytes) -> bytes:
        """Return the bytes that were read; there are no others."""
        if path != self.path:
            raise OSError("nothing is compiled ahead")
        return self.source


def find(name: str, table: Mapping[str, Any], what: str) -> Callable[..., Any]:
    """Return what is called `name` in a table, or what an address `FILE.py:NAME` leads to; InputError for neither."""
    if name in table:
        return table[name]  # type: ignore[no-any-return]
    path, _, attribute = name.rpartition(":")
    if not path.endswith(SUFFIX):
        message = f"unknown {what} '{printable(name)}'{nearest(name, list(table))}"
        raise InputError(f"{message} allowed are {', '.join(table)}, and one of your own: FILE.py:NAME")
    source = _sources[path] if path in _sources else _read(path)
    member = getattr(_module(path, source), attribute, None)
    if not callable(member):
        raise InputError(f"{printable(name)}: there is no class or function '{attribute}' in this file")
    return member  # type: ignore[no-any-return]


def digest(name: str) -> str | None:
    """Return the SHA-256 of the file that an address `FILE.py:NAME` leads to; None for a name in a table.

    From then on `find` runs these bytes: a file that is edited while runs are trained changes none of them.
    """
    path = name.rpartition(":")[0]
    if not path.endswith(SUFFIX):
        return None
    _sources[path] = _read(path)
    return hashlib.sha256(_sources[path]).hexdigest()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read ({error.strerror})") from error


@cache
def _module(path: str, source: bytes) -> ModuleType:
    """The module that a file is."""
    name = f"extension_{hashlib.sha256(source).hexdigest()[:16]}"
    spec = importlib.util.spec_from_loader(name, _Source(path, source), origin=path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # where dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file may do anything
        raise InputError(f"{printable(path)}: {_first_line(error)}") from error
    return module


def tried(name: str, made: Callable[[], Any]) -> Any:
    """Return what `made()` gives; an InputError names what the code called `name` raised."""
    try:
        return made()
    except Exception as error:  # as above
        if not name.rpartition(":")[0].endswith(SUFFIX):
            raise
        raise InputError(f"{printable(name)}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
