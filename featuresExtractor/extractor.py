"""The one loop: images are read ahead, go through the backbone once a view, and their features are written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.console import duration
from common.errors import InputError, listed, printable
from common.progress import progress
from featuresExtractor.backbones.drift import Drift, not_finite
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.features.features_file import FeaturesWriter, make_rows
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped
from featuresExtractor.images.loader import Batch, read_batches
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.units import Unit, changed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Outputs = list[NDArray[np.float32]]

logger = logging.getLogger(__name__)

WAITING, FORWARD, WRITING = "waiting for images", "forward", "writing"


@dataclass(frozen=True)
class Report:
    """What an extraction did: items that are written, what was left out, remarks about the images, and how far the
    features are from those of fp32 where they are in another precision."""

    written: int
    skipped: list[Skipped] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    drift: Drift | None = None


class Clock:
    """Seconds spent on each part of the loop."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((WAITING, FORWARD, WRITING), 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Count the time since the last call for `part`."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def summary(self, images: int) -> str:
        """Return one line: images, time, rate, and where the time went."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
        return f"{images:,} images in {duration(total)}, {images / total:.1f} images/s ({shares})"


def extract_units(
    dataset: Dataset,
    forward: Forward,
    writers: Sequence[FeaturesWriter],
    parts: Sequence[range],
    workers: int,
    skip: bool = False,
    decoding: Decoding = STORED,
    clock: Clock | None = None,
    record: Callable[[Unit], object] = lambda unit: None,
) -> Iterator[Unit]:
    """Write the features of the items in `parts`, each output to its file; yield a unit for each part, in order.

    `record` is called with each unit as soon as its features are written, by the thread that wrote them.

    Threads read images ahead and one writes, so that the device need not wait for either. An unreadable image is an
    InputError that names it; with `skip` its whole item is left out.
    """
    clock, drift = clock or Clock(), None
    batches = read_batches(dataset, forward.preprocessing, parts, workers, forward.buffer, decoding)
    count, images = len(dataset), len(dataset.sides) * len(forward.views)
    done = count - sum(map(len, parts))
    with (
        progress(count * images, "extract", "images", done * images) as bar,
        ThreadPoolExecutor(1) as pool,
        closing(batches),
    ):
        writing: Future[Unit] | None = None
        for batch, outputs in _computed(batches, forward, skip, clock):
            if writing is not None:
                yield writing.result()
            new = forward.drift if forward.drift is not drift else None
            if new is not None:
                logger.info(str(new))
            drift = forward.drift
            writing = pool.submit(_write, dataset, batch, outputs, writers, new, record, forward.precision)
            bar.update(len(batch.items) * images)
            clock.lap(WRITING)
        if writing is not None:
            yield writing.result()
    clock.lap(WRITING)


def _computed(batches: Iterable[Batch], forward: Forward, skip: bool, clock: Clock) -> Iterator[tuple[Batch, Outputs]]:
    """Yield each batch with its outputs. A GPU gets the next batch before these are fetched."""
    waiting: list[tuple[Batch, Callable[[], Outputs]]] = []
    for batch in batches:
        clock.lap(WAITING)
        if batch.faults and not skip:
            for last in waiting:
                yield from _fetched(last, clock)
        _check_readable(batch, skip)
        fetch = forward.start(torch.from_numpy(batch.pixels)) if batch.indices else forward.nothing
        clock.lap(FORWARD)
        waiting.append((batch, fetch))
        if len(waiting) > forward.overlaps:
            yield from _fetched(waiting.pop(0), clock)
    for last in waiting:
        yield from _fetched(last, clock)


def _fetched(waiting: tuple[Batch, Callable[[], Outputs]], clock: Clock) -> Iterator[tuple[Batch, Outputs]]:
    batch, fetch = waiting
    outputs = fetch()
    clock.lap(FORWARD)
    yield batch, outputs


def report_of(units: Sequence[Unit], dataset: Dataset) -> Report:
    """Return what was done in all `units`; InputError where images are no longer those that were used."""
    _check_unchanged(dataset, units)
    return Report(
        int(kept(dataset, units).sum()),
        [fault for unit in units for fault in unit.faults],
        [remark for unit in units for remark in unit.remarks],
        next((unit.drift for unit in units if unit.drift), None),
    )


def kept(dataset: Dataset, units: Sequence[Unit]) -> NDArray[np.bool_]:
    """Return which items have features: all but those that were left out."""
    which = np.ones(len(dataset), bool)
    which[[index for unit in units for index in unit.left_out]] = False
    return which


def _check_unchanged(dataset: Dataset, units: Sequence[Unit]) -> None:
    """InputError when images that were used are no longer those that were there at the start."""
    if names := [name for unit in units for index, name in changed(dataset, unit) if index not in unit.left_out]:
        raise InputError(
            f"{dataset.root}: changed or gone since the start: {listed(names)}; put back what is gone, and the same "
            "command reads these again"
        )


def _check_readable(batch: Batch, skip: bool) -> None:
    """What could not be read ends the extraction."""
    if batch.faults and not skip:
        faults = listed(f"{fault.name} ({fault.reason})" for fault in batch.faults)
        raise InputError(f"unreadable: {faults}; replace these images and resume, or skip them with --on-error skip")


def _write(
    dataset: Dataset,
    batch: Batch,
    outputs: Sequence[NDArray[np.float32]],
    writers: Sequence[FeaturesWriter],
    drift: Drift | None,
    record: Callable[[Unit], object],
    precision: str,
) -> Unit:
    """Write the features of a batch, each output to its file, and record it."""
    paths = [dataset.items[index] for index in batch.items]
    names = [[dataset.row_name(path) for path in item] for item in paths]
    good = [index - batch.items.start for index in batch.indices]
    sums = []
    for features, writer in zip(outputs, writers, strict=True):
        _check_finite(features, [name for slot in good for name in names[slot]], precision)
        by_item = features.reshape(len(features), len(good), len(dataset.sides), *features.shape[2:])
        places = _placed(by_item, good, len(names))
        blocks = [make_rows(writer.row, names, values, view) for view, values in enumerate(places)]
        sums.append(writer.put(batch.items.start, blocks))
    states = [state for index in batch.items for state in dataset.states[index]]
    left_out = [index for index in batch.items if index not in batch.indices]
    unit = Unit(batch.items, states, left_out, batch.faults, sums, batch.remarks, drift)
    record(unit)
    return unit


def _placed(by_item: NDArray[np.float32], good: Sequence[int], count: int) -> NDArray[np.float32]:
    """The features (views, items, ...) of `good` items among `count`; zeros for the others."""
    if len(good) == count:
        return by_item
    places = np.zeros((len(by_item), count, *by_item.shape[2:]), np.float32)
    places[:, good] = by_item
    return places


def _check_finite(features: NDArray[np.float32], names: Sequence[str], precision: str) -> None:
    """InputError that names the first image whose features (views, images, ...) are no numbers."""
    good = np.isfinite(features).all(axis=(0, *range(2, features.ndim)))
    if not good.all():
        raise InputError(f"{printable(names[int(good.argmin())])}: {not_finite(precision)}")
