"""How well partners find each other: numbers made from the ranks of the partners.

To add a metric, write a function of the ranks and add a line to METRICS: logs, TensorBoard and summary take it from
there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import InputError


@dataclass(frozen=True)
class Metric:
    """How a metric is made: `of(left_to_right, right_to_left)`, or `of(left_to_right, right_to_left, k)` where its name
    has {k}. The ranks (R, N) of R runs are floats from 1 to N, and a number (R,) is returned."""

    of: Callable[..., Tensor]
    lower_is_better: bool = False


def asymmetric_recall(left_to_right: Tensor, right_to_left: Tensor, k: int) -> Tensor:
    """The paper's aR@k: the share of pairs whose partner is among the k nearest in one direction or the other."""
    return _share(torch.minimum(left_to_right, right_to_left) <= k)


def recall_left_to_right(left_to_right: Tensor, right_to_left: Tensor, k: int) -> Tensor:
    """The usual recall@k of right partners."""
    return _share(left_to_right <= k)


def recall_right_to_left(left_to_right: Tensor, right_to_left: Tensor, k: int) -> Tensor:
    """The usual recall@k of left partners."""
    return _share(right_to_left <= k)


def mean_reciprocal_rank(left_to_right: Tensor, right_to_left: Tensor) -> Tensor:
    """Over the queries of both directions."""
    return torch.cat([left_to_right, right_to_left], dim=-1).reciprocal().mean(-1)


def median_rank(left_to_right: Tensor, right_to_left: Tensor) -> Tensor:
    """Over the queries of both directions; the mean of the middle two. (`quantile` takes no more than 16 million.)"""
    ordered = torch.cat([left_to_right, right_to_left], dim=-1).sort(dim=-1).values
    middle = ordered.shape[-1] // 2
    return (ordered[..., middle] + ordered[..., middle - 1]) / 2


def _share(hits: Tensor) -> Tensor:
    return hits.float().mean(-1)


METRICS = {
    "top {k}": Metric(asymmetric_recall),
    "recall {k} left-to-right": Metric(recall_left_to_right),
    "recall {k} right-to-left": Metric(recall_right_to_left),
    "MRR": Metric(mean_reciprocal_rank),
    "median rank": Metric(median_rank, lower_is_better=True),
}


def retrieval_metrics(ranks: Sequence[Tensor], ks: Sequence[int]) -> dict[str, Tensor]:
    """Return all metrics (R,) by name, from the ranks (R, N) of the N partners in R runs, left to right and right to
    left; those with {k} in their name for each of `ks`. InputError for a metric of another shape."""
    values: dict[str, Tensor] = {}
    for name, metric in METRICS.items():
        if "{k}" in name:
            values |= {name.format(k=k): metric.of(*ranks, k) for k in ks}
        else:
            values[name] = metric.of(*ranks)
    for name, value in values.items():
        if value.shape != (shape := ranks[0].shape[:-1]):
            raise InputError(f"metric '{name}': gives {tuple(value.shape)}, not a number a run, {tuple(shape)}")
    return values


def lower_is_better(name: str) -> bool:
    """Whether a metric of this name, such as `top 3`, or the `Loss` is better when it is lower."""
    metric = METRICS.get(name) or METRICS.get(re.sub(r"\b\d+\b", "{k}", name, count=1))
    return name == "Loss" or (metric is not None and metric.lower_is_better)
