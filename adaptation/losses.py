"""The losses of training. A loss is a function of the similarities of all pairs, and autograd differentiates it.

A loss gets the cosines S (N, N) of each left with each right embedding, in -1..1, partners on the diagonal, and the
logit scale t > 0 that multiplies them (`-t`). It returns one number (). To add one, write a function and add a line to
LOSSES; see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from adaptation.extensions import find, tried
from adaptation.ranks import Contrast, Ranks
from adaptation.tiled_loss import Tiling, tiled_contrast, to_tangent
from common.errors import InputError
from common.vectors import to_unit

Loss = Callable[[Tensor, float], Tensor]
SIGMOID_BIAS = -10.0  # of SigLIP at its start


def contrastive(similarities: Tensor, logit_scale: float) -> Tensor:
    """The paper's loss, which is CLIP's: cross-entropy of each row and each column (Radford et al., arXiv:2103.00020).

    Training on this loss uses `tiled_loss`, which computes the same in tiles with gradients derived by hand.
    """
    logits = logit_scale * similarities
    partners = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, partners) + F.cross_entropy(logits.mT, partners)) / 2


def sigmoid(similarities: Tensor, logit_scale: float) -> Tensor:
    """SigLIP's loss: is this a pair, for each of the N x N combinations (Zhai et al., arXiv:2303.15343).

    SigLIP learns the logit scale and a bias. Here the logit scale is fixed, and so is the bias: at its first value.
    """
    logits = logit_scale * similarities + SIGMOID_BIAS
    signs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -F.logsigmoid(signs * logits).sum() / len(logits)


LOSSES: dict[str, Loss] = {
    "contrastive": contrastive,
    "sigmoid": sigmoid,
}


@cache
def find_loss(name: str, code: tuple[tuple[str, str], ...] = ()) -> Loss:
    """Return the loss `name`, or that of an address `FILE.py:FUNCTION`; InputError for an unknown one, and for one that
    gives no number that autograd can differentiate. `code` tells versions of a file apart."""
    loss = find(name, LOSSES, "loss")
    similarities = torch.eye(4).requires_grad_()
    number = tried(name, lambda: loss(similarities, 1.0))
    if not isinstance(number, Tensor) or number.ndim or not number.requires_grad:
        given = f"a tensor {tuple(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
        raise InputError(f"{name}: gives {given}; one number () that autograd can differentiate is expected")
    return loss


def contrast(
    left: Tensor, right: Tensor, loss: Loss, logit_scale: float, tiling: Tiling | None = None, ranked: bool = True
) -> Contrast:
    """Return the loss and the ranks of embeddings (R, N, E) of R runs; pair i is `left[:, i]` and `right[:, i]`.

    Only the contrastive loss works in tiles. The others hold several matrices (N, N) for each run.
    """
    tiling = tiling or Tiling()
    if loss is contrastive:
        return tiled_contrast(left, right, logit_scale, tiling, ranked)
    runs = [_of_run(*sides, loss, logit_scale, tiling, ranked) for sides in zip(left, right, strict=True)]
    ranks = zip(*(run.ranks for run in runs), strict=True)  # both directions, or none
    return Contrast(torch.stack([run.loss for run in runs]), tuple(torch.cat(of_runs) for of_runs in ranks))


def _of_run(left: Tensor, right: Tensor, loss: Loss, logit_scale: float, tiling: Tiling, ranked: bool) -> Contrast:
    """The loss () of one run's embeddings (N, E), and its ranks (1, N)."""
    left, right = _Unit.apply(left), _Unit.apply(right)
    similarities = _product(left, right, tiling.factors)
    ranks: tuple[Tensor, ...] = ()
    if ranked:
        ranks = _ranks(left.detach()[None], right.detach()[None], similarities.detach()[None], tiling.factors is None)
    return Contrast(loss(similarities, logit_scale), ranks)


def _ranks(left: Tensor, right: Tensor, similarities: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """The ranks (1, N) from the whole of S (1, N, N) at once."""
    counted = Ranks(left, right, similarities.diagonal(dim1=1, dim2=2), exact)
    counted.add(similarities, slice(None), torch.empty_like(similarities))
    return counted.settled()


def cosine_similarities(left: Tensor, right: Tensor) -> Tensor:
    """S (..., N, N): cosine of each left with each right embedding (..., N, D), in -1..1; partners on the diagonal."""
    return to_unit(left)[0] @ to_unit(right)[0].mT


def _product(left: Tensor, right: Tensor, factors: torch.dtype | None) -> Tensor:
    """S (N, N) of unit vectors. Of rounded factors too the partners have full precision, and at most 1, so that
    embeddings that are all alike find nobody."""
    if factors is None:
        return left @ right.mT
    similarities = (left.to(factors) @ right.to(factors).mT).to(left.dtype)
    return similarities.diagonal_scatter(torch.linalg.vecdot(left, right).clamp(max=1))


class _Unit(torch.autograd.Function):
    """Brings vectors to unit length, of any length that a float32 holds; the gradient of zero vectors is finite."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        units, lengths = to_unit(vectors)
        ctx.save_for_backward(units, lengths)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return to_tangent(gradient.clone(), *ctx.saved_tensors)
