"""Where tensors live, and the arithmetic they are computed in."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

MEMORY = Path("/proc/meminfo")


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


def full_precision() -> None:
    """Makes fp32 mean fp32: cuDNN would otherwise run convolutions in TF32 (10 bits of mantissa) without a word."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def available_memory() -> float:
    """Bytes of main memory that a program can still have; infinite where the system does not tell."""
    try:
        lines = dict(line.split(":") for line in MEMORY.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return math.inf
