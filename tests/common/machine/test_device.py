"""The choice of a device, the arithmetic, and the memory that is free or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from common.errors import InputError
from common.machine import device


@pytest.mark.parametrize(
    ("gpu", "available", "chosen"),
    [(None, False, "cpu"), (None, True, "cuda"), (True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu")],
)
def test_device_is_the_gpu_where_there_is_one_unless_the_cpu_is_asked_for(
    gpu: bool | None,
    available: bool,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(device, "unusable", lambda: None)
    monkeypatch.setattr(device, "choice", lambda: None)
    assert device.choose_device(gpu).type == chosen
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("gpu", "chosen"), [(None, "cpu"), (True, "mps"), (False, "cpu")])
def test_an_apple_gpu_is_used_when_it_is_asked_for(
    gpu: bool | None, chosen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.choose_device(gpu).type == chosen
    assert capsys.readouterr() == ("", "")
    assert device.training_device(gpu).type == "cpu"
    told = "training on an Apple GPU is not supported: using the CPU\n" if gpu else ""
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_a_precision_that_nobody_tried_on_apple_gpus_is_refused(precision: str) -> None:
    device.check_precision("fp32", torch.device("mps"))
    with pytest.raises(InputError) as told:
        device.check_precision(precision, torch.device("mps"))
    assert str(told.value) == f"--precision {precision}: an Apple GPU takes fp32"


def test_float64_is_computed_where_there_is_such_a_thing() -> None:
    assert [device.float64_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "cpu"]


def test_an_apple_gpu_has_its_share_of_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 900)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 200)
    for free, expected in ((1000, 700), (600, 600)):
        monkeypatch.setattr(device, "available_memory", lambda free=free: free)
        assert device.free_memory(torch.device("mps")) == expected
        assert device.free_memory(torch.device("cpu")) == free


def test_missing_gpu_is_said_and_answered_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "why_none", lambda: "")
    assert device.choose_device(True).type == "cpu"
    assert capsys.readouterr().err == "no GPU that torch can use was found: using the CPU\n"


def test_name_tells_what_a_time_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert device.device_name(torch.device("cpu")) == "cpu (5 threads)"
    assert device.device_name(torch.device("cuda")) == "cuda (Some GPU)"
    assert device.device_name(torch.device("mps")) == "mps (Apple GPU)"


SETTINGS: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul


def allowed() -> list[bool]:
    """Whether convolutions and products may round to TF32."""
    return [setting.allow_tf32 for setting in SETTINGS]


@pytest.fixture(params=[(True, True), (False, False), (True, False), (False, True)])
def before(request: pytest.FixtureRequest) -> Iterator[list[bool]]:
    """What was allowed before, until the test is over."""
    found = allowed()
    for setting, value in zip(SETTINGS, request.param, strict=True):
        setting.allow_tf32 = value
    yield list(request.param)
    for setting, value in zip(SETTINGS, found, strict=True):
        setting.allow_tf32 = value


@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_allowed_or_not_as_long_as_it_is_asked_for(before: list[bool], wanted: bool) -> None:
    assert allowed() == before
    with device.tf32(wanted):
        assert allowed() == [wanted, wanted]
        with device.tf32(not wanted):
            assert allowed() == [not wanted, not wanted]
        assert allowed() == [wanted, wanted]
    assert allowed() == before


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_what_it_was_after_an_error(before: list[bool], wanted: bool, error: type[BaseException]) -> None:
    with pytest.raises(error), device.tf32(wanted):
        raise error
    assert allowed() == before


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_that_only_gpus_have_is_refused_on_a_cpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    device.check_precision(precision, torch.device("cuda"))
    with pytest.raises(InputError) as told:
        device.check_precision(precision, torch.device("cpu"))
    assert str(told.value) == f"--precision {precision}: is for a GPU; a CPU takes fp32 or bf16"


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_both_have_is_taken(precision: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    device.check_precision(precision, torch.device(where))


def test_what_torch_keeps_of_a_gpu_for_this_program_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    assert device.free_memory(torch.device("cuda")) == 1400


def test_results_on_a_gpu_depend_on_which_one_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert device.arithmetic_of(torch.device("cpu")) == "cpu"
    assert device.arithmetic_of(torch.device("cuda")) == "cuda (Some GPU)"


BACKENDS: Any = torch.backends
PARTS: dict[str, Any] = {
    "products": BACKENDS.cuda.matmul,
    "convolutions": BACKENDS.cudnn.conv,
    "recurrent": BACKENDS.cudnn.rnn,
    "products on a CPU": BACKENDS.mkldnn.matmul,
    "convolutions on a CPU": BACKENDS.mkldnn.conv,
}
READ: dict[str, Callable[[], Any]] = {
    **{name: partial(getattr, part, "fp32_precision") for name, part in PARTS.items()},
    "all": lambda: BACKENDS.fp32_precision,
    "older, products": lambda: BACKENDS.cuda.matmul.allow_tf32,
    "older, products by name": torch.get_float32_matmul_precision,
    "older, convolutions": lambda: BACKENDS.cudnn.allow_tf32,
}
NOTEBOOKS = {
    "nothing": "",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "all": "torch.backends.fp32_precision = 'tf32'",
    "products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "convolutions": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "cudnn": "torch.backends.cudnn.fp32_precision = 'ieee'",
    "a CPU's": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "both": "torch.set_float32_matmul_precision('high'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
}


def precisions() -> dict[str, Any]:
    """What each interface says; `mixed` where torch refuses to say it."""
    said: dict[str, Any] = {}
    for name, read in READ.items():
        try:
            said[name] = read()
        except RuntimeError:
            said[name] = "mixed"
    return said


@pytest.fixture
def fresh() -> Iterator[None]:
    """Afterwards torch's settings are those of a new process."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for part in (BACKENDS, BACKENDS.cudnn, BACKENDS.mkldnn, *PARTS.values()):
        part.fp32_precision = "none"
    for name in ("convolutions", "recurrent"):
        PARTS[name].fp32_precision = "tf32"


@pytest.mark.parametrize("lines", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_what_a_notebook_set_holds_afterwards_and_not_within(lines: str, fresh: None) -> None:
    exec(lines)
    before = precisions()
    for allowed in (False, True):
        with device.tf32(allowed):
            within = precisions()
            assert "mixed" not in within.values()
            gpu = "tf32" if allowed else "ieee"
            assert [within[name] for name in PARTS] == [gpu, gpu, gpu, "ieee", "ieee"]
            with device.tf32(not allowed):
                assert torch.backends.cuda.matmul.allow_tf32 is not allowed
            assert precisions() == within
        assert precisions() == before


def test_what_was_inherited_still_is(fresh: None) -> None:
    BACKENDS.fp32_precision = "tf32"
    with device.tf32(False):
        pass
    BACKENDS.fp32_precision = "ieee"
    assert {part.fp32_precision for part in PARTS.values()} == {"ieee"}
