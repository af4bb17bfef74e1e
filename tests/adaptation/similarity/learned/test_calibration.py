"""Cosines are counted as numpy counts them, and percentages follow from the counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptation.similarity.learned import calibration
from adaptation.similarity.learned.calibration import BINS, count_cosines, percentile, quantile
from common.errors import InputError


def vectors(count: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn)


def test_counts_are_those_of_numpy() -> None:
    left, right = vectors(60, 0), vectors(60, 1)
    table = (left @ right.T).numpy()
    partners, strangers = count_cosines(left, right).numpy()
    edges = np.linspace(-1, 1, BINS + 1)
    for counts, cosines in ((partners, table.diagonal()), (strangers, table[~np.eye(60, dtype=bool)])):
        assert counts.sum() == len(cosines)
        expected = np.histogram(cosines, edges)[0]
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 1  # rounding at an edge


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = vectors(33, 2), vectors(33, 3)
    whole = count_cosines(left, right)
    monkeypatch.setattr(calibration, "TILE", 70)
    assert int((count_cosines(left, right).cumsum(1) - whole.cumsum(1)).abs().max()) <= 1


def test_the_ends_are_counted() -> None:
    same, opposite = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert count_cosines(same, same)[0, BINS - 1] == 1
    assert count_cosines(same, opposite)[0, 0] == 1


def test_percentages_and_quantiles_undo_each_other() -> None:
    counts = torch.zeros(BINS, dtype=torch.int64)
    counts[[1000, 1500, 1900]] = torch.tensor([50, 25, 25])
    assert percentile(np.array([-1, 0, 0.3, 0.6, 1.0], np.float32), counts).tolist() == [0, 0, 50, 75, 100]
    assert quantile(0.25, counts) == pytest.approx(0.0005)
    assert quantile(0.75, counts) == pytest.approx(0.5005)
    assert quantile(1.0, counts) == pytest.approx(0.9005)


def test_nothing_counted_is_no_number() -> None:
    counts = torch.zeros(BINS, dtype=torch.int64)
    assert np.isnan(percentile(np.zeros((2, 3), np.float32), counts)).all()
    assert np.isnan(quantile(0.5, counts))


@pytest.mark.parametrize("seed", range(4))
def test_each_pair_is_counted_once_whatever_rounding_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partners are all alike, so that their cosines lie at an edge of two bins."""
    monkeypatch.setattr(calibration, "TILE", 150)
    left = vectors(40, seed)
    partners, strangers = count_cosines(left, left.clone())
    assert int(partners.sum()) == 40
    assert int(strangers.sum()) == 40 * 39
    assert int(strangers.min()) == 0
    assert count_cosines(left[:0], left[:0]).sum() == 0


@pytest.mark.parametrize("share", [0, 1e-9, 0.01, 0.3, 0.5, 0.75, 0.999, 1])
def test_quantiles_are_those_of_numpy_to_half_a_bin(share: float) -> None:
    left, right = vectors(30, 5), vectors(30, 6)
    table = (left @ right.T).numpy()
    strangers = count_cosines(left, right)[1]
    expected = np.quantile(table[~np.eye(30, dtype=bool)], share, method="inverted_cdf")
    assert abs(quantile(share, strangers) - expected) <= 1 / BINS + 1e-6


def test_a_share_that_is_none_is_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"a share of .*: shares from 0 to 1 are possible"):
            quantile(share, torch.ones(BINS, dtype=torch.int64))
