"""The units of an extraction: ranges of items, what is recorded of each, and which of them hold when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from common.progress import progress
from common.storage.staging import UNREADABLE, Staging
from featuresExtractor.backbones.drift import Drift
from featuresExtractor.features.features_file import FeaturesWriter
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped, State, state_of


@dataclass(frozen=True)
class Unit:
    """Items whose features were written: the state of their images at the start, the items left out, and why, a
    checksum of their rows in each file, remarks about their images, and what a precision costs where it was measured on
    them."""

    items: range
    states: list[State]
    left_out: list[int]
    faults: list[Skipped]
    sums: list[int]
    remarks: list[Remark] = field(default_factory=list)
    drift: Drift | None = None

    @property
    def key(self) -> str:
        """The name of the unit: `20-40`."""
        return f"{self.items.start}-{self.items.stop}"

    def record(self) -> dict[str, Any]:
        """Return the unit as JSON holds it."""
        return {
            "items": [self.items.start, self.items.stop],
            "states": self.states,
            "left_out": self.left_out,
            "faults": [[fault.name, fault.reason] for fault in self.faults],
            "sums": self.sums,
            "remarks": [[remark.name, remark.text] for remark in self.remarks],
            "drift": asdict(self.drift) if self.drift else None,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Unit:
        """Return the unit of a `record`; an exception for what cannot be one."""
        (start, stop), states = map(_count, record["items"]), [State(*map(int, state)) for state in record["states"]]
        left_out, faults = [*map(_count, record["left_out"])], [Skipped(*map(str, fault)) for fault in record["faults"]]
        if not all(start <= index < stop for index in left_out):
            raise ValueError("left out what is not in the unit")
        remarks, sums = [Remark(*map(str, remark)) for remark in record["remarks"]], [*map(int, record["sums"])]
        return cls(range(start, stop), states, left_out, faults, sums, remarks, _drift(record["drift"]))


def _count(value: Any) -> int:
    """A number of items."""
    if not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError(f"{value} counts nothing")
    return value


def _drift(value: Any) -> Drift | None:
    if value is None:
        return None
    return Drift(str(value["precision"]), int(value["images"]), float(value["lowest"]), float(value["mean"]))


def recorded_units(staging: Staging) -> list[Unit]:
    """Return the units that unfinished work records, in order; what is none is left out."""
    units = []
    for record in staging.units.values():
        try:
            units.append(Unit.of(record))
        except (*UNREADABLE, OverflowError):
            continue
    return sorted(units, key=lambda unit: unit.items.start)


def verified(units: Sequence[Unit], dataset: Dataset, writers: Sequence[FeaturesWriter]) -> list[Unit]:
    """Return the units whose rows are as they were written and whose images are as they were read; the others, which a
    power cut or a change of images leaves, are to be done again."""
    good: list[Unit] = []
    with progress(sum(len(unit.items) for unit in units), "check", dataset.kind) as bar:
        for unit in units:
            start = good[-1].items.stop if good else 0
            if _fits(unit, start, dataset) and unit.sums == [writer.checksum(unit.items) for writer in writers]:
                good.append(unit)
            bar.update(len(unit.items))
    return good


def _fits(unit: Unit, start: int, dataset: Dataset) -> bool:
    """Whether a unit is of this dataset, not before `start`, where the unit before it ends, and of unchanged images.
    (One that was left out may be good now.)"""
    inside = start <= unit.items.start < unit.items.stop <= len(dataset)
    return inside and len(unit.states) == len(unit.items) * len(dataset.sides) and not changed(dataset, unit)


def changed(dataset: Dataset, unit: Unit) -> list[tuple[int, str]]:
    """Return the images of a unit that are not as they were at the start: the index of their item, and their name."""
    images = [(index, path) for index in unit.items for path in dataset.items[index]]
    return [
        (index, dataset.name(path))
        for (index, path), state in zip(images, unit.states, strict=True)
        if state_of(path) != state
    ]


def missing_units(count: int, size: int, done: Sequence[range]) -> list[range]:
    """Return the ranges, of `size` items at most, of all `count` items that are not `done`; the same ones as without an
    interruption, so that each holds the same images."""
    missing, start = [], 0
    for items in (*sorted(done, key=lambda items: items.start), range(count, count)):
        missing += [range(first, min(first + size, items.start)) for first in range(start, items.start, size)]
        start = items.stop
    return missing
