"""The choice of a device, and full precision."""

from __future__ import annotations

from collections.abc import Iterator
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
