"""Running out of memory: recognised in whatever error it appears, and seen before the start where it would be none.

The allocators of torch, numpy and their libraries report it in many ways. Where little address space is left
(`ulimit -v`), some libraries do not report it at all: they end the program, or wait for ever.
"""

from __future__ import annotations

import errno
import importlib
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from common.errors import InputError, OutOfMemory
from common.machine.resources import address_space_left, available_memory, left_in_groups

FULL = "the memory is full; free some, or give it less at a time, such as a smaller --batch-size (see -h)"
THREAD = "can't start new thread"
TEXTS = re.compile(
    r"out[ _]of[ _]memory|not enough memory|insufficient memory|paging file|bad_alloc|alloc(ation)?_failed"
    rf"|(can't|cannot|could not|unable to|failed to) (allocate|map|mmap)\b|{THREAD}",
    re.IGNORECASE,
)
"""What errors of torch, numpy, CUDA, oneDNN, the loader of libraries, threads and Windows say of it."""
AMPLE = 2**31  # bytes; with as many left it is the fault of a file that asks for too much, and not a lack of memory
TIGHT = 2**27  # bytes; with no more left any error is one of memory, since few libraries check every allocation
LOADED = 2**29  # bytes that a process takes in which all libraries are loaded, as measured: .45 to .55 GB
SPARE = 2**28  # bytes of address space that must be left when all libraries are loaded
LEAST = 2**30  # bytes of address space below which not even a build of torch for CPUs can be loaded
SLOWEST = 300  # seconds that loading the libraries may take
_ROOT = Path(__file__).resolve().parents[2]


def explained(error: BaseException) -> str | None:
    """Return the line for an error that memory is the reason of; None for any other.

    An InputError is another one, but for those raised from an error of memory while memory is short: a file that could
    not be read for want of memory is no damaged file.
    """
    if isinstance(error, OutOfMemory):
        return None
    if isinstance(error, InputError):
        return FULL if is_short(error) else None
    named, reason = any(map(names_memory, _chain(error))), next(iter(str(error).splitlines()), "")
    if named and THREAD not in reason:
        return FULL
    return f"{FULL} ({type(error).__name__}: {reason})" if named or _is_tight() else None


def is_short(error: BaseException) -> bool:
    """Return whether an error that a file may be the reason of comes from memory, since little is left."""
    return any(map(names_memory, _chain(error))) and available_memory() < AMPLE


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def names_memory(error: BaseException) -> bool:
    """Return whether an error, as torch, numpy, their libraries or the system raise it, is one of memory."""
    if isinstance(error, InputError):
        return False
    out = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return out or TEXTS.search(str(error)) is not None


def _is_tight() -> bool:
    return address_space_left(peak=True) < TIGHT


def check_libraries(modules: Sequence[str]) -> None:
    """Load the libraries that a program needs, and their threads, in a process whose address space is limited.

    OutOfMemory where the limit does not hold them, which another process tries first: a library that finds too little
    may end its process or hang. So too where a control group does not hold them, whose processes are killed.
    """
    if "torch" not in sys.modules and (left := left_in_groups()) < LOADED:
        raise OutOfMemory(
            f"{left / 2**20:,.0f} MiB of memory are left to this process by its container or job (control group), and "
            f"its libraries alone take {LOADED / 2**20:,.0f} MiB; allow more"
        )
    left = address_space_left()
    if left == math.inf:
        return
    fits = left > SPARE if "torch" in sys.modules else left > LEAST and _loads_elsewhere(modules)
    if not fits:
        raise OutOfMemory(
            f"{left / 2**30:.1f} GiB of address space are left to this process, which do not hold the libraries that "
            "it needs; allow more (ulimit -v; in a job of a scheduler, its memory)"
        )
    load(modules)


def _loads_elsewhere(modules: Sequence[str]) -> bool:
    """Whether another process with the same limits can load the modules, with some memory to spare."""
    loading = f"from common.machine.shortage import load; load({list(modules)}, 1)"
    program = f"import sys; sys.path[:0] = [{str(_ROOT)!r}]; {loading}"
    with suppress(subprocess.TimeoutExpired, OSError):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=SLOWEST, check=False)
        return done.returncode == 0
    return False


def load(modules: Sequence[str], spare: bool = False) -> None:
    """Import the modules and start the threads of the libraries of linear algebra, while there is memory; with `spare`
    as if there were a little less of it."""
    held = bytearray(SPARE) if spare else b""
    import numpy as np
    import scipy.linalg.blas

    square = np.ones((512, 512), np.float32)
    scipy.linalg.blas.sgemm(1.0, square @ square, square)
    import torch

    ones = torch.ones(512, 512)
    torch.linalg.eigh((ones @ ones)[:64, :64])
    torch.zeros(2**20).add_(1).sum()
    for name in modules:
        with suppress(ModuleNotFoundError):  # of which the program itself says more
            importlib.import_module(name)
    del held
