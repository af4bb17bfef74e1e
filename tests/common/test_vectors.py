"""Unit vectors beside numpy's arithmetic in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.vectors import to_unit


def random_vectors() -> torch.Tensor:
    return torch.randn(5, 7, 33, generator=torch.Generator().manual_seed(0))


def test_ordinary_vectors_are_those_of_torch_to_the_bit() -> None:
    vectors = random_vectors()
    assert torch.equal(to_unit(vectors)[0], F.normalize(vectors, dim=-1))


@pytest.mark.parametrize("factor", [1e-37, 1e-25, 1e-15, 1.0, 1e18, 1e25, 1e37])
def test_vectors_of_any_magnitude_are_brought_to_unit_length(factor: float) -> None:
    vectors = random_vectors() * factor
    exact = vectors.numpy().astype(np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    units, actual = to_unit(vectors)
    np.testing.assert_allclose(units.numpy(), exact / lengths, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(actual.numpy(), lengths, rtol=1e-5)


def test_zero_stays_zero_and_what_is_no_number_none() -> None:
    vectors = torch.tensor([[0.0, -0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
    units, lengths = to_unit(vectors)
    assert units[0].tolist() == [0, 0]
    assert lengths[0].item() == 0
    assert not units[1:].isfinite().all(dim=-1).any()
