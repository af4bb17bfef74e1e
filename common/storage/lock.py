"""One process at a time in a folder that is written to."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from common.errors import InputError, printable
from common.machine.system import close_and_remove, has_name, open_own, read_at_start

logger = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = sorted({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""What file systems without locks answer, as network drives may be mounted."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder` where needed and keep it for this process alone; a process that has ended holds nothing. A folder
    that was made, and that nothing is in at the end, goes.

    The system drops the lock of a process however that ends. The file `.lock` says who holds it. InputError where
    another process does, or where no folder can be made.
    """
    made = not folder.exists()
    descriptor = _lock(folder)
    try:
        yield
    finally:
        close_and_remove(descriptor, folder / LOCK)
        if made:
            with suppress(OSError):  # which says that something is in it
                folder.rmdir()


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
        _make(folder)  # whose last holder may have removed it
        descriptor = _opened(path)
        _acquire(descriptor, folder)
        if has_name(descriptor, path):
            break
        os.close(descriptor)  # its holder removed it meanwhile
    os.ftruncate(descriptor, 0)
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    os.write(descriptor, f" {json.dumps(holder)}".encode())  # Windows keeps others from reading the first byte
    return descriptor


def _opened(path: Path) -> int:
    """The lock file, opened; InputError for a link, a pipe or a folder in its place."""
    try:
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.EINVAL, errno.EISDIR):
            raise
        message = "only a file of its own can be the lock of this folder"
        raise InputError(f"{printable(str(path))}: {message} ({error.strerror}); remove it") from error


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        if lock_descriptor(descriptor, blocking=False):
            return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(descriptor)
            raise
        message = "this file system has no locks: see to it yourself that nothing else writes here"
        logger.warning(f"note: {printable(str(folder))}: {message}")
        return
    holder = _holder(descriptor)
    os.close(descriptor)
    message = f"{printable(str(folder))}: another process is writing here ({holder})"
    raise InputError(f"{message}; wait for it, or give another folder")


def _holder(descriptor: int) -> str:
    """`host x, process 123`, as the lock says; it may be anyone's file."""
    try:
        holder = json.loads(read_at_start(descriptor, 1000))
        return f"host {printable(str(holder['host'])[:100])}, process {int(holder['pid'])}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "which has not said who it is"
