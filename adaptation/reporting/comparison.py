"""Models side by side on the same splits: a record for each model and k, best model first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptation.reporting.statistics import describe

DIGITS = 6  # of a mean recall that count: beyond them differ sums of the same float32 in another order


@dataclass(frozen=True)
class Entry:
    """A model that was run: `label`, the `folder` of its runs, dimensions, what its PCA was fitted on, and the
    `metrics` of its runs as `statistics.summary` gives them."""

    label: str
    folder: str
    width: int
    protocol: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One model at one k. Recalls are in 0..1; bounds are of 95 % intervals over the runs, None for a single run.

    `factor` is adapted / frozen, None where frozen is 0. `difference` is the mean over the runs of this model's adapted
    recall less that of the best model, run by run; None for the best model itself.
    """

    rank: int
    model: str
    folder: str
    width: int
    pca: str
    k: int
    runs: int
    frozen: float
    frozen_sd: float | None
    frozen_low: float | None
    frozen_high: float | None
    adapted: float
    sd: float | None
    low: float | None
    high: float | None
    factor: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None


def compare(entries: Sequence[Entry], ks: Sequence[int]) -> list[Record]:
    """The records of each model at each k, ascending, by adapted aR@k at the smallest k, best first.

    Ties are settled by the next k, at last by label: the order of `entries` means nothing.
    """
    ks = sorted(ks)

    def worst_last(entry: Entry) -> tuple[list[float], str]:
        means = [entry.metrics[f"top {k}"]["last_epoch"]["mean"] for k in ks]
        return [-round(mean, DIGITS) for mean in means], entry.label

    ranked = sorted(entries, key=worst_last)
    return [_record(rank, entry, ranked[0], k) for rank, entry in enumerate(ranked, 1) for k in ks]


def _record(rank: int, entry: Entry, best: Entry, k: int) -> Record:
    frozen, adapted = (entry.metrics[f"top {k}"][when] for when in ("frozen", "last_epoch"))
    low, high = adapted["interval95"] or (None, None)
    frozen_low, frozen_high = frozen["interval95"] or (None, None)
    difference, difference_low, difference_high = (
        (None, None, None)
        if entry is best
        else _paired(adapted["runs"], best.metrics[f"top {k}"]["last_epoch"]["runs"])
    )
    return Record(
        rank=rank,
        model=entry.label,
        folder=entry.folder,
        width=entry.width,
        pca=entry.protocol,
        k=k,
        runs=len(adapted["runs"]),
        frozen=frozen["mean"],
        frozen_sd=frozen["sd"],
        frozen_low=frozen_low,
        frozen_high=frozen_high,
        adapted=adapted["mean"],
        sd=adapted["sd"],
        low=low,
        high=high,
        factor=adapted["mean"] / frozen["mean"] if frozen["mean"] else None,
        difference=difference,
        difference_low=difference_low,
        difference_high=difference_high,
    )


def _paired(runs: Sequence[float], others: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of the differences of two models run by run, which share their splits, and its 95 % interval."""
    differences = describe([ours - theirs for ours, theirs in zip(runs, others, strict=True)])
    low, high = differences["interval95"] or (None, None)
    return differences["mean"], low, high
