"""The leading eigenpairs of a covariance: exact, and only those asked for where that is faster.

`python -m benchmarks --stages pca` compares it with the fastest exact way of a library, `scipy.linalg.eigh` of those
eigenpairs alone. For 256 of D = 5,440 in float64 on 2 cores it is 1.14 times as fast where the i-th variance is 1 / i
(the benchmark's vectors), and 1.28 times where it is 1 / i^1.6 (medians of 7). Features lie between: those of
EfficientNet-lite0 fall off as 1 / i^1.4. `torch.linalg.eigh` takes three times as long, `torch.lobpcg` ten times.

References: Zhou, Saad, Tiago and Chelikowsky, "Self-consistent-field calculations using Chebyshev-filtered subspace
iteration", 2006; Parlett, "The Symmetric Eigenvalue Problem", 1998, for the bound of the error by the residual.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXTRA = 128  # vectors beyond those asked for: the further away the first one left out, the faster all others settle
WORTH = 6  # a matrix so many times as wide as the subspace is left to the iteration
MOST_PRODUCTS = 60  # of the matrix and the subspace; by then the full decomposition would have been done
ANGLE = 1e-8  # of the subspace found to the true one, where rounding does not make it larger
RANGE = 1e11  # to which a filter may drive the first beside the last direction wanted; 1e16 would lose the latter
SMALLEST = 1e-14  # of the largest eigenvalue: what is below is rounding


def leading_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues (count,), falling, and their vectors (D, count), of a symmetric positive
    semidefinite matrix (D, D) in float64."""
    pairs = None
    if WORTH * (count + EXTRA) <= len(matrix):
        pairs = filtered_subspace(matrix, count)
    return pairs or full_decomposition(matrix, count)


def full_decomposition(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `leading_eigenpairs`, by all eigenpairs."""
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def filtered_subspace(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """As `leading_eigenpairs`, by products with a subspace alone; None when the spectrum is too flat for it to settle.

    Each round turns the basis to its best approximations of eigenvectors (Rayleigh and Ritz), then filters it with a
    polynomial of the matrix that grows fastest above the eigenvalues that the subspace leaves out.
    """
    basis, products = _start(matrix, count + EXTRA), 1
    while True:
        image = matrix @ basis
        products += 1
        values, turn = torch.linalg.eigh(basis.T @ image)
        values, turn = values.flip(0), turn.flip(1)
        basis, image = basis @ turn, image @ turn
        if _settled(basis, image, values, count):
            return values[:count], basis[:, :count]
        degree = _degree(values, count)
        products += degree - 1
        if products > MOST_PRODUCTS:
            return None
        basis = torch.linalg.qr(_filtered(matrix, basis, image, float(values[-1]), degree))[0]


def _start(matrix: Tensor, width: int) -> Tensor:
    """An orthonormal basis (D, width): a product with random numbers, the same ones every time."""
    numbers = torch.randn(len(matrix), width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start: Tensor = torch.linalg.qr(matrix @ numbers.to(matrix.device))[0]
    return start


def _settled(basis: Tensor, image: Tensor, values: Tensor, count: int) -> bool:
    """Whether the first `count` directions span the true subspace: its angle is at most residual / gap (Parlett,
    section 11.7). Where there is no gap, any of the directions is right that has no residual."""
    residual = float(torch.linalg.matrix_norm(image[:, :count] - basis[:, :count] * values[:count]))
    gap = float(values[count - 1] - values[count])
    return residual <= max(ANGLE * gap, SMALLEST * float(values[0]))


def _degree(values: Tensor, count: int) -> int:
    """The degree of the next filter: as large as rounding admits."""
    first, last, edge = (float(values[index]) for index in (0, count - 1, -1))
    if edge <= SMALLEST * first:  # nothing is left outside: any product leads there
        return 1
    gained, amplified = (_growth(value / edge) for value in (last, first))
    return max(1, min(10, int(math.log(RANGE) / max(math.log(amplified / gained), 1e-9))))


def _growth(ratio: float) -> float:
    """By what a Chebyshev polynomial on 0..1 grows with each degree at `ratio` >= 1."""
    x = max(1.0, 2 * ratio - 1)
    return x + math.sqrt(x * x - 1)


def _filtered(matrix: Tensor, basis: Tensor, image: Tensor, edge: float, degree: int) -> Tensor:
    """The basis after a Chebyshev polynomial of the matrix that stays within -1..1 on eigenvalues of 0..edge; the
    columns are not scaled. `image` is matrix @ basis."""
    if degree == 1:
        return image
    half = edge / 2
    before, now = basis, (image - half * basis) / half
    for _ in range(degree - 1):
        after = torch.addmm(before, matrix, now, beta=-1, alpha=2 / half).sub_(now, alpha=2)
        before, now = now, after
    return now
