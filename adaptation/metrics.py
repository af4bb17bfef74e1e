"""How well partners find each other: ranks, recalls, reciprocal ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEFT_TO_RIGHT, RIGHT_TO_LEFT = "left-to-right", "right-to-left"


def partner_ranks(similarities: Tensor) -> tuple[Tensor, Tensor]:
    """From S (N, N) the rank (1..N) of each pair's partner, left to right and right to left: two (N,) tensors.

    The rank is one more than the number of other candidates that are at least as similar. Ties thus count against the
    partner (a head that sends everything to one point gets rank N, not rank 1), and so do NaNs.
    """
    partners, count = similarities.diagonal(), len(similarities)
    left_to_right = count - (similarities < partners[:, None]).sum(1)
    right_to_left = count - (similarities < partners[None, :]).sum(0)
    return left_to_right, right_to_left


def retrieval_metrics(similarities: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """Scalars from S (N, N), all in 0..1 but the median rank (1..N).

    `top k` is the paper's asymmetric recall aR@k: the share of pairs whose partner is among the k nearest in one
    direction or the other. `recall k <direction>` is the usual recall@k. The mean reciprocal rank (`MRR`) and the
    `median rank` are over the queries of both directions.
    """
    directions = dict(zip((LEFT_TO_RIGHT, RIGHT_TO_LEFT), partner_ranks(similarities), strict=True))
    both = torch.cat(list(directions.values())).float()
    better = torch.minimum(*directions.values())
    metrics = {f"top {k}": (better <= k).float().mean() for k in ks}
    for direction, ranks in directions.items():
        metrics |= {f"recall {k} {direction}": (ranks <= k).float().mean() for k in ks}
    return metrics | {"MRR": both.reciprocal().mean(), "median rank": both.quantile(0.5)}
