"""Where tensors live, and the arithmetic they are computed in."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.errors import InputError

MEMORY = Path("/proc/meminfo")
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What numbers are held in under each precision; with tf32 it is the factors of products that are rounded."""
ON_CPU = ("fp32", "bf16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt in glibc's malloc.h


def choose_device(gpu: bool | None) -> torch.device:
    """The GPU when asked for (`True`) or when nothing was said (`None`) and there is one; else the CPU.

    Asking for a GPU on a machine without one is said on stderr and answered with the CPU.
    """
    if gpu is False:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if gpu:
        print("no GPU that torch can use was found: going on with the CPU", file=sys.stderr)
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """`cpu (2 threads)` or `cuda (NVIDIA H100)`: what a published time must be read with."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"


def cores() -> int:
    """Processors that this process may run on: fewer than the machine has where a scheduler or container says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_precision(precision: str, device: torch.device) -> None:
    """InputError for a precision that is of use on a GPU alone."""
    if device.type == "cpu" and precision not in ON_CPU:
        raise InputError(f"--precision {precision}: is for a GPU; a CPU takes {' or '.join(ON_CPU)}")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Lets a GPU round the factors of fp32 products to TF32 (10 bits of mantissa), or makes fp32 mean fp32, which
    cuDNN's convolutions otherwise do not, without a word."""
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cublas.allow_tf32
    try:
        cudnn.allow_tf32 = cublas.allow_tf32 = allowed
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32 = before


def keep_freed_memory() -> None:
    """Makes glibc keep large blocks that were freed for their next use, in this process.

    Otherwise each tensor of some MB is given back to the system and comes back as pages that must be cleared first,
    which was measured to take a tenth of an epoch on a CPU. Another system's library is left as it is.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    if mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25):  # the most that older ones admit
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory() -> float:
    """Bytes of main memory that a program can still have; infinite where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in MEMORY.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return math.inf
