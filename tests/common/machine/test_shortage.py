"""Errors of memory as the libraries raise them, told from all others; and libraries that do not fit."""

from __future__ import annotations

import contextlib
import errno
import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError, OutOfMemory
from common.machine import shortage
from common.machine.shortage import FULL, check_libraries, explained, is_short, names_memory

ROOT = Path(shortage.__file__).parents[2]
TOO_MUCH = 2**56  # bytes, more than any address


def error_of(call: Callable[[], object]) -> BaseException:
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(pytest.raises((MemoryError, RuntimeError, OSError, ImportError)))
        call()
    return caught.value


REAL: dict[str, Callable[[], object]] = {
    "Python": lambda: bytearray(TOO_MUCH),
    "numpy": lambda: np.empty(TOO_MUCH, np.uint8),
    "torch": lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
    "the system": lambda: mmap.mmap(-1, 2**47),
}


@pytest.mark.parametrize("name", REAL)
def test_what_allocators_really_raise_is_recognised(name: str) -> None:
    error = error_of(REAL[name])
    assert names_memory(error)
    assert explained(error) == FULL


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GiB, other allocations: 1.2 GiB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("unable to mmap 102 bytes from file <w.pt>: Cannot allocate memory (12)"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("[WinError 1455] The paging file is too small for this operation to complete"),
        MemoryError(),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_libraries_say_elsewhere_is_recognised(error: BaseException) -> None:
    assert names_memory(error)
    line = explained(error)
    assert line is not None
    assert line.startswith(FULL)
    assert "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        ImportError("No module named 'x'"),
        ZeroDivisionError(),
        InputError("the memory card is out of memory"),
        OutOfMemory("the memory does not hold it"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_other_errors_are_none_of_memory(error: BaseException) -> None:
    assert explained(error) is None


def wrapped(cause: BaseException) -> InputError:
    """As a reader raises it that was given a file."""
    error = InputError("w.pt: not a state dict")
    error.__cause__ = cause  # what `raise ... from cause` does
    return error


@pytest.mark.parametrize(("free", "line"), [(2**20, FULL), (2**40, None)])
def test_a_file_is_not_at_fault_where_memory_is_short(
    free: int, line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With much memory a file is at fault that asks for more than there is."""
    monkeypatch.setattr(shortage, "available_memory", lambda: free)
    assert explained(wrapped(MemoryError())) == line
    assert is_short(wrapped(wrapped(MemoryError()))) == (line is not None)
    assert explained(wrapped(ValueError("odd"))) is None
    assert explained(OutOfMemory("use --cpu")) is None


# ---- before the start

LIMITED = """
import resource, sys
from common import console
from common.machine.shortage import check_libraries
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) * 2**20,) * 2)
def command():
    check_libraries(["common.machine.device"])
    import torch
    print(torch.ones(2).sum().item())
    return 0
sys.exit(console.guarded("x.py", command))
"""


@pytest.mark.parametrize("megabytes", [100, 250, 700, 1500, 2500])
def test_libraries_that_do_not_fit_are_refused_in_one_line(megabytes: int) -> None:
    """Unchecked, these values lead to a traceback, to an end by a library or the system, or to no end."""
    command = [sys.executable, "-c", LIMITED, str(megabytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    if done.returncode == 0:  # a build of torch that is smaller
        assert done.stdout == "2.0\n"
    else:
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "of address space are left to this process" in done.stderr


def test_nothing_is_loaded_where_nothing_is_limited() -> None:
    program = "import sys; from common.machine.shortage import *; check_libraries(['x']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_package_that_is_missing_is_left_to_the_program() -> None:
    program = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))\n"
        "from common.machine.shortage import check_libraries\ncheck_libraries(['no_such_package'])\nprint('torch')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "torch\n"


def test_a_control_group_that_holds_no_libraries_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "left_in_groups", lambda: 300.0 * 2**20)
    check_libraries([])  # torch is loaded here
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(OutOfMemory, match=r"^300 MiB of memory are left to this process by its container or job"):
        check_libraries([])
