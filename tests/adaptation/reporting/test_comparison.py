"""Models side by side: order, paired differences beside scipy's, and what one run cannot tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from adaptation.reporting.comparison import Entry, Record, compare
from adaptation.reporting.statistics import describe

Recalls = dict[int, Sequence[float]]


def entry(label: str, adapted: Recalls, frozen: Recalls | None = None) -> Entry:
    frozen = frozen or {k: [0.25] * len(runs) for k, runs in adapted.items()}
    metrics: dict[str, Any] = {
        f"top {k}": {"last_epoch": describe(runs), "frozen": describe(frozen[k])} for k, runs in adapted.items()
    }
    return Entry(label, label.replace("/", "-"), 256, "none", metrics)


def drawn(label: str, mean: float, runs: int = 6) -> Entry:
    generator = np.random.default_rng(sum(map(ord, label)))
    recalls = {k: (mean + 0.1 * k + 0.05 * generator.standard_normal(runs)).tolist() for k in (1, 3)}
    return entry(label, recalls, {k: (0.1 + 0.02 * generator.standard_normal(runs)).tolist() for k in (1, 3)})


def models(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record.model for record in records))


ENTRIES = [drawn("b", 0.3), drawn("a", 0.2), drawn("c", 0.5)]


def runs_of(label: str, k: int, when: str) -> list[float]:
    (found,) = (one.metrics[f"top {k}"][when]["runs"] for one in ENTRIES if one.label == label)
    runs: list[float] = found
    return runs


def test_the_best_at_the_smallest_k_comes_first() -> None:
    found = compare(ENTRIES, (1, 3))
    assert [(record.rank, record.model, record.k) for record in found] == [
        *((1, "c", 1), (1, "c", 3)),
        *((2, "b", 1), (2, "b", 3)),
        *((3, "a", 1), (3, "a", 3)),
    ]
    worse_later = [entry("x", {1: [0.5, 0.5], 3: [0.6, 0.6]}), entry("y", {1: [0.4, 0.4], 3: [0.9, 0.9]})]
    assert models(compare(worse_later, (3, 1))) == ["x", "y"]


def test_the_paired_difference_is_scipys() -> None:
    for record in compare(ENTRIES, (1, 3)):
        if record.model == "c":
            continue
        ours, best = (runs_of(label, record.k, "last_epoch") for label in (record.model, "c"))
        interval = stats.ttest_rel(ours, best).confidence_interval(0.95)
        assert record.difference == pytest.approx(np.mean(ours) - np.mean(best))
        assert (record.difference_low, record.difference_high) == pytest.approx((interval.low, interval.high))


def test_a_shared_swing_of_the_splits_does_not_blur_the_difference() -> None:
    swing = [0.2, 0.5, 0.3, 0.6]
    one, other = entry("one", {1: [run + 0.1 for run in swing]}), entry("other", {1: swing})
    (_, record) = compare([one, other], (1,))
    assert (record.difference, record.difference_low, record.difference_high) == pytest.approx((-0.1, -0.1, -0.1))
    assert record.high is not None
    assert record.low is not None
    assert record.high - record.low > 0.4


def test_recalls_and_intervals_are_scipys() -> None:
    for record in compare(ENTRIES, (1, 3)):
        for when, mean, low, high in (
            ("last_epoch", record.adapted, record.low, record.high),
            ("frozen", record.frozen, record.frozen_low, record.frozen_high),
        ):
            runs = runs_of(record.model, record.k, when)
            interval = stats.ttest_1samp(runs, 0).confidence_interval(0.95)
            assert (mean, low, high) == pytest.approx((np.mean(runs), interval.low, interval.high))
        assert record.sd == pytest.approx(np.std(runs_of(record.model, record.k, "last_epoch"), ddof=1))
        assert record.runs == 6


def test_the_factor_is_adapted_by_frozen() -> None:
    found = compare([entry("m", {1: [0.4, 0.8]}, {1: [0.1, 0.3]})], (1,))
    assert found[0].factor == pytest.approx(3.0)
    assert compare([entry("m", {1: [0.4]}, {1: [0.0]})], (1,))[0].factor is None
    same = compare([entry("m", {1: [0.4, 0.3]}, {1: [0.4, 0.3]})], (1,))
    assert same[0].factor == 1.0


def test_the_best_is_not_compared_with_itself() -> None:
    for record in compare(ENTRIES, (1, 3))[:2]:
        assert (record.difference, record.difference_low, record.difference_high) == (None, None, None)


def test_one_run_has_no_intervals() -> None:
    best, other = compare([entry("m", {1: [0.4]}), entry("n", {1: [0.3]})], (1,))
    for record in (best, other):
        assert (record.sd, record.low, record.high, record.frozen_low, record.frozen_high) == (None,) * 5
    assert other.difference == pytest.approx(-0.1)
    assert (other.difference_low, other.difference_high) == (None, None)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_models_means_nothing(order: tuple[int, ...]) -> None:
    assert compare([ENTRIES[place] for place in order], (1, 3)) == compare(ENTRIES, (1, 3))


def test_ties_are_settled_by_the_next_k_then_by_label() -> None:
    equal: Recalls = {1: [0.2, 0.4], 3: [0.5, 0.5]}
    tied = [entry("b", equal), entry("a", equal), entry("z", {1: [0.4, 0.2], 3: [0.6, 0.6]})]
    found = compare(tied, (1, 3))
    assert models(found) == ["z", "a", "b"]
    assert [record.difference for record in found if record.model == "b"] == pytest.approx([0.0, -0.1])


def test_recalls_that_only_float32_tells_apart_are_a_tie() -> None:
    swinging, steady = ([float(np.float32(value)) for value in values] for values in ((0.2, 0.4), (0.3, 0.3)))
    assert np.mean(swinging) < np.mean(steady)  # by 7e-9
    assert models(compare([entry("b", {1: steady}), entry("a", {1: swinging})], (1,))) == ["a", "b"]
