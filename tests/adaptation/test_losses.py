"""The losses beside plain loops in float64, and what all losses share beside the tiled one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptation.losses import LOSSES, Loss, contrast, contrastive, sigmoid
from adaptation.tiled_loss import Tiling


def by_autograd(similarities: Tensor, logit_scale: float) -> Tensor:
    """The contrastive loss as anybody's: not the function that is worked through in tiles."""
    return contrastive(similarities, logit_scale)


def embeddings(runs: int = 2, count: int = 23, numbers: int = 6) -> tuple[Tensor, Tensor]:
    """Pairs (R, N, E) that share something, two of which are the same."""
    generator = torch.Generator().manual_seed(0)
    left, noise = (torch.randn(runs, count, numbers, generator=generator) for _ in range(2))
    right = left + noise
    left[:, 1], right[:, 1] = left[:, 0], right[:, 0]
    return left, right


def with_gradients(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return left.clone().requires_grad_(), right.clone().requires_grad_()


def gradients(loss: Tensor, sides: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss.sum(), sides)


def sigmoid_by_loops(similarities: Tensor, logit_scale: float) -> float:
    """SigLIP's pseudo-code, a combination at a time."""
    total, count = 0.0, len(similarities)
    for i in range(count):
        for j in range(count):
            logit = logit_scale * similarities[i, j].item() - 10
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / count


@pytest.mark.parametrize(("count", "logit_scale"), [(1, 1.0), (7, 10.0), (30, 15.0)])
def test_sigmoid_is_that_of_plain_loops(count: int, logit_scale: float) -> None:
    similarities = 2 * torch.rand(count, count, generator=torch.Generator().manual_seed(count)) - 1
    expected = sigmoid_by_loops(similarities.double(), logit_scale)
    assert sigmoid(similarities, logit_scale).item() == pytest.approx(expected, rel=1e-5)


def test_sigmoid_of_one_perfect_pair_by_hand() -> None:
    assert sigmoid(torch.ones(1, 1), 10.0).item() == pytest.approx(math.log(2))  # 10 * 1 - 10 is 0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_gradients_of_embeddings_are_those_of_finite_differences(loss: Loss) -> None:
    left, right = (side.double() for side in embeddings(count=6, numbers=3))
    assert torch.autograd.gradcheck(lambda a, b: contrast(a, b, loss, 10.0).loss, with_gradients(left, right))


@pytest.mark.parametrize("logit_scale", [1.0, 15.0, 100.0])
def test_autograd_and_tiles_give_the_same(logit_scale: float) -> None:
    plain, tiles = with_gradients(*embeddings()), with_gradients(*embeddings())
    expected = contrast(*plain, by_autograd, logit_scale)
    found = contrast(*tiles, contrastive, logit_scale, Tiling(keep=False, numbers=1, rows=7))
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, found.ranks, expected.ranks))
    for one, other in zip(gradients(found.loss, tiles), gradients(expected.loss, plain), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def test_ranks_do_not_depend_on_the_loss_and_copies_are_tied() -> None:
    ranks = [contrast(*embeddings(), loss, 15.0).ranks for loss in LOSSES.values()]
    assert all(torch.equal(one, other) for one, other in zip(*ranks, strict=True))
    assert all(of_runs[:, :2].min() >= 2 for of_runs in ranks[0])


def test_rounded_factors_give_the_same_ranks_whatever_the_loss() -> None:
    rough = Tiling(factors=torch.bfloat16)
    tiles, plain = (contrast(*embeddings(), loss, 15.0, rough) for loss in (contrastive, by_autograd))
    torch.testing.assert_close(tiles.loss, plain.loss, rtol=1e-5, atol=1e-6)
    assert all(map(torch.equal, tiles.ranks, plain.ranks))


@pytest.mark.parametrize("loss", [sigmoid, by_autograd])
def test_ranks_that_nobody_wants_are_not_computed(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "lt", lambda *_, **__: pytest.fail("similarities were compared"))
    assert contrast(*embeddings(), loss, 15.0, ranked=False).ranks == ()


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_vectors_of_zeros_find_nobody_and_break_nothing(loss: Loss) -> None:
    left, right = embeddings()
    left[0, 3], right[1, 5] = 0, 0
    sides = with_gradients(left, right)
    found = contrast(*sides, loss, 15.0)
    assert found.loss.isfinite().all()
    assert all(each.isfinite().all() for each in gradients(found.loss, sides))
    nothing = torch.zeros(1, 9, 4)
    assert [ranks.tolist() for ranks in contrast(nothing, nothing, loss, 15.0).ranks] == [[[9] * 9]] * 2


@pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
def test_a_vector_that_is_no_number_spoils_its_own_run_alone(loss: Loss) -> None:
    left, right = embeddings()
    left[1, 4] = np.nan
    found = contrast(left, right, loss, 15.0)
    assert found.loss.isfinite().tolist() == [True, False]
    assert found.ranks[0][1, 4] == 23
