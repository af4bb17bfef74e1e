"""What differs between operating systems: files that are opened, synced and removed, cores, limits of a process.

The rest of the project asks here and runs on Linux, macOS and Windows alike. Where a system lacks a call, the nearest
thing that keeps the promise is done.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import stat
from contextlib import suppress
from pathlib import Path

NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # a link of that name, which might lead anywhere, is not opened
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe of that name is not waited for
MOST_READERS = 32  # threads: more of one Python process read no faster
BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of file systems that have no names to make durable
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h
BROKEN_PIPE = 128 + 13
"""The exit code of a program whose reader has gone: 128 and POSIX' number of SIGPIPE, which Windows does not have."""


def open_own(path: Path, flags: int) -> int:
    """Return the descriptor of a regular file that has this name itself.

    A link is not followed and a pipe not waited for: OSError for anything that is no regular file, as for all that
    `os.open` raises. `flags` are those of `os.open`.
    """
    if not (NO_LINK and NO_WAIT):
        _check_regular(path)
    descriptor = os.open(path, flags | NO_LINK | NO_WAIT | BINARY, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return descriptor


def _check_regular(path: Path) -> None:
    """Look before opening, where `os.open` cannot be told to refuse links and pipes itself."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a file", str(path))


def has_name(descriptor: int, path: Path) -> bool:
    """Return whether the opened file is the one that has this name now. On Windows an open file keeps its name."""
    if os.name == "nt":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def close_and_remove(descriptor: int, path: Path) -> None:
    """Close a file and remove it. While it is open, where the system removes open files, so that what is removed is
    this file and no other of its name; Windows removes closed files alone, and none that another process has open."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        os.close(descriptor)
        with suppress(PermissionError):
            path.unlink(missing_ok=True)
    else:
        os.close(descriptor)


def read_at_start(descriptor: int, most: int) -> bytes:
    """Return up to `most` bytes from the start of a file, or from its second byte where another process' lock keeps the
    first from being read, as on Windows."""
    for start in (0, 1):
        os.lseek(descriptor, start, os.SEEK_SET)
        with suppress(PermissionError):
            return os.read(descriptor, most)
    return b""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, as far as its system knows of such a thing: Windows opens no folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def bytes_on_disk(path: Path) -> int:
    """Return the bytes that a file takes on its disk, holes left out; 0 where there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return 512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size


def cores() -> int:
    """Return the processors that this process may run on: fewer than the machine has where a scheduler or container
    says so, and the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readers() -> int:
    """Return how many threads read images by default: one a core, at most `MOST_READERS`."""
    return min(MOST_READERS, cores())


def limit_of(name: str) -> float:
    """Return the limit that this process has of a resource, such as "RLIMIT_AS" (bytes); infinite where there is none,
    or where the system has no such limits."""
    try:
        import resource

        soft, _ = resource.getrlimit(getattr(resource, name))
    except (ImportError, AttributeError, OSError, ValueError):
        return math.inf
    return math.inf if soft == resource.RLIM_INFINITY else soft


def keep_freed_memory() -> None:
    """Make glibc keep large blocks that were freed for their next use, in this process.

    Otherwise each tensor of some MB is given back to the system and comes back as pages that must be cleared first,
    which was measured to take a tenth of an epoch on a CPU. Another system's library stays as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):  # the most that older ones admit
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
