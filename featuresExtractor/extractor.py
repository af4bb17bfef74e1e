"""The one loop: images are read ahead, go through the backbone once a view, and their features are written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from common.console import duration
from common.errors import InputError, listed, printable
from common.progress import progress
from featuresExtractor.backbones.inference import Drift, Forward
from featuresExtractor.features.features_file import FeaturesWriter, make_rows
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped
from featuresExtractor.images.loader import Batch, read_batches
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.journal import Done, Journal, changed, left_to_do

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Report:
    """What an extraction did: items that are written, what was left out, remarks about the images, how far the features
    are from those of fp32 where they are in another precision; and of this call the images and the seconds spent on
    each part."""

    written: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    drift: Drift | None = None
    images: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"waiting for images": 0.0, "forward": 0.0, "writing": 0.0}
    )

    def summary(self) -> str:
        """One line: images, time, rate, and where the time went."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
        return f"{self.images:,} images in {duration(total)}, {self.images / total:.1f} images/s ({shares})"


class _Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def extract(
    dataset: Dataset,
    forward: Forward,
    writers: Sequence[FeaturesWriter],
    journal: Journal,
    workers: int,
    skip: bool = False,
    decoding: Decoding = STORED,
) -> Report:
    """Writes the features of every item of `dataset` that the journal does not have yet, each output to its file;
    returns what was done.

    Threads read images ahead and one writes, so that the device need not wait for either. An unreadable image is
    an InputError that names it; with `skip` its whole item is left out and reported. So are images that were changed
    meanwhile.
    """
    report, clock = Report(), _Clock()
    views, sides = len(forward.views), len(dataset.sides)
    parts = left_to_do(len(dataset), max(1, forward.batch // sides), [done.items for done in journal.done])
    batches = read_batches(dataset, forward.preprocessing, parts, workers, forward.room, decoding)
    todo = sum(map(len, parts))
    with (
        progress(len(dataset) * sides * views, "extract", "images", (len(dataset) - todo) * sides * views) as bar,
        ThreadPoolExecutor(1) as pool,
        closing(batches),
    ):
        written: Future[None] | None = None
        for batch in batches:
            _check_readable(batch, skip)
            report.seconds["waiting for images"] += clock.lap()
            outputs = forward(torch.from_numpy(batch.pixels)) if batch.indices else forward.nothing()
            report.seconds["forward"] += clock.lap()
            _finish(written)
            _tell_drift(forward, journal)
            written = pool.submit(_write, dataset, batch, outputs, writers, journal)
            report.seconds["writing"] += clock.lap()
            report.images += len(batch.indices) * sides * views
            bar.update(len(batch.items) * sides * views)
        _finish(written)
    report.seconds["writing"] += clock.lap()
    _check_unchanged(dataset, journal)
    report.written = int(kept(dataset, journal).sum())
    report.skipped = [fault for done in sorted(journal.done, key=Done.first) for fault in done.faults]
    report.remarks = [remark for done in sorted(journal.done, key=Done.first) for remark in done.remarks]
    report.drift = journal.drift
    return report


def kept(dataset: Dataset, journal: Journal) -> NDArray[np.bool_]:
    """Which items have features: all but those that were left out."""
    found = np.ones(len(dataset), bool)
    found[[index for done in journal.done for index in done.left_out]] = False
    return found


def _check_unchanged(dataset: Dataset, journal: Journal) -> None:
    """InputError when images that were used are no longer those that were there at the start."""
    if names := [name for done in journal.done for index, name in changed(dataset, done) if index not in done.left_out]:
        raise InputError(
            f"{dataset.root}: changed or gone since the start: {listed(names)}; put back what is gone, and the same "
            "command reads these again"
        )


def _finish(written: Future[None] | None) -> None:
    """Waits for what is being written, and raises what went wrong there."""
    if written is not None:
        written.result()


def _tell_drift(forward: Forward, journal: Journal) -> None:
    """Says once what the precision costs, as soon as it is known."""
    if forward.drift and not journal.drift:
        journal.add_drift(forward.drift)
        tqdm.write(str(forward.drift))


def _check_readable(batch: Batch, skip: bool) -> None:
    """What could not be read ends the extraction."""
    if batch.faults and not skip:
        told = listed(f"{fault.name} ({fault.reason})" for fault in batch.faults)
        raise InputError(
            f"unreadable: {told}; mend it and give the same command, or leave such pairs out with --on-error skip"
        )


def _write(
    dataset: Dataset,
    batch: Batch,
    outputs: Sequence[NDArray[np.float32]],
    writers: Sequence[FeaturesWriter],
    journal: Journal,
) -> None:
    """The features of a batch, each output to its file; then the journal has it."""
    paths = [dataset.items[index] for index in batch.items]
    names = [[dataset.row_name(path) for path in item] for item in paths]
    good = [index - batch.items.start for index in batch.indices]
    sums = []
    for features, writer in zip(outputs, writers, strict=True):
        _check_finite(features, [name for slot in good for name in names[slot]])
        by_item = features.reshape(len(features), len(good), len(dataset.sides), *features.shape[2:])
        places = _placed(by_item, good, len(names))
        blocks = [make_rows(writer.row, names, values, view) for view, values in enumerate(places)]
        sums.append(writer.put(batch.items.start, blocks))
    states = [state for index in batch.items for state in dataset.states[index]]
    left_out = [index for index in batch.items if index not in batch.indices]
    journal.add(Done(batch.items, states, left_out, batch.faults, sums, batch.remarks))


def _placed(by_item: NDArray[np.float32], good: Sequence[int], count: int) -> NDArray[np.float32]:
    """The features (views, items, ...) of `good` items among `count`; zeros for the others."""
    if len(good) == count:
        return by_item
    places = np.zeros((len(by_item), count, *by_item.shape[2:]), np.float32)
    places[:, good] = by_item
    return places


def _check_finite(features: NDArray[np.float32], names: Sequence[str]) -> None:
    """InputError that names the first image whose features (views, images, ...) are no numbers."""
    good = np.isfinite(features).all(axis=(0, *range(2, features.ndim)))
    if not good.all():
        name = printable(names[int(good.argmin())])
        raise InputError(f"{name}: the network gives values that are not finite numbers; are these its weights?")
