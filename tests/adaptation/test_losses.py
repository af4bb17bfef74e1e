"""The contrastive loss beside plain loops in float64 and beside torch's own cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adaptation.losses import contrastive_loss, cosine_similarities


def random_matrix(count: int, seed: int) -> Tensor:
    return 2 * torch.rand(count, count, generator=torch.Generator().manual_seed(seed)) - 1


def surprise(logits: list[float], target: int) -> float:
    """Minus the log of the softmax at `target`."""
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[target]


def loss_by_loops(similarities: NDArray[np.float64], temperature: float) -> float:
    count = len(similarities)
    rows = [surprise([temperature * similarities[i][j] for j in range(count)], i) for i in range(count)]
    columns = [surprise([temperature * similarities[i][j] for i in range(count)], j) for j in range(count)]
    return 0.5 * sum(rows) / count + 0.5 * sum(columns) / count


@pytest.mark.parametrize(("count", "temperature"), [(1, 1.0), (2, 15.0), (7, 1.0), (30, 0.5), (30, 15.0), (101, 4.5)])
def test_loss_is_that_of_plain_loops(count: int, temperature: float) -> None:
    similarities = random_matrix(count, seed=count)
    expected = loss_by_loops(similarities.numpy().astype(np.float64), temperature)
    assert contrastive_loss(similarities, temperature).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_loss_is_that_of_torchs_cross_entropy(temperature: float) -> None:
    similarities = random_matrix(50, seed=3).double()
    logits, targets = temperature * similarities, torch.arange(50)
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(contrastive_loss(similarities, temperature), expected)


def test_loss_of_two_perfect_pairs_by_hand() -> None:
    # each row is softmax(1, 0): its loss is ln(e + 1) - 1
    assert contrastive_loss(torch.eye(2), 1.0).item() == pytest.approx(math.log(math.e + 1) - 1)


def test_both_directions_count_by_half() -> None:
    similarities = torch.tensor([[0.0, 5.0, 5.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rows = (math.log(1 + 2 * math.exp(5)) + 2 * math.log(3)) / 3
    columns = (math.log(3) + 2 * math.log(math.exp(5) + 2)) / 3
    assert abs(rows - columns) > 1
    assert contrastive_loss(similarities, 1.0).item() == pytest.approx((rows + columns) / 2)
    assert contrastive_loss(similarities.T, 1.0).item() == pytest.approx((rows + columns) / 2)


def test_temperature_multiplies_the_similarities() -> None:
    similarities = random_matrix(9, seed=1)
    torch.testing.assert_close(contrastive_loss(similarities, 15.0), contrastive_loss(15.0 * similarities, 1.0))
    assert contrastive_loss(torch.eye(9), 15.0) < contrastive_loss(torch.eye(9), 1.0)


def test_a_large_temperature_overflows_nothing() -> None:
    # the worst logit is 10,000: its exponential is no float, its loss is
    similarities = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    assert contrastive_loss(similarities, 5000.0).item() == pytest.approx(10_000)


def test_loss_does_not_depend_on_the_order_of_the_pairs() -> None:
    similarities = random_matrix(20, seed=5).double()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        contrastive_loss(similarities[order][:, order], 3.0), contrastive_loss(similarities, 3.0)
    )


def test_gradients_are_those_of_finite_differences() -> None:
    left, right = (random_matrix(5, seed).double()[:, :3].requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(cosine_similarities(a, b), 15.0), (left, right))


def test_similarities_are_the_cosines_of_every_left_with_every_right() -> None:
    left, right = (random_matrix(6, seed)[:, :4] for seed in (1, 2))
    found = cosine_similarities(left, right)
    for i, one in enumerate(left.double().tolist()):
        for j, other in enumerate(right.double().tolist()):
            product = sum(a * b for a, b in zip(one, other, strict=True))
            assert found[i, j].item() == pytest.approx(product / (math.hypot(*one) * math.hypot(*other)), abs=1e-6)


def test_similarities_do_not_depend_on_the_length_of_the_vectors() -> None:
    left, right = (random_matrix(6, seed) for seed in (1, 2))
    torch.testing.assert_close(cosine_similarities(1000 * left, 0.001 * right), cosine_similarities(left, right))


def test_a_vector_of_zeros_is_similar_to_nothing() -> None:
    assert cosine_similarities(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [[0, 0], [0, 0]]
