"""Where tensors live, and the arithmetic they are computed in."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from common.machine.gpu import architecture, choice, occupancy, unusable, why_none
from common.machine.resources import available_memory, require_memory

logger = logging.getLogger(__name__)

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What numbers are held in under each precision; with tf32 it is the factors of products that are rounded."""
TAKEN = {"cpu": ("fp32", "bf16"), "mps": ("fp32",)}
"""The precisions of devices that do not take all."""
AMPERE = (8, 0)  # NVIDIA's architecture from which on GPUs compute in TF32 and bfloat16
KINDS = {"cpu": "a CPU", "mps": "an Apple GPU"}


def choose_device(gpu: bool | None) -> torch.device:
    """The GPU when asked for (`True`) or when nothing was said (`None`) and there is one; else the CPU.

    An Apple GPU (MPS) is used only when it is asked for. A GPU that torch cannot compute on, and asking for a GPU on a
    machine without one, is reported on stderr and answered with the CPU. OutOfMemory for a GPU that is full.
    """
    if gpu is False:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return _first_gpu()
    if gpu and torch.backends.mps.is_available():
        return torch.device("mps")
    if gpu:
        logger.warning(f"no GPU that torch can use was found{why_none()}: using the CPU")
    return torch.device("cpu")


def _first_gpu() -> torch.device:
    """The GPU that torch uses, where it can; else the CPU."""
    if reason := unusable():
        logger.warning(f"{reason}: using the CPU")
        return torch.device("cpu")
    if note := choice():
        logger.info(note)
    return torch.device("cuda")


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


@cache
def _uploads(device: torch.device) -> Any:
    """The stream in which tensors are sent to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def uploaded(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device. A GPU receives them beside its work: in the stream of the work, the host would wait
    for all that was begun before."""
    if device.type != "cuda":
        return values.to(device)
    with torch.cuda.stream(_uploads(device)):
        there = values.to(device)  # whose host memory may be written over from now on
    there.record_stream(torch.cuda.current_stream(device))
    return there


def free_memory(device: torch.device) -> float:
    """Bytes that a program can still have on a device; infinite where nothing says. An Apple GPU shares the memory of
    its machine."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for this program
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return min(left, available_memory())
    return available_memory()


def empty_cache() -> None:
    """Gives back what the allocators of GPUs keep for later."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def require_free(needed: float, device: torch.device, what: str, advice: str) -> None:
    """OutOfMemory where `what` takes more bytes than are free on a device. `advice` says what to do; of a GPU it is
    followed by who holds its memory."""
    free = free_memory(device)
    require_memory(needed, free, what, advice + occupancy(device) if needed > free else advice)


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that a device takes."""
    taken = TAKEN.get(device.type, tuple(TYPES))
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < AMPERE:
        return tuple(precision for precision in taken if precision not in ("tf32", "bf16"))
    return taken


def check_precision(precision: str, device: torch.device) -> None:
    """InputError for a precision that a device does not take."""
    if precision in (taken := precisions(device)):
        return
    if device.type == "cuda":
        card = f"{torch.cuda.get_device_name(device)} ({architecture(device)})"
        message = f"{card} has no arithmetic for it, which came with sm_80; use fp32, or fp16 where it is offered"
        raise InputError(f"--precision {precision}: {message}")
    gpu = "is for a GPU; " if device.type == "cpu" else ""
    raise InputError(f"--precision {precision}: {gpu}{KINDS[device.type]} takes {' or '.join(taken)}")


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round the factors of fp32 products to TF32 (10 bits of mantissa), or make fp32 mean fp32 on every
    device, which it otherwise does not in cuDNN's convolutions. Afterwards all is as it was.

    torch has two interfaces for this, and reading the older one is an error where somebody used the newer one. So both
    are set, to the same. On a CPU nothing is rounded in here, whatever `torch.set_float32_matmul_precision` allows.
    """
    gpu: Any = torch.backends.cudnn
    cpu: Any = torch.backends.mkldnn
    on_gpu, on_cpu = [torch.backends.cuda.matmul, gpu.conv, gpu.rnn], [cpu.matmul, cpu.conv]
    older = _older_settings()
    newer = [_own_precision(part, gpu) for part in on_gpu] + [_own_precision(part, cpu) for part in on_cpu]
    try:
        _set_older("high" if allowed else "highest", allowed)
        _set_newer(on_gpu + on_cpu, ["tf32" if allowed else "ieee"] * len(on_gpu) + ["ieee"] * len(on_cpu))
        yield
    finally:
        _set_older(*older)
        _set_newer(on_gpu + on_cpu, newer)


def _own_precision(part: Any, above: Any) -> str:
    """The precision that was set for a part; `none` where it is inherited, so that it follows what it inherits from."""
    precision: str = part.fp32_precision
    return "none" if precision == above.fp32_precision else precision


def _older_settings() -> tuple[str, bool]:
    """The older interface's precision of products, and whether convolutions may use TF32; the defaults of torch where
    only the newer one was used, since they cannot be read then."""
    try:
        products = torch.get_float32_matmul_precision()
    except RuntimeError:
        products = "highest"
    try:
        convolutions = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        convolutions = True
    return products, convolutions


def _set_older(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def _set_newer(parts: Sequence[Any], precisions: Sequence[str]) -> None:
    for part, precision in zip(parts, precisions, strict=True):
        part.fp32_precision = precision


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
