"""The pairs of runs side by side, and their batches. (`tests/adaptation/test_trainer.py` trains on them.)"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptation.data.pairs import Pairs
from adaptation.data.stack import Stack, batches, stack


def test_runs_are_the_second_axis(pairs: Pairs) -> None:
    runs = [pairs.subset(torch.arange(first, first + 7)) for first in (0, 9, 20)]
    stacked = stack(runs)
    assert len(stacked) == 7
    assert stacked.left.shape == stacked.right.shape == (2, 3, 7, 8)
    for run, own in enumerate(runs):
        assert torch.equal(stacked.left[:, run], own.left)
        assert torch.equal(stacked.right[:, run], own.right)


def test_a_single_run_is_not_copied(pairs: Pairs) -> None:
    alone = stack([pairs])
    assert alone.left.shape == (2, 1, 40, 8)
    assert alone.left.data_ptr() == pairs.left.data_ptr()
    assert alone.right.data_ptr() == pairs.right.data_ptr()


@pytest.mark.parametrize("size", [None, 40, 41])
def test_all_pairs_at_once_are_given_as_they_are_and_no_order_is_drawn(pairs: Pairs, size: int | None) -> None:
    train, order = stack([pairs]), np.random.default_rng(0)
    (batch,) = batches(train, size, [order])
    assert batch is train
    assert order.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_partners_and_views_stay_together_in_the_batches_of_each_run() -> None:
    numbers = torch.arange(11.0).view(1, 1, 11, 1).repeat(2, 2, 1, 1)
    numbers[1] += 100
    parts = list(batches(Stack(numbers, numbers + 0.5), 4, [np.random.default_rng(seed) for seed in (0, 1)]))
    assert [len(part) for part in parts] == [4, 4, 3]
    for part in parts:
        assert torch.equal(part.left + 0.5, part.right)
        assert torch.equal(part.left[0] + 100, part.left[1])
    orders = torch.cat([part.left[0, :, :, 0] for part in parts], dim=1)
    assert orders.sort(dim=1).values.tolist() == [list(range(11))] * 2
    assert not torch.equal(orders[0], orders[1])
