"""Means, deviations and intervals beside scipy and beside a table of Student's t."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy import stats

from adaptation.reporting.statistics import describe, summary
from adaptation.trainer import Scores


def run_of(test: dict[str, list[float]], frozen: dict[str, float]) -> Scores:
    return Scores(test=test, frozen=frozen)


@pytest.fixture
def runs() -> list[Scores]:
    return [
        run_of({"Loss": [3.0, 1.0, 2.0], "top 1": [0.1, 0.4, 0.3], "median rank": [9.0, 7.0, 8.0]}, {"Loss": 5.0}),
        run_of({"Loss": [3.0, 2.0, 1.5], "top 1": [0.5, 0.2, 0.4], "median rank": [4.0, 6.0, 6.0]}, {"Loss": 6.0}),
    ]


def test_numbers_by_hand() -> None:
    # 1, 2, 3: mean 2, deviation 1, and t = 4.303 for two degrees of freedom in any printed table
    found = describe([1.0, 2.0, 3.0])
    assert (found["mean"], found["sd"], found["runs"]) == (2.0, 1.0, [1.0, 2.0, 3.0])
    assert found["interval95"] == pytest.approx([2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)], abs=1e-3)


@pytest.mark.parametrize("values", [[0.38, 0.41], [0.1, 0.5, 0.2, 0.2], [0.39 + 0.01 * math.sin(n) for n in range(20)]])
def test_interval_is_scipys(values: list[float]) -> None:
    found = describe(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.mean(values), scale=stats.sem(values))
    assert found["mean"] == pytest.approx(statistics.mean(values))
    assert found["sd"] == pytest.approx(statistics.stdev(values))
    assert found["interval95"] == pytest.approx([low, high])


def test_one_run_says_nothing_of_the_spread() -> None:
    assert describe([0.4]) == {"mean": 0.4, "sd": None, "interval95": None, "runs": [0.4]}


def frozen_everywhere(runs: list[Scores]) -> None:
    for number, run in enumerate(runs, 1):
        run.frozen |= {"top 1": 0.1 * number, "median rank": 10.0}


def test_the_last_epoch_is_the_last_and_not_the_best(runs: list[Scores]) -> None:
    frozen_everywhere(runs)
    found = summary(runs)
    assert found["Loss"]["last_epoch"] == describe([2.0, 1.5])
    assert found["top 1"]["last_epoch"] == describe([0.3, 0.4])


def test_the_best_epoch_is_each_runs_own_and_counts_from_one(runs: list[Scores]) -> None:
    frozen_everywhere(runs)
    found = summary(runs)
    assert found["top 1"]["best_epoch_on_test"] == {**describe([0.4, 0.5]), "epochs": [2, 1]}


def test_low_is_best_for_the_loss_and_the_median_rank(runs: list[Scores]) -> None:
    frozen_everywhere(runs)
    found = summary(runs)
    assert found["Loss"]["best_epoch_on_test"] == {**describe([1.0, 1.5]), "epochs": [2, 3]}
    assert found["median rank"]["best_epoch_on_test"] == {**describe([7.0, 4.0]), "epochs": [2, 1]}


def test_the_frozen_features_stand_beside(runs: list[Scores]) -> None:
    frozen_everywhere(runs)
    found = summary(runs)
    assert [*found] == ["Loss", "top 1", "median rank"]
    assert found["Loss"]["frozen"] == describe([5.0, 6.0])
    assert found["top 1"]["frozen"] == describe([0.1, 0.2])
