"""The heads beside their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from adaptation.heads import HEADS, build_head


def inputs(count: int = 5, numbers: int = 8) -> torch.Tensor:
    return torch.randn(count, numbers, generator=torch.Generator().manual_seed(1))


def test_the_papers_head_is_one_matrix_and_a_relu() -> None:
    head = build_head("original", 8, seed=0)
    ((name, weight),) = head.state_dict().items()
    assert weight.shape == (1024, 8)
    assert "bias" not in name
    torch.testing.assert_close(head(inputs()), (inputs() @ weight.T).clamp(min=0))


def test_the_papers_head_starts_as_torch_starts_a_linear_layer() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        linear = torch.nn.Linear(8, 1024, bias=False)
    (weight,) = build_head("original", 8, seed=42).parameters()
    assert torch.equal(weight, linear.weight)
    assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(8), rel=0.01)


def test_petersons_head_starts_as_the_identity() -> None:
    head = build_head("peterson", 8, seed=0)
    assert torch.equal(head(inputs()), inputs())
    assert [weight.shape for weight in head.parameters()] == [(8,)]


def test_petersons_head_weighs_each_number_and_never_below_zero() -> None:
    head = build_head("peterson", 3, seed=0)
    head.load_state_dict({"weight": torch.tensor([2.0, 0.5, -3.0])})
    assert head(torch.tensor([[1.0, -4.0, 5.0]])).tolist() == [[2.0, -2.0, 0.0]]


def test_the_frozen_head_changes_nothing_and_has_nothing_to_train() -> None:
    head = build_head("dummy", 8, seed=0)
    assert torch.equal(head(inputs()), inputs())
    assert list(head.parameters()) == []


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    (one,) = build_head("original", 8, seed=5).parameters()
    torch.manual_seed(2)
    (same,) = build_head("original", 8, seed=5).parameters()
    (other,) = build_head("original", 8, seed=6).parameters()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", HEADS)
def test_building_a_head_leaves_torchs_random_numbers_as_they_were(name: str) -> None:
    before = torch.get_rng_state()
    build_head(name, 8, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
