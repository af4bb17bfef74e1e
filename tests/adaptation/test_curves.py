"""Curves as they are recorded, beside the numbers that were added."""

from __future__ import annotations

import random
import time

import pytest
import torch

from adaptation.curves import FLUSH, Curves, Metrics, Progress, Recorder

CPU = torch.device("cpu")
NAMES = ("Loss", "top 1", "MRR")
Epoch = dict[str, list[float]]


def epochs(count: int, runs: int) -> list[Epoch]:
    """A number for each metric and run, that a float32 holds."""
    generator = random.Random(3)
    return [{name: [generator.randrange(1000) / 8 for _ in range(runs)] for name in NAMES} for _ in range(count)]


def metrics(epoch: Epoch) -> Metrics:
    return {name: torch.tensor(values) for name, values in epoch.items()}


def expected(some: list[Epoch], run: int) -> Curves:
    """The curve of a run: the value of each epoch, in order."""
    return {name: [epoch[name][run] for epoch in some] for name in NAMES}


def test_curves_are_the_numbers_that_were_added() -> None:
    train, test = epochs(7, 6)[:5], epochs(7, 6)[2:]
    recorder = Recorder([1, 2, 3, 4, 5, 6], CPU)
    for number, (learned, tested) in enumerate(zip(train, test, strict=True)):
        recorder.add(metrics(learned), metrics(tested))
        if number == 1:
            recorder.flush()
    recorder.flush()
    recorder.flush()  # nothing is waiting
    for run in range(6):
        assert recorder.train[run] == expected(train, run)
        assert recorder.test[run] == expected(test, run)


def test_watcher_gets_each_epoch_of_each_run_once_and_in_order() -> None:
    seen: list[Progress] = []
    some, recorder = epochs(6, 2), Recorder([4, 2], CPU, seen.append)
    for number, epoch in enumerate(some):
        recorder.add(metrics(epoch), metrics(some[-1 - number]))
        if number in (0, 3):
            recorder.flush()
    recorder.flush()
    recorder.flush()
    assert [(progress.run, progress.first) for progress in seen] == [(4, 1), (2, 1), (4, 2), (2, 2), (4, 5), (2, 5)]
    for run in (0, 1):
        for progress, (start, end) in zip(seen[run::2], [(0, 1), (1, 4), (4, 6)], strict=True):
            assert progress.train == expected(some[start:end], run)
            assert progress.test == expected(some[::-1][start:end], run)
            assert len(progress.times) == end - start


def test_times_are_those_at_which_the_epochs_ended() -> None:
    seen: list[Progress] = []
    recorder, bounds = Recorder([1], CPU, seen.append), []
    (epoch,) = epochs(1, 1)
    for _ in range(3):
        before = time.time()
        recorder.add(metrics(epoch), metrics(epoch))
        bounds.append((before, time.time()))
        time.sleep(0.01)
    recorder.flush()
    (progress,) = seen
    assert all(low <= at <= high for at, (low, high) in zip(progress.times, bounds, strict=True))


def test_all_that_waits_is_transferred_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers, tolist = list[tuple[int, ...]](), torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> object:
        transfers.append(tuple(tensor.shape))
        return tolist(tensor)

    added = [metrics(epoch) for epoch in epochs(4, 3)]
    recorder = Recorder([1, 2, 3], CPU, lambda _: None)
    with monkeypatch.context() as patch:
        for reader in ("item", "__float__", "numpy", "cpu"):
            patch.setattr(torch.Tensor, reader, lambda *_: pytest.fail("a transfer of its own"))
        patch.setattr(torch.Tensor, "tolist", counted)
        for epoch in added:
            recorder.add(epoch, epoch)
        assert transfers == []
        recorder.flush()
        recorder.flush()
    assert transfers == [(2 * 4, len(NAMES), 3)]


@pytest.mark.parametrize(("watched", "flushes"), [(True, [3, 6]), (False, [])])
def test_watched_curves_are_flushed_every_few_seconds_and_others_at_the_end(
    monkeypatch: pytest.MonkeyPatch, watched: bool, flushes: list[int]
) -> None:
    now, flushed = 100.0, list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now)
        recorder = Recorder([1], CPU, (lambda _: None) if watched else None)
        for number, epoch in enumerate(epochs(7, 1), start=1):
            now += 0.4 * FLUSH
            recorder.add(metrics(epoch), metrics(epoch))
            if not recorder.waiting:
                flushed.append(number)
        recorder.flush()
    assert flushed == flushes
    assert len(recorder.train[0]["Loss"]) == 7


def test_metrics_of_other_types_are_numbers_too() -> None:
    recorder, losses, ranks = Recorder([1, 2], CPU), torch.tensor([0.5, 1.5]), torch.tensor([7, 9])
    recorder.add({"Loss": losses, "worst": ranks}, {"Loss": losses.double(), "worst": ranks + 1})
    recorder.flush()
    assert recorder.train == [{"Loss": [0.5], "worst": [7.0]}, {"Loss": [1.5], "worst": [9.0]}]
    assert recorder.test == [{"Loss": [0.5], "worst": [8.0]}, {"Loss": [1.5], "worst": [10.0]}]
