"""The choice of a device, full precision, and the memory that is free."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from common import device


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


@pytest.fixture
def tf32() -> Iterator[None]:
    """TF32 allowed, until the test is over."""
    settings: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = True
    yield
    for setting, value in zip(settings, before, strict=True):
        setting.allow_tf32 = value


@pytest.mark.usefixtures("tf32")
def test_full_precision_turns_tf32_off() -> None:
    assert torch.backends.cudnn.allow_tf32
    device.full_precision()
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


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
