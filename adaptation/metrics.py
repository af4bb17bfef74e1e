"""How well partners find each other: recalls and reciprocal ranks, from the ranks of the partners."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEFT_TO_RIGHT, RIGHT_TO_LEFT = "left-to-right", "right-to-left"


def retrieval_metrics(ranks: Sequence[Tensor], ks: Sequence[int]) -> dict[str, Tensor]:
    """From the ranks of the N partners in R runs, left to right and right to left, (R, N) each, a number (R,) for each
    metric, all in 0..1 but the median rank (1..N).

    `top k` is the paper's asymmetric recall aR@k: the share of pairs whose partner is among the k nearest in one
    direction or the other. `recall k <direction>` is the usual recall@k. The mean reciprocal rank (`MRR`) and the
    `median rank` are over the queries of both directions.
    """
    left_to_right, right_to_left = ranks
    both, better = torch.cat([left_to_right, right_to_left], dim=-1), torch.minimum(left_to_right, right_to_left)
    metrics = {f"top {k}": _share(better <= k) for k in ks}
    for direction, of_partners in ((LEFT_TO_RIGHT, left_to_right), (RIGHT_TO_LEFT, right_to_left)):
        metrics |= {f"recall {k} {direction}": _share(of_partners <= k) for k in ks}
    return metrics | {"MRR": both.reciprocal().mean(-1), "median rank": _median(both)}


def _share(found: Tensor) -> Tensor:
    return found.float().mean(-1)


def _median(ranks: Tensor) -> Tensor:
    """Of an even number the mean of the middle two. (`quantile` would do, but for 16 million numbers and no more.)"""
    ordered, middle = ranks.sort(dim=-1).values, ranks.shape[-1] // 2
    return (ordered[..., middle] + ordered[..., (ranks.shape[-1] - 1) // 2]) / 2
