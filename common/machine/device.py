"""Where tensors live, and the arithmetic they are computed in."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.errors import InputError
from common.machine.resources import available_memory

logger = logging.getLogger(__name__)

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What numbers are held in under each precision; with tf32 it is the factors of products that are rounded."""
TAKEN = {"cpu": ("fp32", "bf16"), "mps": ("fp32",)}
"""The precisions of devices that do not take all."""
KINDS = {"cpu": "a CPU", "mps": "an Apple GPU"}


def choose_device(gpu: bool | None) -> torch.device:
    """The GPU when asked for (`True`) or when nothing was said (`None`) and there is one; else the CPU.

    An Apple GPU (MPS) is used only when it is asked for. Asking for a GPU on a machine without one is said on stderr
    and answered with the CPU.
    """
    if gpu is False:
        return torch.device("cpu")
    if torch.cuda.is_available() and _works(torch.device("cuda")):
        return torch.device("cuda")
    if gpu and torch.backends.mps.is_available():
        return torch.device("mps")
    if gpu:
        logger.warning("no GPU that torch can use was found: going on with the CPU")
    return torch.device("cpu")


def _works(device: torch.device) -> bool:
    """Whether one small operation can be done on a GPU: the installed torch may have no code for it."""
    try:
        return float((torch.ones(1, device=device) + 1).item()) == 2
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning(f"warning: torch cannot compute on the GPU here ({reason}): using the CPU")
        return False


def training_device(gpu: bool | None) -> torch.device:
    """As `choose_device`, but for Apple GPUs: training was never tried there, and its features are small."""
    device = choose_device(gpu)
    if device.type == "mps":
        logger.warning("training on an Apple GPU is not supported: using the CPU")
        return torch.device("cpu")
    return device


def device_name(device: torch.device) -> str:
    """`cpu (2 threads)`, `cuda (NVIDIA H100)` or `mps (Apple GPU)`: what a published time must be read with."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return "mps (Apple GPU)" if device.type == "mps" else f"{device.type} ({torch.get_num_threads()} threads)"


def arithmetic_of(device: torch.device) -> str:
    """Return what the last digits of results depend on: `cpu`, or a GPU with its name."""
    return device_name(device) if device.type == "cuda" else device.type


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU in place of an Apple GPU, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def free_memory(device: torch.device) -> float:
    """Bytes that a program can still have on a device; infinite where nothing says. An Apple GPU shares the memory of
    its machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return min(left, available_memory())
    return available_memory()


def empty_cache() -> None:
    """Gives back what the allocators of GPUs keep for later."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def check_precision(precision: str, device: torch.device) -> None:
    """InputError for a precision that a device does not take."""
    taken = TAKEN.get(device.type, tuple(TYPES))
    if precision not in taken:
        gpu = "is for a GPU; " if device.type == "cpu" else ""
        raise InputError(f"--precision {precision}: {gpu}{KINDS[device.type]} takes {' or '.join(taken)}")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Lets a GPU round the factors of fp32 products to TF32 (10 bits of mantissa), or makes fp32 mean fp32, which
    cuDNN's convolutions otherwise do not, without a word."""
    places, name, values = _tf32_settings()
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, values[allowed])
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


def _tf32_settings() -> tuple[list[Any], str, tuple[Any, Any]]:
    """Where torch keeps it, under which name, and the values for "not allowed" and "allowed". torch has two interfaces,
    and once a program has set the newer one (`fp32_precision`), the older one raises."""
    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    try:
        _ = cudnn.allow_tf32, cublas.allow_tf32
    except RuntimeError:
        newer: Any = cudnn
        return [cublas, newer.conv, newer.rnn], "fp32_precision", ("ieee", "tf32")
    return [cudnn, cublas], "allow_tf32", (False, True)


class Marks:
    """Moments in the work of a device, which may be behind the program that gives it: seconds since the epoch."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        if self.gpu:
            torch.cuda.synchronize(device)
            self.first = self._event()
        self.start = time.time()

    def _event(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def mark(self) -> Any:
        """Return a mark for the work that was given until now."""
        return self._event() if self.gpu else time.time()

    def time(self, mark: Any) -> float:
        """Return when the work before a mark was done, which this waits for."""
        if not self.gpu:
            return float(mark)
        mark.synchronize()
        return self.start + float(self.first.elapsed_time(mark)) / 1000
