"""The head of a similarity: shapes and types before weights, and one's own by file and class."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adaptation import heads
from adaptation.similarity.learned.file import Learned
from adaptation.similarity.learned.head import build, check_shapes, head_name
from common.errors import InputError

ORIGINAL = {"0.weight": (1024, 4)}
MINE = """
import torch
from torch import nn


class Mine(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.first = nn.Linear(features, features)
        self.second = self.first
        self.scale = torch.linspace(0, 1, 3).tolist()  # which needs numbers, not shapes alone

    def forward(self, x):
        return self.second(self.first(x))


class Other(Mine):
    pass


class Text(str):
    pass
"""


def learned(head: dict[str, torch.Tensor], width: int = 4) -> Learned:
    return Learned({"width": width}, head, None, None, torch.zeros(2, 2, 2000, dtype=torch.int64))


def described(name: str = "original", sha256: str | None = None) -> dict[str, Any]:
    return {"head": {"name": name, "sha256": sha256}}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path / "mine.py"


def test_other_shapes_are_refused_before_a_head_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    class Watched(heads.Original):
        def __init__(self, features: int) -> None:
            super().__init__(features)
            built.append(next(self.parameters()).device.type)

    monkeypatch.setitem(heads.HEADS, "original", Watched)
    with pytest.raises(InputError, match=r"a: its head original has tensors of other shapes \(0.weight \[5, 4\]\)"):
        check_shapes("original", 4, {"0.weight": (5, 4)}, "a")
    check_shapes("original", 2**24, {"0.weight": (1024, 2**24)}, "a")  # 64 GiB, were they more than shapes
    assert built == ["meta", "meta"]


def test_no_list_of_shapes_is_too_long_to_read() -> None:
    many = {f"{number}" * 30: (number,) for number in range(10_000)}
    with pytest.raises(InputError) as error:
        check_shapes("original", 4, many, "a")
    assert len(str(error.value)) < 800


def test_types_must_be_those_of_the_head() -> None:
    for kind in (torch.float64, torch.int64, torch.float16):
        with pytest.raises(InputError, match=r"its tensor 0.weight of the head is of another type than expected"):
            build("original", learned({"0.weight": torch.zeros(1024, 4, dtype=kind)}), "a")


def test_it_is_the_trained_one_and_random_numbers_stay_as_they_were() -> None:
    weight, state = torch.randn(1024, 4), torch.get_rng_state()
    head = build("original", learned({"0.weight": weight}), "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(head.state_dict()["0.weight"], weight)
    assert not head.training
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_ones_own_may_need_numbers_and_share_weights(mine: Path) -> None:
    linear = nn.Linear(4, 4)
    state = {f"{name}.{key}": value for name in ("first", "second") for key, value in linear.state_dict().items()}
    address = head_name(described("Mine", hashlib.sha256(mine.read_bytes()).hexdigest()), f"{mine}:Mine", "a")
    check_shapes(address, 4, {key: tuple(value.shape) for key, value in state.items()}, "a")
    x = torch.randn(3, 4)
    assert torch.equal(build(address, learned(state), "a")(x), linear(linear(x)))


def test_another_class_of_the_same_file_is_refused(mine: Path) -> None:
    code = hashlib.sha256(mine.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"mine.py:Other: another head than .* was trained with; give .*mine.py:Mine"):
        head_name(described("Mine", code), f"{mine}:Other", "a")
    with pytest.raises(InputError, match=r"mine: no address of a head; give FILE.py:Mine"):
        head_name(described("Mine", code), "mine", "a")
    with pytest.raises(InputError, match=r"mine.py:Text: .* not a torch.nn.Module"):
        check_shapes(head_name(described("Text", code), f"{mine}:Text", "a"), 4, {}, "a")


@pytest.mark.parametrize("name", ["Linear", "torch.nn.Linear", "/tmp/evil.py:Head", "__import__", "\x1b[31m"])
def test_a_name_is_a_row_of_the_table_and_nothing_else(name: str) -> None:
    with pytest.raises(InputError, match=r"is unknown here; known are original, peterson, dummy") as error:
        head_name(described(name), None, "a")
    assert str(error.value).isprintable()
