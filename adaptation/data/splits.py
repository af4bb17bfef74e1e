"""Which pairs are tested on and which are learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError


@dataclass(frozen=True)
class Split:
    """Indices of the train and the test pairs, both ascending."""

    train: Tensor
    test: Tensor


def seeds_of(seed: int, run: int) -> tuple[int, int]:
    """Two independent seeds for a run, of its split and of its head: they depend on `seed` and the run's number alone,
    so that a run is the same however many there are."""
    split, head = np.random.SeedSequence([seed, run]).generate_state(2)
    return int(split), int(head)


def draw_split(pairs: int, share: float, seed: int) -> Split:
    """floor(share * pairs) test pairs drawn without replacement; the others train."""
    order = np.random.default_rng(seed).permutation(pairs)
    tested = check_share(pairs, share)
    return Split(torch.from_numpy(np.sort(order[tested:])), torch.from_numpy(np.sort(order[:tested])))


def check_share(pairs: int, share: float) -> int:
    """Return the number of test pairs; InputError when a share leaves none to test or none to train."""
    if not 0 < share < 1:
        raise InputError(f"--test-split {share:g}: give a share between 0 and 1, such as 0.25")
    if pairs < 2:
        raise InputError(f"{pairs:,} pair: at least 2 are needed, one to train on and one to test on")
    # in decimals, as the share was written: 0.29 of 100 is 29, which floats make 28.999...
    tested = math.floor(Fraction(str(share)) * pairs)
    if not tested:
        least = f"--test-split {_least_share(pairs)} leaves 1"
        raise InputError(f"--test-split {share:g} of {pairs:,} pairs leaves no test pair; {least}")
    return tested


def _least_share(pairs: int) -> str:
    """The least share of few digits that leaves a test pair of so many."""
    digits = len(str(pairs))
    return f"{math.ceil(Fraction(10**digits, pairs)) / 10**digits:.{digits}f}"


def check_ks(ks: Sequence[int], tested: int) -> None:
    """InputError when a k has no meaning for this number of test pairs."""
    if wrong := [k for k in ks if not 1 <= k <= tested]:
        raise InputError(
            f"-k {wrong[0]}: the {tested:,} test pairs are the gallery; k from 1 to {tested:,} is possible"
        )
