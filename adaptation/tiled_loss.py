"""The contrastive loss in tiles: its gradients, derived by hand, and the partners' ranks. It serves this loss only.

It makes 100,000 pairs possible. `losses.contrastive` is the same loss by autograd, and the oracle of the tests.

With unit vectors a_i (left) and b_j (right), S = A B^T and logits L = t S, the loss of the paper is

    1/2 mean_i (log sum_j exp L_ij - L_ii)  +  1/2 mean_j (log sum_i exp L_ij - L_jj)

and its derivative by L_ij is (P_ij + Q_ij - 2 [i = j]) / 2N, where P is the softmax of each row and Q that of each
column. S is worked through in tiles of rows, which stay in the caches, twice: for the sums, then for ranks and
gradients. Between the two it is kept, or, where memory is short, computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptation.ranks import Contrast, Ranks
from common.vectors import to_unit

BOUNDED = 40.0  # up to this t, exp(t S - t) of cosines is no smaller than exp(-80), which a float32 can hold
TILE_ROWS, TILE = 512, 2**24  # rows and numbers of a tile: with fewer rows the products become slow
SHORTEST = 1e-12  # the least length that a gradient is divided by, as in torch's `normalize`


@dataclass(frozen=True)
class Tiling:
    """How S (R, N, N) of R runs is worked through: kept between the walks or computed twice; some `numbers` at a time,
    but no fewer than `rows` rows; `factors` is the type that the factors of products and the similarities are rounded
    to: with one of few bits the ranks are approximate, since many similarities become alike."""

    keep: bool = True
    factors: torch.dtype | None = None
    numbers: int = TILE
    rows: int = TILE_ROWS

    def height(self, runs: int, count: int) -> int:
        """Rows of a tile of S (runs, count, count)."""
        return min(count, max(self.rows, self.numbers // (runs * count)))


def tiled_contrast(left: Tensor, right: Tensor, logit_scale: float, tiling: Tiling, ranked: bool = True) -> Contrast:
    """Return the loss and the ranks of embeddings (R, N, E); pair i is `left[:, i]` and `right[:, i]`."""
    wanted = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    loss, *ranks = _Loss.apply(left, right, logit_scale, tiling, ranked, wanted)
    return Contrast(loss, tuple(ranks))


def to_tangent(gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """Turn the gradient by unit vectors (..., D), in place, into that by the vectors of these lengths (..., 1)."""
    along = torch.linalg.vecdot(gradient, units).unsqueeze(-1)  # a change of length changes no cosine
    return gradient.addcmul_(units, along, value=-1).div_(lengths.clamp(min=SHORTEST))


class _Loss(torch.autograd.Function):
    """The loss; its gradients are found in the forward pass, while S is at hand."""

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, logit_scale: float, tiling: Tiling, ranked: bool, wanted: bool
    ) -> tuple[Tensor, ...]:
        (left_units, left_lengths), (right_units, right_lengths) = to_unit(left), to_unit(right)
        units, lengths = (left_units, right_units), (left_lengths, right_lengths)
        walk = _Walk(units[0], units[1], logit_scale, tiling, ranked)
        loss = walk.losses()
        ranks, gradients = walk.ranks_and_gradients(wanted)
        for each in zip(gradients, units, lengths, strict=False):  # there are no gradients in an evaluation
            to_tangent(*each)
        ctx.save_for_backward(*gradients)
        ctx.scale = logit_scale / (2 * left.shape[-2])
        ctx.mark_non_differentiable(*ranks)
        return loss, *ranks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        left, right = (gradient * (ctx.scale * upstream[:, None, None]) for gradient in ctx.saved_tensors)
        return left, right, None, None, None, None


class _Walk:
    """The two walks over S (R, N, N)."""

    def __init__(self, left: Tensor, right: Tensor, logit_scale: float, tiling: Tiling, ranked: bool) -> None:
        self.left, self.right, self.logit_scale, self.tiling, self.ranked = left, right, logit_scale, tiling, ranked
        runs, self.count, _ = left.shape
        self.partners = left.new_empty(runs, self.count)  # S_ii
        self.rows, self.columns = torch.empty_like(self.partners), torch.empty_like(self.partners)  # log-sum-exps
        self.height = tiling.height(runs, self.count)
        self.scratch = left.new_empty(runs, self.height, self.count)
        self.kept: dict[int, Tensor] = {}

    def _tiles(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The rows of each tile, S there (R, n, N), and room for as much."""
        factors = self.tiling.factors
        right = _rounded(self.right, factors).mT
        for start in range(0, self.count, self.height):
            rows = slice(start, min(start + self.height, self.count))
            tile = self.kept.pop(start, None)
            if tile is None:
                tile = (_rounded(self.left[:, rows], factors) @ right).to(self.left.dtype)
                if factors is not None:
                    self._restore_partners(tile, rows)
                if self.tiling.keep:
                    self.kept[start] = tile
            yield rows, tile, self.scratch[:, : rows.stop - start]

    def _restore_partners(self, tile: Tensor, rows: slice) -> None:
        """Puts S_ii in full precision among rounded similarities, so that as many equals count for the partner as
        against it; no more than 1, the most that others can be, so that embeddings that are all alike find nobody."""
        partners = torch.linalg.vecdot(self.left[:, rows], self.right[:, rows])
        _diagonal(tile, rows).copy_(partners.clamp_(max=1))

    def losses(self) -> Tensor:
        """The first walk: partners and log-sum-exps; returns the loss (R,)."""
        if self.logit_scale <= BOUNDED:
            self._sum_shared()
        else:
            self._sum_apart()
        return (self.rows + self.columns).mean(-1) / 2 - self.logit_scale * self.partners.mean(-1)

    def _sum_shared(self) -> None:
        """Cosines are bounded: the same exponentials serve rows and columns."""
        columns = torch.zeros_like(self.columns)
        for rows, tile, scratch in self._tiles():
            self.partners[:, rows] = _diagonal(tile, rows)
            exponentials = self._exponentials(tile, scratch)
            self.rows[:, rows] = exponentials.sum(-1).log_().add_(self.logit_scale)
            columns += exponentials.sum(-2)
        self.columns = columns.log_().add_(self.logit_scale)

    def _sum_apart(self) -> None:
        """A large t: each row and each column is shifted by its own maximum."""
        self.columns.fill_(-torch.inf)
        for rows, tile, scratch in self._tiles():
            self.partners[:, rows] = _diagonal(tile, rows)
            logits = torch.mul(tile, self.logit_scale, out=scratch)
            self.rows[:, rows] = logits.logsumexp(-1)
            self.columns = torch.logaddexp(self.columns, logits.logsumexp(-2))

    def _exponentials(self, tile: Tensor, out: Tensor) -> Tensor:
        """exp(t S - t), in 0..1."""
        return torch.sub(tile, 1, out=out).mul_(self.logit_scale).exp_()

    def ranks_and_gradients(self, wanted: bool) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """The second walk: ranks (R, N) left to right and right to left, and the gradients (R, N, D) of both
        sides' units."""
        ranks = Ranks(self.left, self.right, self.partners, self.tiling.factors is None) if self.ranked else None
        gradients = [torch.zeros_like(side) for side in (self.left, self.right)] if wanted else []
        for rows, tile, scratch in self._tiles() if ranks or gradients else ():
            if ranks:
                ranks.add(tile, rows, scratch)
            if gradients:
                self._add_gradients(rows, self._derivatives(rows, tile, scratch), gradients)
        return ranks.settled() if ranks else (), gradients

    def _derivatives(self, rows: slice, tile: Tensor, scratch: Tensor) -> Tensor:
        """P + Q - 2 [i = j] of a tile, written over it."""
        t, row, column = self.logit_scale, self.rows[:, rows, None], self.columns[:, None]
        if t <= BOUNDED:
            exponentials = self._exponentials(tile, scratch)
            derivatives = torch.add((t - row).exp(), (t - column).exp(), out=tile).mul_(exponentials)
        else:
            of_columns = torch.mul(tile, t, out=scratch).sub_(column).exp_()
            derivatives = tile.mul_(t).sub_(row).exp_().add_(of_columns)
        _diagonal(derivatives, rows).sub_(2)
        return derivatives

    def _add_gradients(self, rows: slice, derivatives: Tensor, gradients: list[Tensor]) -> None:
        """What a tile adds to the gradients of both sides, t / 2N left out."""
        factors = self.tiling.factors
        left, right = _rounded(self.left[:, rows], factors), _rounded(self.right, factors)
        derivatives = _rounded(derivatives, factors)
        gradients[0][:, rows] = derivatives @ right
        gradients[1] += derivatives.mT @ left


def _diagonal(tile: Tensor, rows: slice) -> Tensor:
    """Where the partners are in a tile (R, n, N): a view (R, n)."""
    return tile.diagonal(rows.start, dim1=-2, dim2=-1)


def _rounded(factor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return factor if dtype is None else factor.to(dtype)
