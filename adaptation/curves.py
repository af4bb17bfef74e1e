"""The curves of runs while they grow: numbers leave the device together every few seconds, so that it need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.machine.device import Marks

Metrics = dict[str, Tensor]
Curves = dict[str, list[float]]

FLUSH = 2.0  # seconds of the host between two transfers


@dataclass(frozen=True)
class Progress:
    """Epochs of one run, from epoch `first` (counted from 1) on: a value for each metric and epoch, and the time in
    seconds at which each epoch ended."""

    run: int
    first: int
    train: Curves
    test: Curves
    times: list[float]


class Recorder:
    """The curves of the runs of these numbers on a device. `watch` gets the new epochs, run by run."""

    def __init__(
        self, numbers: Sequence[int], device: torch.device, watch: Callable[[Progress], object] | None = None
    ) -> None:
        self.numbers, self.watch, self.marks = numbers, watch, Marks(device)
        self.train: list[Curves] = [{} for _ in numbers]
        self.test: list[Curves] = [{} for _ in numbers]
        self.waiting: list[tuple[Metrics, Metrics]] = []
        self.marked: list[Any] = []
        self.epochs, self.flushed = 0, time.monotonic()

    def add(self, train: Metrics, test: Metrics) -> None:
        """Take the metrics (R,) of an epoch."""
        self.waiting.append((train, test))
        self.marked.append(self.marks.mark())
        if self.watch is not None and time.monotonic() - self.flushed >= FLUSH:
            self.flush()

    def flush(self) -> None:
        """Bring what waits off the device, and give it to `watch`."""
        if not self.waiting:
            return
        first, self.epochs = self.epochs + 1, self.epochs + len(self.waiting)
        train, test = ([epoch[side] for epoch in self.waiting] for side in (0, 1))
        values = _numbers([*train, *test])
        times = [self.marks.time(mark) for mark in self.marked]
        for run, number in enumerate(self.numbers):
            new_train, new_test = _curves(train, values, run), _curves(test, values[len(train) :], run)
            _extend(self.train[run], new_train)
            _extend(self.test[run], new_test)
            if self.watch is not None:
                self.watch(Progress(number, first, new_train, new_test, times))
        self.waiting, self.marked, self.flushed = [], [], time.monotonic()


def _numbers(epochs: Sequence[Metrics]) -> list[list[list[float]]]:
    """The values of all metrics, by epoch, metric and run, in one transfer."""
    numbers: list[list[list[float]]] = torch.stack([torch.stack(list(each.values())) for each in epochs]).tolist()
    return numbers


def _curves(epochs: Sequence[Metrics], values: Sequence[Sequence[Sequence[float]]], run: int) -> Curves:
    """The curves of one run among the values of all."""
    return {name: [values[epoch][index][run] for epoch in range(len(epochs))] for index, name in enumerate(epochs[0])}


def _extend(curves: Curves, new: Curves) -> None:
    for name, values in new.items():
        curves.setdefault(name, []).extend(values)
