"""The choice of a device, the arithmetic, and the memory that is free or kept."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common import device
from common.errors import InputError


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
    assert device.choose_device(gpu).type == chosen
    assert capsys.readouterr() == ("", "")


def test_missing_gpu_is_said_and_answered_with_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device(True).type == "cpu"
    assert capsys.readouterr().err == "no GPU that torch can use was found: going on with the CPU\n"


def test_name_tells_what_a_time_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    assert device.device_name(torch.device("cpu")) == "cpu (5 threads)"
    assert device.device_name(torch.device("cuda")) == "cuda (Some GPU)"


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
def test_a_precision_that_only_gpus_have_is_refused_on_a_cpu(precision: str) -> None:
    device.check_precision(precision, torch.device("cuda"))
    with pytest.raises(InputError) as told:
        device.check_precision(precision, torch.device("cpu"))
    assert str(told.value) == f"--precision {precision}: is for a GPU; a CPU takes fp32 or bf16"


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_both_have_is_taken(precision: str, where: str) -> None:
    device.check_precision(precision, torch.device(where))


class Library:
    """A C library that notes what it is told."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.told[parameter] = value
        return 1


def test_freed_memory_is_kept_up_to_sizes_no_tensor_here_has(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    device.keep_freed_memory()
    assert library.told == {-1: 2**31 - 1, -3: 2**30}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


@pytest.mark.parametrize(("most", "told"), [(2**25, {-3: 2**25, -1: 2**31 - 1}), (0, {})])
def test_a_library_that_admits_less_is_given_what_it_admits_or_nothing(
    monkeypatch: pytest.MonkeyPatch, most: int, told: dict[int, int]
) -> None:
    class Older(Library):
        def mallopt(self, parameter: int, value: int) -> int:
            return super().mallopt(parameter, value) if parameter == -1 or value <= most else 0

    library = Older()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    device.keep_freed_memory()
    assert library.told == told


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def load(_: object) -> object:
        if error is AttributeError:
            return object()  # a library without such a function
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    device.keep_freed_memory()


def test_free_memory_is_what_the_system_calls_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["MemTotal:       24541252 kB", "MemFree:   1048576 kB", "MemAvailable:    2097153 kB", "HugePages:   0"]
    (tmp_path / "meminfo").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(device, "MEMORY", tmp_path / "meminfo")
    assert device.available_memory() == 2097153 * 1024


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="a system without /proc")
def test_free_memory_of_this_machine_is_less_than_it_has() -> None:
    assert Path("/proc/meminfo") == device.MEMORY
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < device.available_memory() <= pages


@pytest.mark.parametrize("text", [None, "MemTotal:       24541252 kB\n"])
def test_memory_that_the_system_does_not_tell_is_no_limit(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / "meminfo").write_text(text)
    monkeypatch.setattr(device, "MEMORY", tmp_path / "meminfo")
    assert device.available_memory() == math.inf
