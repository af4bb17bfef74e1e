"""What a cosine means: how many strangers, and how many partners, are less similar.

A cosine alone misleads: behind the paper's head (a ReLU) strangers have positive cosines too. So the cosines of test
pairs, which the heads of the runs have not learned from, are counted in bins; counts of several runs add up.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError

BINS = 2000  # of cosines from -1 to 1
TILE = 2**20  # cosines that are held at once
KINDS, SPACES = ("partners", "strangers"), ("frozen", "adapted")


@torch.inference_mode()
def count_cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return how many cosines are in each bin, (2, BINS) int64: those of partners, and those of strangers. `left` and
    `right` (N, E) have unit length; row i of one is the partner of row i of the other, all others are strangers."""
    height = max(1, TILE // max(1, len(right)))
    partners = everyone = torch.zeros(BINS, dtype=torch.int64, device=left.device)
    for first in range(0, len(left), height):
        cosines = left[first : first + height] @ right.T
        everyone = everyone + _counts(cosines)
        partners = partners + _counts(cosines.diagonal(first))
    return torch.stack([partners, everyone - partners]).cpu()


def _counts(cosines: Tensor) -> Tensor:
    """How many of these cosines are in each bin, (BINS,)."""
    bins = ((cosines.flatten() + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    return torch.bincount(bins, minlength=BINS)


def percentile(cosines: NDArray[np.float32], counts: Tensor) -> NDArray[np.float64]:
    """Return for each cosine (any shape) the percentage, 0 to 100, of the cosines counted in `counts` (BINS,) that are
    lower; NaN where nothing was counted. Within a bin they count as evenly spread."""
    total = int(counts.sum())
    if not total:
        return np.full(np.shape(cosines), np.nan)
    edges = np.linspace(-1, 1, BINS + 1)
    below = np.concatenate([[0], counts.cumsum(0).numpy()]) * (100 / total)
    return np.interp(cosines, edges, below)


def quantile(share: float, counts: Tensor) -> float:
    """Return the cosine below which a `share` (0 to 1) of the cosines counted in `counts` (BINS,) lies, to 0.001; NaN
    where nothing was counted. InputError for a share that is none."""
    if not 0 <= share <= 1:
        raise InputError(f"a share of {share}: shares from 0 to 1 are possible")
    cumulative = counts.cumsum(0).numpy()
    total = int(cumulative[-1])
    if not total:
        return float("nan")
    place = int(np.searchsorted(cumulative, max(1, math.ceil(share * total))))
    return float((place + 0.5) * 2 / BINS - 1)
