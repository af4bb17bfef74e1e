"""The leading eigenpairs of a covariance: exact, and only those asked for where that is faster.

Most products are in float32, where they take half the time; the residuals that they reduce, and so the result, are of
float64. `python -m benchmarks --stages pca` compares it with the fastest exact way of a library, `scipy.linalg.eigh` of
those eigenpairs alone.

References: Golub and Underwood, "The block Lanczos method for computing eigenvalues", 1977, for the start; Sleijpen and
van der Vorst, "A Jacobi-Davidson iteration method for linear eigenvalue problems", 1996, for the corrections; Golub and
Varga, "Chebyshev semi-iterative methods", 1961, for how they are solved; Parlett, "The Symmetric Eigenvalue Problem",
1998, for the bound of the error by the residual.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXTRA = 128  # vectors beyond those asked for: the further away the first one left out, the faster all others settle
BLOCKS = 12  # of the Krylov space that the iteration starts from, each a third of the subspace
WORTH = 6  # a matrix so many times as wide as the subspace is left to the iteration
MOST_PRODUCTS = 60  # of the matrix and the subspace; by then the full decomposition would have been done
MOST_STEPS = 12  # of one correction: float32 gives no more digits at a time
ANGLE = 1e-8  # of the subspace found to the true one, where rounding does not make it larger
FAR = 1e3  # a correction of this length corrects nothing
SMALLEST = 1e-14  # of the largest eigenvalue: what is below is rounding


def leading_eigenpairs(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues (count,), falling, and their vectors (D, count), of a symmetric positive
    semidefinite matrix (D, D) in float64."""
    pairs = None
    if WORTH * (count + EXTRA) <= len(matrix):
        pairs = corrected_subspace(matrix, count)
    return pairs or full_decomposition(matrix, count)


def full_decomposition(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `leading_eigenpairs`, by all eigenpairs."""
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    return values.flip(0)[:count], vectors.flip(1)[:, :count]


def corrected_subspace(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """As `leading_eigenpairs`, by products with a subspace alone; None when the spectrum is too flat for it to settle.

    Beside a giant, float32 loses the small eigenvalues; then all products are in float64.
    """
    return _corrected(matrix, count, torch.float32) or _corrected(matrix, count, torch.float64)


def _corrected(matrix: Tensor, count: int, kind: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Each round turns the basis to its best approximations of eigenvectors (Rayleigh and Ritz), and adds to the first
    `count` what they lack, found by products of this `kind`. None where that does not bring them nearer any more."""
    scale = 2.0 ** math.frexp(float(matrix.trace()))[1]  # a power of two: no digit changes
    factor = torch.div(matrix, scale, out=matrix.new_empty(matrix.shape, dtype=kind))
    basis = torch.linalg.qr(_krylov(factor, count + EXTRA).double())[0]
    image, products, before = matrix @ basis, 1, math.inf
    while True:
        values, basis, image = _turned(basis, image)
        residuals = image - basis * values
        angle = _angle(residuals, values, count)
        if angle <= ANGLE:
            return values[:count], basis[:, :count]
        centre, half = _outside(values, kind)
        steps = _steps(angle, float(values[count - 1] - centre) / half)
        products += steps
        if angle > before / 2 or products > MOST_PRODUCTS:
            return None
        before = angle
        equation = residuals[:, :count] / half, (values[:count] - centre) / half
        lacking = _lacking(factor, scale / half, centre / half, basis, *equation, steps)
        if not float(lacking.norm()) < FAR:  # nor where it is no number
            return None
        basis[:, :count] += lacking
        image[:, :count] = matrix @ basis[:, :count]


def _krylov(matrix: Tensor, width: int) -> Tensor:
    """The best approximations (D, width) of the leading eigenvectors in a block Krylov space of random vectors, the
    same ones every time."""
    step = -(-width // 3)
    start = torch.randn(len(matrix), step, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    space = matrix.new_empty(len(matrix), step * BLOCKS)
    inner = matrix.new_zeros(space.shape[1], space.shape[1])
    block = torch.linalg.qr(start.to(matrix.device))[0]
    for end in range(step, space.shape[1] + 1, step):
        space[:, end - step : end] = block
        known, image = space[:, :end], matrix @ block
        inner[:end, end - step : end] = products = known.T @ image
        image.addmm_(known, products, alpha=-1)
        image.addmm_(known, known.T @ image, alpha=-1)  # once is not enough for orthogonality
        block = torch.linalg.qr(image)[0]
    leading: Tensor = space @ torch.linalg.eigh(inner, UPLO="U")[1].flip(1)[:, :width]
    return leading


def _turned(basis: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best approximations of eigenvalues, falling, and of eigenvectors in the span of a basis that is nearly
    orthonormal, and the image of the latter by the matrix."""
    root = torch.linalg.cholesky(basis.T @ basis)
    basis, image = (torch.linalg.solve_triangular(root.T, side, upper=True, left=False) for side in (basis, image))
    values, turn = torch.linalg.eigh(basis.T @ image)
    turn = turn.flip(1)
    return values.flip(0), basis @ turn, image @ turn


def _angle(residuals: Tensor, values: Tensor, count: int) -> float:
    """A bound of the angle of the first `count` directions to the true subspace: residual / gap (Parlett, section
    11.7).

    The gap may be the one to a later eigenvalue, if the vectors between are good too: they share the error by the
    product of both residuals. Where there is no gap, any of the directions is right that has no residual.
    """
    lengths = residuals.norm(dim=0)
    first, between = lengths[:count].norm(), lengths[count - 1 : -1].square()
    between[0] = 0
    gaps = (values[count - 1] - values[count:]).clamp(min=torch.finfo(values.dtype).tiny)
    angle = (first / gaps * (1 + between.cumsum(0).sqrt() / gaps[0])).min()
    return 0.0 if first <= SMALLEST * values[0] else float(angle)


def _outside(values: Tensor, kind: torch.dtype) -> tuple[float, float]:
    """Centre and half of the range of the eigenvalues outside of a subspace, which rounding to a type makes wider."""
    half = float(values[-1].clamp(min=0)) / 2
    return half, half + torch.finfo(kind).eps * float(values[0])


def _steps(angle: float, x: float) -> int:
    """The steps of a correction that bring the angle to the one wanted, as far as one correction can; `x` is the last
    eigenvalue wanted, where those outside of the subspace are in -1..1."""
    growth = math.acosh(max(1.0, x))  # of a Chebyshev polynomial with each degree
    return 1 + min(MOST_STEPS, math.ceil(math.log(max(4.0, 2 * angle / ANGLE)) / max(growth, 1e-9)))


def _lacking(
    factor: Tensor, scale: float, centre: float, basis: Tensor, residuals: Tensor, values: Tensor, steps: int
) -> Tensor:
    """What the first vectors of a basis lack, as far as it is outside of the basis: a W that solves
    (value - M) W = residual, where M = scale * factor - centre has eigenvalues in -1..1 there, by Chebyshev's
    semi-iteration. Since W is small, it takes few digits: those of `factor`."""
    known, rest, x = (each.to(factor.dtype) for each in (basis, residuals, values.clamp(min=1)))
    ratio, before, now = x, torch.zeros_like(rest), rest / x
    for _ in range(steps - 1):
        image = factor @ now
        image.addmm_(known, known.T @ image, alpha=-1)
        following = 2 * x - 1 / ratio
        after = image.mul_(scale).sub_(now, alpha=centre).add_(rest).mul_(2 / following)
        before, now = now, after.sub_(before.div_(following * ratio))
        ratio = following
    return now.to(basis.dtype)
