"""Leading eigenpairs beside numpy's full decomposition, for spectra that are kind and for those that are not."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featuresExtractor import eigen
from featuresExtractor.eigen import corrected_subspace, full_decomposition, leading_eigenpairs

Matrix = NDArray[np.float64]
WIDTH, COUNT = 900, 20


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subspace that so narrow a matrix is worth."""
    monkeypatch.setattr(eigen, "EXTRA", 40)


@cache
def basis(width: int) -> Matrix:
    """Orthonormal columns in every direction."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]


def matrix_of(values: NDArray[Any]) -> Tensor:
    """A symmetric matrix with these eigenvalues."""
    vectors = basis(len(values))
    made = (vectors * values) @ vectors.T
    return torch.from_numpy((made + made.T) / 2)


def reference(matrix: Tensor, count: int) -> tuple[Matrix, Matrix]:
    values, vectors = np.linalg.eigh(matrix.numpy())
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def sine(one: Matrix, other: Matrix) -> float:
    """Of the largest angle between two subspaces with orthonormal bases."""
    return float(np.linalg.norm(other - one @ (one.T @ other), 2))


def check(found: tuple[Tensor, Tensor] | None, matrix: Tensor, count: int, at_most: float = 1e-7) -> None:
    """Values, orthonormal vectors that belong to them, and the subspace they span (`at_most` of another one)."""
    assert found is not None
    values, vectors = (part.numpy() for part in found)
    expected, directions = reference(matrix, count)
    top = max(float(expected[0]), 1e-300)
    assert (values.shape, vectors.shape) == ((count,), (len(matrix), count))
    assert np.abs(values - expected).max() <= 1e-9 * top
    assert (np.diff(values) <= 1e-12 * top).all()
    assert np.abs(vectors.T @ vectors - np.eye(count)).max() < 1e-10
    assert np.abs(matrix.numpy() @ vectors - vectors * values).max() <= 1e-7 * top
    assert sine(vectors, directions) < at_most


def falling(width: int = WIDTH) -> dict[str, Matrix]:
    """Eigenvalues that fall off, each in another way, with a gap behind the first `COUNT`."""
    numbers = np.arange(width)
    found = {
        "geometric": 0.95**numbers,
        "power law": 1 / (1 + numbers) ** 1.0,
        "slow power law": 1 / (1 + numbers) ** 0.5,
        "dynamic range": np.geomspace(1e8, 1e-8, width),
        "one giant": np.where(numbers == 0, 1e8, 100 * 0.9**numbers),
        "two clusters": np.where(numbers < COUNT, 5.0, 1.0),
        "cluster within": np.where(numbers < 12, 7.0, 3 * 0.9**numbers),
    }
    return {name: np.sort(values)[::-1].copy() for name, values in found.items()}


@pytest.mark.parametrize("name", falling())
def test_falling_spectra_are_found_by_the_iteration(name: str) -> None:
    matrix = matrix_of(falling()[name])
    check(corrected_subspace(matrix, COUNT), matrix, COUNT)


@pytest.mark.parametrize("giant", [1e2, 1e4, 1e6, 1e8])
def test_beside_a_giant_the_others_are_found_as_far_as_rounding_to_it_lets_them(giant: float) -> None:
    """The bound that is promised: an angle of 1e-8, or a residual of 1e-13 of the largest eigenvalue."""
    values = np.where(np.arange(WIDTH) == 0, giant, 0.9 ** np.arange(WIDTH))
    matrix, gap = matrix_of(values), values[COUNT - 1] - values[COUNT]
    check(corrected_subspace(matrix, COUNT), matrix, COUNT, 2 * max(1e-8, 1e-13 * giant / gap))


@pytest.mark.parametrize(("width", "count"), [(900, 8), (900, 30), (1201, 30)])
def test_every_number_of_pairs_is_found(width: int, count: int) -> None:
    matrix = matrix_of(0.97 ** np.arange(width))
    check(corrected_subspace(matrix, count), matrix, count)


def noise(rows: int) -> Tensor:
    """The covariance of white noise: eigenvalues as close as they come by chance."""
    data = np.random.default_rng(1).normal(size=(rows, WIDTH))
    return torch.from_numpy(data.T @ data / rows)


@pytest.mark.parametrize("rows", [2000, 10_000])
def test_flat_spectrum_is_left_to_the_full_decomposition_or_right(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = noise(rows)
    found = corrected_subspace(matrix, COUNT)
    if found is not None:
        check(found, matrix, COUNT, 1e-6)
    check(leading_eigenpairs(matrix, COUNT), matrix, COUNT, 1e-6)
    monkeypatch.setattr(eigen, "MOST_PRODUCTS", 5)
    assert corrected_subspace(matrix, COUNT) is None
    check(leading_eigenpairs(matrix, COUNT), matrix, COUNT, 1e-6)


@pytest.mark.parametrize("rank", [0, 1, 5, COUNT - 1, COUNT, COUNT + 1, COUNT + 39, COUNT + 40, COUNT + 60])
def test_rank_may_be_below_what_is_asked_for(rank: int) -> None:
    """Beyond the rank every direction is as good; up to it they are the true ones."""
    matrix = matrix_of(np.where(np.arange(WIDTH) < rank, 0.9 ** np.arange(WIDTH), 0.0))
    matrix = matrix if rank else torch.zeros_like(matrix)
    found = leading_eigenpairs(matrix, COUNT)
    check(found, matrix, COUNT, at_most=2)
    known = min(rank, COUNT)
    assert sine(found[1].numpy()[:, :known], reference(matrix, known)[1]) < 1e-7 if known else True
    assert found[0][known:].abs().max() <= 1e-13 if known < COUNT else True


@pytest.mark.parametrize(("first", "last"), [(15, 25), (19, 21), (0, 40), (10, 200)])
def test_multiple_eigenvalues_across_the_boundary_give_some_of_their_directions(first: int, last: int) -> None:
    """Which of them nobody can say; but none of another eigenvalue, and all in front of them."""
    values = 0.97 ** np.arange(WIDTH)
    values[first:last] = values[first]
    matrix = matrix_of(values)
    found = leading_eigenpairs(matrix, COUNT)
    check(found, matrix, COUNT, at_most=2)
    vectors = found[1].numpy()
    assert sine(reference(matrix, last)[1], vectors) < 1e-7
    assert sine(vectors, reference(matrix, first)[1]) < 1e-7 if first else True


def test_same_matrix_gives_the_same_bits_whatever_was_drawn_before() -> None:
    matrix = matrix_of(0.95 ** np.arange(WIDTH))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(leading_eigenpairs(matrix, COUNT))
    for one, other in zip(*found, strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


def test_the_matrix_stays_as_it_was() -> None:
    matrix = matrix_of(0.95 ** np.arange(WIDTH))
    before = matrix.clone()
    leading_eigenpairs(matrix, COUNT)
    assert torch.equal(matrix, before)


def forbid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError(f"{name} is called")

    monkeypatch.setattr(eigen, name, refuse)


def test_iteration_alone_is_used_where_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid("full_decomposition", monkeypatch)
    matrix = matrix_of(0.95 ** np.arange(WIDTH))
    check(leading_eigenpairs(matrix, COUNT), matrix, COUNT)
    check(leading_eigenpairs(matrix, WIDTH // 6 - 40), matrix, WIDTH // 6 - 40)


def test_it_is_not_tried_where_it_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid("corrected_subspace", monkeypatch)
    matrix = matrix_of(0.95 ** np.arange(WIDTH))
    check(leading_eigenpairs(matrix, WIDTH // 6 - 39), matrix, WIDTH // 6 - 39)
    check(leading_eigenpairs(matrix[:30, :30], 30), matrix[:30, :30], 30)


@pytest.mark.parametrize(("name", "most"), [("geometric", 13), ("power law", 18), ("one giant", 6)])
def test_filter_takes_few_products(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some more than were counted; another polynomial would settle too, and late."""
    matrix = matrix_of(falling()[name])
    monkeypatch.setattr(eigen, "MOST_PRODUCTS", most)
    check(corrected_subspace(matrix, COUNT), matrix, COUNT)


def test_full_decomposition_is_numpys() -> None:
    matrix = matrix_of(np.geomspace(1, 1e-3, 50))
    check(full_decomposition(matrix, 50), matrix, 50)
    check(full_decomposition(matrix, 3), matrix, 3)
