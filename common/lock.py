"""One process at a time in a folder that is written to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError, printable
from common.files import NO_LINK

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of file systems that are mounted without


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Makes `folder` where needed and keeps it for this process alone; a process that has ended holds nothing.

    The system drops the lock of a process however that ends. The file `.lock` says who holds it. InputError where
    another process does, or where no folder can be made.
    """
    _make(folder)
    descriptor = _lock(folder)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # before it is let go of, so that it is this process' own
        os.close(descriptor)


def _make(folder: Path) -> None:
    shown = printable(str(folder))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{shown}: is a file; -s takes a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{shown}: no folder can be made here ({error.strerror})") from error


def _lock(folder: Path) -> int:
    """The descriptor of the locked file, which says who holds it."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | NO_LINK, 0o644)
        _acquire(descriptor, folder)
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it meanwhile
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{printable(str(path))}: is no file; remove it")
    os.truncate(descriptor, 0)
    os.write(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
    return descriptor


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(descriptor)
        os.close(descriptor)
        told = f"{printable(str(folder))}: another process is writing here ({holder})"
        raise InputError(f"{told}; wait for it, or give another folder") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        told = "this file system has no locks: see to it yourself that nothing else writes here"
        print(f"note: {printable(str(folder))}: {told}", file=sys.stderr)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the opened file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """`host x, process 123`, as the lock says; it may be anyone's file."""
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
        return f"host {printable(str(found['host'])[:100])}, process {int(found['pid'])}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "which has not said who it is"
