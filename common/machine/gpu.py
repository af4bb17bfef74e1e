"""NVIDIA GPUs: whether torch can compute on one, how full it is and by whom, and the errors of one that is full."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import PurePath

import torch

from common.errors import OutOfMemory, printable
from common.machine.shortage import names_memory

GIB = 2**30
VISIBLE = "CUDA_VISIBLE_DEVICES"
OWNERS = re.compile(r"cuda|cudnn|\bcu[a-z]*_|\bhip|\bmps\b|unable to find an engine", re.IGNORECASE)
"""What names a GPU in an error: torch's allocators, CUDA, cuBLAS, cuDNN, cuSOLVER (CUBLAS_STATUS_...)."""
PERHAPS = re.compile(r"STATUS_NOT_INITIALIZED|STATUS_INTERNAL_ERROR|unable to find (an engine|a valid)", re.IGNORECASE)
"""What CUDA's libraries say where they find no memory for themselves, and for other reasons too."""
LITTLE = 2**29  # bytes; with fewer left on a GPU they have none
LONGEST = 10  # seconds that nvidia-smi may take


def is_of_gpu(error: BaseException) -> bool:
    """Return whether a GPU or one of its libraries reports an error: the fault is not in the network or the data."""
    known = isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and OWNERS.search(str(error)) is not None)


def fills_gpu(error: BaseException) -> bool:
    """Return whether an error says that the memory of a GPU is full, whichever library reports it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return is_of_gpu(error) and (names_memory(error) or (PERHAPS.search(str(error)) is not None and _is_nearly_full()))


def _is_nearly_full() -> bool:
    with suppress(RuntimeError, AssertionError):
        return torch.cuda.mem_get_info()[0] < LITTLE
    return False


@contextmanager
def gpu_memory(advice: str, device: torch.device) -> Iterator[None]:
    """Turn a full memory of a GPU, in whichever way torch, CUDA and its libraries report it, into an OutOfMemory that
    says `advice`, what is free, and which processes hold the rest. A full main memory is left to
    `common.machine.shortage.explained`."""
    try:
        yield
    except RuntimeError as error:
        if not fills_gpu(error):
            raise
        raise OutOfMemory(advice + occupancy(device)) from error


def occupancy(device: torch.device) -> str:
    """Return `; NVIDIA H100: 1.2 of 79.1 GiB are free, python (process 4211) holds 61.0 GiB`: other processes only, as
    far as they can be seen. Of a GPU that does not answer, the holders of any GPU. Empty for other devices."""
    if device.type != "cuda":
        return ""
    with suppress(RuntimeError, AssertionError):
        free, total = torch.cuda.mem_get_info(device)
        properties = torch.cuda.get_device_properties(device)
        memory = f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free"
        return "; " + ", ".join([f"{properties.name}: {memory}", *_holders(str(getattr(properties, "uuid", "")))])
    return "".join(f"; {holder}" for holder in _holders(None))  # so full that it does not even answer


def _holders(uuid: str | None) -> Iterator[str]:
    """The other processes that hold memory of a GPU, or of any, as nvidia-smi lists them; a container hides them."""
    fields = "gpu_uuid,pid,used_memory,process_name"
    command = ["nvidia-smi", f"--query-compute-apps={fields}", "--format=csv,noheader,nounits"]
    if uuid == "" or not shutil.which(command[0]):
        return
    with suppress(OSError, subprocess.SubprocessError):
        listing = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LONGEST, check=True)
        for line in listing.stdout.splitlines():
            owner, process, used, name = [*map(str.strip, line.split(",", 3)), "", "", ""][:4]
            if process not in ("", str(os.getpid())) and uuid in (None, owner.removeprefix("GPU-")):
                size = f"{int(used) / 1024:.1f} GiB" if used.isdecimal() else "memory"
                yield f"{printable(PurePath(name).name)} (process {process}) holds {size}"


@cache
def unusable() -> str | None:
    """Return why torch cannot compute on the GPU that it finds; None where one small operation works. OutOfMemory where
    the GPU is full."""
    device = torch.device("cuda")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.cuda")  # what is reported here
        try:
            with gpu_memory("the GPU is full; free some, or use --cpu", device):
                torch.ones(2, device=device).add(1).sum().item()
        except RuntimeError as error:
            return _reason(device, next(iter(str(error).splitlines()), type(error).__name__))
    return None


def _reason(device: torch.device, said: str) -> str:
    """Why an operation failed: most often the card is older than the oldest that this build of torch has code for."""
    if "no kernel image" not in said and "not compatible" not in said:
        return f"the GPU does not compute ({said})"
    card = f"{torch.cuda.get_device_name(device)} ({architecture(device)})"
    built = ", ".join(torch.cuda.get_arch_list())
    return f"torch {torch.__version__} has no code for {card}, only for {built}; install a build that has"


def architecture(device: torch.device) -> str:
    """Return the architecture of a GPU as NVIDIA names it, such as `sm_90`."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def why_none() -> str:
    """Return why torch finds no GPU, as far as it can be known: ` (...)` or nothing."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f" (torch {torch.__version__} is built for CPUs alone)"
    if (visible := os.environ.get(VISIBLE)) is not None:
        hidden = "all others" if visible.strip() else "all GPUs"
        return f" ({VISIBLE} is '{printable(visible)}', which hides {hidden})"
    return ""


def choice() -> str | None:
    """Return which of several GPUs is used; None where there is one."""
    if (count := torch.cuda.device_count()) < 2:
        return None
    index = torch.cuda.current_device()
    return f"{count} GPUs: cuda:{index} ({torch.cuda.get_device_name(index)}) is used; {VISIBLE} chooses another"
