"""The pairs of several runs side by side, and the batches that each run draws of its own.

V views, R runs, N pairs, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptation.data.pairs import Pairs
from common.machine.device import uploaded


@dataclass(frozen=True)
class Stack:
    """The pairs of R runs: `left` and `right` are (V, R, N, D)."""

    left: Tensor
    right: Tensor

    def __len__(self) -> int:
        return self.left.shape[2]


def stack(runs: Sequence[Pairs]) -> Stack:
    """Return the pairs of R runs, of which each has as many, as one; those of a single run are not copied."""
    if len(runs) == 1:
        return Stack(runs[0].left[:, None], runs[0].right[:, None])
    return Stack(torch.stack([run.left for run in runs], dim=1), torch.stack([run.right for run in runs], dim=1))


def batches(train: Stack, size: int | None, orders: Sequence[np.random.Generator]) -> Iterator[Stack]:
    """Yield all pairs, or as few batches as hold at most `size` pairs each, of equal size but for one, in a new order
    that the generator of each run draws."""
    if size is None or size >= len(train):
        yield train
        return
    drawn = np.stack([order.permutation(len(train)) for order in orders])  # R N
    runs = torch.arange(len(drawn), device=train.left.device)[:, None]
    order = uploaded(torch.from_numpy(drawn), train.left.device)  # in one transfer
    for pairs in order.tensor_split(math.ceil(len(train) / size), dim=1):
        yield Stack(train.left[:, runs, pairs], train.right[:, runs, pairs])
