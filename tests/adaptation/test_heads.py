"""The heads beside their formulas."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptation.heads import HEADS, HeadStack, build_head, embedding_width, is_stackable
from common.errors import InputError

CPU = torch.device("cpu")


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


# ---- heads of several runs


def stack(name: str, runs: int) -> HeadStack:
    """Heads of other weights each."""
    heads = [build_head(name, 8, seed) for seed in range(runs)]
    generator = torch.Generator().manual_seed(4)
    for head in heads:
        for weight in head.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return HeadStack(heads, CPU)


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_a_stack_gives_each_run_what_its_own_head_gives(name: str, runs: int) -> None:
    heads = stack(name, runs)
    vectors = torch.stack([inputs() + run for run in range(runs)])
    found = heads(vectors)
    for run, head in enumerate(heads.heads):
        torch.testing.assert_close(found[run], head(vectors[run]))


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("name", ["original", "peterson"])
def test_gradients_of_a_stack_are_those_of_each_head(name: str, runs: int) -> None:
    heads = stack(name, runs)
    vectors = torch.stack([inputs() + run for run in range(runs)])
    heads(vectors).square().sum().backward()  # type: ignore[no-untyped-call]
    ((_, stacked),) = heads.weights.items()
    assert stacked.grad is not None
    for run in range(runs):
        (weight,) = (head := copy.deepcopy(heads.heads[run])).parameters()
        weight.grad = None
        head(vectors[run]).square().sum().backward()
        torch.testing.assert_close(stacked.grad.reshape(runs, *weight.shape)[run], weight.grad)


def test_a_stack_takes_nothing_of_its_heads_with_it() -> None:
    heads = [build_head("original", 8, seed) for seed in (1, 2)]
    before = [weight.clone() for head in heads for weight in head.parameters()]
    stacked = HeadStack(heads, CPU)
    with torch.no_grad():
        for weight in stacked.weights.values():
            weight.zero_()
    assert all(map(torch.equal, [weight for head in heads for weight in head.parameters()], before))


@pytest.mark.parametrize("name", ["original", "peterson"])
def test_a_head_is_taken_out_with_the_weights_it_has_by_then(name: str) -> None:
    heads = stack(name, 3)
    ((key, stacked),) = heads.weights.items()
    with torch.no_grad():
        stacked += torch.arange(3.0).view(3, *[1] * (stacked.ndim - 1))
    taken = [heads.unstacked(run) for run in range(3)]
    for run, head in enumerate(taken):
        assert type(head) is type(heads.heads[run])
        assert list(head.state_dict()) == [key]
        assert torch.equal(head.state_dict()[key], stacked[run])
        torch.testing.assert_close(head(inputs()), heads(torch.stack([inputs()] * 3))[run])
    with torch.no_grad():
        stacked.zero_()
    assert all(weight.any() for head in taken for weight in head.parameters())  # they share no memory


# ---- heads of other kinds


class Noisy(nn.Sequential):
    """Dropout, and no buffers."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, 4), nn.Dropout(0.5))


class Normed(nn.Sequential):
    """Buffers, and no random numbers."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, 4), nn.BatchNorm1d(4))


class Partial(nn.Sequential):
    """A first layer that is not trained."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, 4), nn.ReLU(), nn.Linear(4, 4))
        self[0].requires_grad_(False)


class Branching(nn.Linear):
    """Does one thing or another, by the values that it gets."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Deep(nn.Sequential):
    """Nothing that keeps runs apart."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4))


OTHERS = {"noisy": Noisy, "normed": Normed, "partial": Partial, "branching": Branching, "deep": Deep}


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, head in OTHERS.items():
        monkeypatch.setitem(HEADS, name, head)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("name", "stacks"),
    [
        *[("original", True), ("peterson", True), ("dummy", True), ("deep", True)],
        *[("noisy", False), ("normed", False), ("partial", False), ("branching", False)],
    ],
)
def test_heads_with_buffers_random_numbers_or_fixed_weights_are_not_stacked(name: str, stacks: bool) -> None:
    before = torch.get_rng_state()
    assert is_stackable(name, 8) == stacks
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("name", "width"), [("original", 1024), ("peterson", 8), ("dummy", 8), *[(name, 4) for name in OTHERS]]
)
def test_width_of_embeddings_is_that_of_what_a_head_gives(name: str, width: int) -> None:
    before = torch.get_rng_state()
    assert embedding_width(name, 8) == width
    assert torch.equal(torch.get_rng_state(), before)
    assert build_head(name, 8, 0)(inputs()).shape[1] == width


@pytest.mark.usefixtures("others")
def test_mode_is_set_for_all_heads() -> None:
    heads = HeadStack([build_head("noisy", 8, seed) for seed in (1, 2)], CPU)
    for mode in (False, True):
        heads.train(mode)
        assert [head[1].training for head in heads.heads if isinstance(head, Noisy)] == [mode, mode]


def test_a_state_that_is_more_than_tensors_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Head(nn.Identity):\n    def get_extra_state(self):\n        return {'a': 1}\n"
    )
    with pytest.raises(InputError, match=r"mine.py:Head: its state has '_extra_state', which is no tensor"):
        embedding_width(f"{tmp_path / 'mine.py'}:Head", 4)
