"""NVIDIA GPUs that are full, too old, several or hidden. Their errors are simulated: no test here needs a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError, OutOfMemory
from common.machine import device, gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
UUID = "3d1f9a62-1111-2222-3333-444455556666"
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError(),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: CUDA_ERROR_OUT_OF_MEMORY"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GiB)"),
    RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
]
OTHERS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    MemoryError(),
    InputError("CUDA out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_gpu_is_recognised_whoever_reports_it(error: RuntimeError) -> None:
    assert gpu.fills_gpu(error)
    with pytest.raises(OutOfMemory, match=r"^too little$") as caught, gpu.gpu_memory("too little", CPU):
        raise error
    assert caught.value.__cause__ is error


UNCLEAR = [
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
]


@pytest.mark.parametrize("error", UNCLEAR, ids=str)
@pytest.mark.parametrize(("free", "full"), [(gpu.LITTLE - 1, True), (gpu.LITTLE, False)])
def test_what_libraries_say_without_a_reason_is_a_full_gpu_where_little_is_left(
    error: RuntimeError, free: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu.is_of_gpu(error)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2**34))
    assert gpu.fills_gpu(error) == full


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not gpu.fills_gpu(error)
    with pytest.raises(type(error)) as caught, gpu.gpu_memory("too little", CPU):
        raise error
    assert caught.value is error


# ---- a GPU that is there


@pytest.fixture
def old_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with a GTX 1080, whose first kernel has no code for it."""

    def no_code(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nCompile")

    there_is(monkeypatch, "GTX 1080", (6, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(torch, "ones", no_code)
    yield
    gpu.unusable.cache_clear()


def there_is(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], count: int = 1) -> None:
    """Let torch find so many GPUs."""
    gpu.unusable.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3 * 2**29, 16 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name=name, uuid=UUID))


@pytest.mark.parametrize("asked", [None, True])
def test_a_gpu_that_torch_has_no_code_for_is_left_to_others(
    asked: bool | None, old_card: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert device.choose_device(asked) == CPU
    card = f"torch {torch.__version__} has no code for GTX 1080 (sm_61), only for sm_75, sm_80"
    assert capsys.readouterr().err == f"{card}; install a build that has: using the CPU\n"


@pytest.mark.parametrize("asked", [None, True])
def test_a_gpu_that_does_not_answer_is_reported(
    asked: bool | None, old_card: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel")

    monkeypatch.setattr(torch, "ones", busy)
    assert device.choose_device(asked) == CPU
    said = "the GPU does not compute (CUDA error: CUDA-capable device(s) is/are busy or unavailable)"
    assert capsys.readouterr().err == f"{said}: using the CPU\n"


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A GPU whose first operation works (on the CPU)."""
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda size, device: ones(size))
    yield monkeypatch
    gpu.unusable.cache_clear()


@pytest.mark.parametrize(("count", "said"), [(1, ""), (3, "3 GPUs: cuda:0 (T4) is used; CUDA_VISIBLE_DEVICES chooses")])
def test_which_of_several_gpus_is_used_is_printed(
    count: int, said: str, working: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there_is(working, "T4", (7, 5), count)
    assert device.choose_device(None) == CUDA
    shown = capsys.readouterr()
    assert (shown.out.startswith(said), bool(shown.out), shown.err) == (True, bool(said), "")


@pytest.mark.parametrize(("precision", "taken"), [("fp32", True), ("fp16", True), ("tf32", False), ("bf16", False)])
def test_a_precision_that_the_card_lacks_is_refused(
    precision: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_is(monkeypatch, "T4", (8, 0))
    device.check_precision(precision, CUDA)
    there_is(monkeypatch, "T4", (7, 5))
    assert (precision in device.precisions(CUDA)) == taken
    if taken:
        device.check_precision(precision, CUDA)
        return
    with pytest.raises(InputError) as caught:
        device.check_precision(precision, CUDA)
    has_none = "T4 (sm_75) has no arithmetic for it, which came with sm_80; use fp32, or fp16 where it is offered"
    assert str(caught.value) == f"--precision {precision}: {has_none}"


# ---- a GPU that is not there


@pytest.mark.parametrize(
    ("visible", "built", "reason"),
    [
        (None, "13.0", ""),
        ("", "13.0", " (CUDA_VISIBLE_DEVICES is '', which hides all GPUs)"),
        ("7", "13.0", " (CUDA_VISIBLE_DEVICES is '7', which hides all others)"),
        (None, None, f" (torch {torch.__version__} is built for CPUs alone)"),
    ],
)
def test_why_no_gpu_is_found_is_said(
    visible: str | None,
    built: str | None,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.delenv(gpu.VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(gpu.VISIBLE, visible)
    assert device.choose_device(True) == CPU
    assert capsys.readouterr().err == f"no GPU that torch can use was found{reason}: using the CPU\n"


# ---- a GPU that is full

LISTING = f"""GPU-{UUID}, {{own}}, 512, /usr/bin/python3
GPU-{UUID}, 4211, 62464, /opt/env/bin/python, of another
GPU-{UUID}, 77, [N/A], Xorg
GPU-another, 99, 5, /usr/bin/python3
odd
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program nvidia-smi that lists what holds the memory of two GPUs."""
    if os.name == "nt":
        pytest.skip("a script of a shell")
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LISTING.format(own=os.getpid())}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


FREE = "; T4: 1.5 of 16.0 GiB are free"
HELD = f"{FREE}, python, of another (process 4211) holds 61.0 GiB, Xorg (process 77) holds memory"


def test_who_holds_the_memory_is_said_as_far_as_it_is_known(monkeypatch: pytest.MonkeyPatch, smi: Path) -> None:
    assert gpu.occupancy(CPU) == ""
    there_is(monkeypatch, "T4", (7, 5))
    assert gpu.occupancy(CUDA) == HELD
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.occupancy(CUDA) == FREE
    smi.unlink()
    monkeypatch.setenv("PATH", str(smi.parent))
    assert gpu.occupancy(CUDA) == FREE


def test_of_a_gpu_that_does_not_answer_the_holders_are_said(smi: Path) -> None:
    if not torch.cuda.is_available():
        held = "; python, of another (process 4211) holds 61.0 GiB; Xorg (process 77) holds memory"
        assert gpu.occupancy(CUDA) == f"{held}; python3 (process 99) holds 0.0 GiB"
        smi.unlink()
        assert gpu.occupancy(CUDA) == ""


def test_a_gpu_that_another_process_fills_is_told_before_the_start(
    old_card: None, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise FULL[2]

    monkeypatch.setattr(torch, "ones", full)
    there_is(monkeypatch, "T4", (7, 5))
    with pytest.raises(OutOfMemory) as caught:
        device.choose_device(None)
    assert str(caught.value) == f"the GPU is full; free some, or use --cpu{HELD}"


@pytest.mark.parametrize("free", [3 * 2**29, 3 * 2**29 + 1])
def test_what_does_not_fit_is_told_with_who_holds_the_rest(
    free: int, smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_is(monkeypatch, "T4", (7, 5))
    if free <= 3 * 2**29:
        device.require_free(free, CUDA, "it takes", "free some")
        return
    with pytest.raises(OutOfMemory) as caught:
        device.require_free(free, CUDA, "it takes", "free some")
    assert str(caught.value) == f"it takes 1.5 GiB of memory, 1.5 GiB may be used; free some{HELD}"
