"""Many runs in few numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from adaptation.metrics import lower_is_better
from adaptation.trainer import Scores


def describe(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and 95 % interval of the mean (Student's t) of one number a run.

    With one run the deviation and the interval are unknown: None.
    """
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return {"mean": mean, "sd": None, "interval95": None, "runs": list(values)}
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return {"mean": mean, "sd": sd, "interval95": [mean - half, mean + half], "runs": list(values)}


def summary(runs: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """For each test metric: the last epoch, the best epoch (each run's own, picked on the test pairs and therefore
    optimistic), and the frozen features on the same splits."""
    return {name: _of_metric(runs, name) for name in runs[0].test}


def _of_metric(runs: Sequence[Scores], name: str) -> dict[str, Any]:
    curves = [run.test[name] for run in runs]
    best = np.argmin if lower_is_better(name) else np.argmax
    epochs = [int(best(curve)) for curve in curves]
    peaks = describe([curve[epoch] for curve, epoch in zip(curves, epochs, strict=True)])
    return {
        "last_epoch": describe([curve[-1] for curve in curves]),
        "best_epoch_on_test": peaks | {"epochs": [epoch + 1 for epoch in epochs]},
        "frozen": describe([run.frozen[name] for run in runs]),
    }
