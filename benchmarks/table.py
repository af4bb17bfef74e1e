"""Show measurements as a table and as JSON."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import torch

from common import console
from common.machine.device import device_name
from common.machine.system import cores
from common.record import package_versions

Result = TypeVar("Result")
HEADER = ("stage", "unit", "plain", "ours", "limit", "x plain", "of limit", "wanted")


@dataclass(frozen=True)
class Row:
    """A stage in the plain way, in ours, and at the machine's limit, in seconds or in rates (where more is better);
    None where there is no such number. `wanted_of_plain` times as fast as the plain way is wanted, and the share
    `wanted_of_limit` of the limit."""

    stage: str
    unit: str
    plain: float | None
    ours: float
    limit: float | None = None
    wanted_of_plain: float | None = None
    wanted_of_limit: float | None = None

    @property
    def of_plain(self) -> float | None:
        """How many times as fast as the plain way."""
        return self._ratio(self.plain)

    @property
    def of_limit(self) -> float | None:
        """The share of the limit that is reached."""
        return self._ratio(self.limit)

    def _ratio(self, reference: float | None) -> float | None:
        if reference is None or not self.ours:
            return None
        return self.ours / reference if self.unit.endswith("/s") else reference / self.ours

    def wanted(self) -> str:
        """Return what was wanted, and whether it was met."""
        goals = (
            ("x plain", self.wanted_of_plain, self.of_plain),
            ("of limit", self.wanted_of_limit, self.of_limit),
        )
        return ", ".join(
            f"{least:.2g} {name}: {'met' if reached >= least else 'missed'}"
            for name, least, reached in goals
            if least is not None and reached is not None
        )

    def cells(self) -> list[str]:
        """Return the row of the table."""
        times = [_number(value) for value in (self.plain, self.ours, self.limit, self.of_plain, self.of_limit)]
        return [self.stage, self.unit, *times, self.wanted()]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def median_seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each way; they take turns, so that a busy minute of the machine meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Apart:
    """A process of its own for the plain way, which is not to profit from how this one is set up."""

    def __init__(self) -> None:
        self.pool = multiprocessing.get_context("spawn").Pool(1)

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()

    def run(self, way: Callable[..., Result], *given: object) -> Result:
        """Return what `way`, a function of a module, returns in that process."""
        return self.pool.apply(way, given)


def shown(rows: list[Row]) -> str:
    """Return the table."""
    return console.table(HEADER, [row.cells() for row in rows])


def record(rows: list[Row], device: torch.device, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return all of it for a JSON: the rows with their ratios, the device, versions and sizes."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(device),
        "cores": cores(),
        "versions": package_versions(),
        "sizes": sizes,
        "rows": [asdict(row) | {"of_plain": row.of_plain, "of_limit": row.of_limit} for row in rows],
    }
