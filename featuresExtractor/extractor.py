"""The one loop: pictures are read ahead, go through the backbone once a view, and their features are written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from common.console import duration
from common.errors import InputError, listed, printable
from common.progress import progress
from featuresExtractor.datasets import Batch, Dataset, Skipped, read_batches
from featuresExtractor.embeddings import FeaturesWriter, make_rows
from featuresExtractor.forward import Drift, Forward

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Report:
    """What an extraction did: items written, what was left out, the seconds spent on each part, and how far the
    features are from those of fp32 where they are in another precision."""

    written: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"waiting for images": 0.0, "forward": 0.0, "writing": 0.0}
    )
    drift: Drift | None = None

    def summary(self, pictures: int) -> str:
        """One line: pictures, time, rate, and where the time went."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
        return f"{pictures:,} pictures in {duration(total)}, {pictures / total:.1f} images/s ({shares})"


class _Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def extract(
    dataset: Dataset, forward: Forward, writers: Sequence[FeaturesWriter], workers: int, skip: bool = False
) -> Report:
    """Writes the features of every item of `dataset`, in order, each output to its file; returns what was done.

    Threads read pictures ahead and one writes, so that the device need not wait for either. An unreadable picture is
    an InputError that names it; with `skip` its whole item is left out and reported.
    """
    size = max(1, forward.batch // len(dataset.sides))
    report, clock = Report(), _Clock()
    pictures = len(dataset.sides) * len(forward.views)
    with progress(len(dataset) * pictures, "extract", "images") as bar, ThreadPoolExecutor(1) as pool:
        written: Future[None] | None = None
        for batch in read_batches(dataset, forward.preprocessing, size, workers, forward.room):
            _check_readable(batch, report, skip)
            report.seconds["waiting for images"] += clock.lap()
            outputs = forward(torch.from_numpy(batch.pixels)) if batch.indices else []
            report.seconds["forward"] += clock.lap()
            _finish(written)
            written = pool.submit(_write, dataset, batch, outputs, writers) if batch.indices else None
            report.seconds["writing"] += clock.lap()
            _tell_drift(forward, report)
            report.written += len(batch.indices)
            bar.update(batch.count * pictures)
        _finish(written)
    report.seconds["writing"] += clock.lap()
    return report


def _finish(written: Future[None] | None) -> None:
    """Waits for what is being written, and raises what went wrong there."""
    if written is not None:
        written.result()


def _tell_drift(forward: Forward, report: Report) -> None:
    """Says once what the precision costs, as soon as it is known."""
    if forward.drift and not report.drift:
        report.drift = forward.drift
        tqdm.write(str(report.drift))


def _check_readable(batch: Batch, report: Report, skip: bool) -> None:
    """What could not be read is reported, or ends the extraction."""
    if batch.faults and not skip:
        told = listed(f"{fault.name} ({printable(fault.reason)})" for fault in batch.faults)
        raise InputError(f"unreadable: {told}; mend or remove it, or leave such pairs out with --on-error skip")
    report.skipped += batch.faults


def _write(
    dataset: Dataset, batch: Batch, outputs: Sequence[NDArray[np.float32]], writers: Sequence[FeaturesWriter]
) -> None:
    """The features of a batch, each output to its file."""
    names = [[path.name for path in dataset.items[index]] for index in batch.indices]
    for features, writer in zip(outputs, writers, strict=True):
        _check_finite(features, [name for item in names for name in item])
        by_item = features.reshape(len(features), len(names), -1, *features.shape[2:])
        make = partial(make_rows, writer.row, names)
        writer.append([make(values, view) for view, values in enumerate(by_item)])


def _check_finite(features: NDArray[np.float32], names: Sequence[str]) -> None:
    """InputError that names the first picture whose features (views, pictures, ...) are no numbers."""
    good = np.isfinite(features).reshape(len(features), len(names), -1).all(axis=(0, 2))
    if not good.all():
        name = printable(names[int(good.argmin())])
        raise InputError(f"{name}: the network gives values that are not finite numbers; are these its weights?")
