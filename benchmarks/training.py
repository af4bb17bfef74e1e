"""Measure the training of a head: seconds an epoch."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import torch

from adaptation.data.pairs import Pairs
from adaptation.data.splits import draw_split, seeds_of
from adaptation.heads import WIDTH, build_head
from adaptation.memory import tile_numbers
from adaptation.tiled_loss import Tiling
from adaptation.trainer import Settings, train_runs
from benchmarks import plain
from benchmarks.table import Apart, Row, median_seconds
from common.machine.device import tf32

LOSS = 1e-5  # by which losses may differ, beside their size
WANTED = {"fp32": (2.0, 1 / 1.4), "bf16": (4.0, None)}


@dataclass(frozen=True)
class Sizes:
    """What is learned from: pairs of two views with `width` dimensions (by default those of TLL_obj), in which
    precisions; `runs` at once, and `epochs`, each of which is timed."""

    pairs: int = 4199
    width: int = 256
    precisions: tuple[str, ...] = ("fp32", "bf16")
    runs: int = 1
    epochs: int = 3


def measure(sizes: Sizes, device: torch.device, repeats: int) -> list[Row]:
    """Return a row for each precision: seconds an epoch and run, beside the plain way (fp32) and the products alone."""
    check_same(device)
    pairs = random_pairs(sizes.pairs, sizes.width).to(device)
    with Apart() as apart:
        return [_row(sizes, precision, pairs, apart, device, repeats) for precision in sizes.precisions]


def _row(sizes: Sizes, precision: str, pairs: Pairs, apart: Apart, device: torch.device, repeats: int) -> Row:
    settings = Settings(epochs=1 + sizes.epochs, temperature=15.0, precision=precision)
    times: dict[str, list[float]] = {"plain": [], "ours": [], "limit": []}
    for _ in range(repeats):
        times["plain"] += apart.run(_epochs_of_the_plain_way, sizes, settings, device)
        times["ours"] += _our_epochs(pairs, settings, sizes.runs, device)
        times["limit"] += _epochs_of_products(pairs, settings, sizes.epochs)
    plain_way, ours, limit = (statistics.median(times[name]) for name in ("plain", "ours", "limit"))
    size = f"{sizes.pairs:,} pairs, {f'{sizes.runs} runs at once, ' * (sizes.runs > 1)}{precision}"
    return Row(f"an epoch, {size}", "s", plain_way, ours, limit, *WANTED.get(precision, (None, None)))


def random_pairs(pairs: int, width: int) -> Pairs:
    """Return two views of pairs that have something in common, and more that differs."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, pairs, width, generator=generator)
    left, right = (common + 2 * torch.randn(2, pairs, width, generator=generator) for _ in range(2))
    return Pairs(left, right, [(f"{number:05d}.jpg",) * 2 for number in range(pairs)])


def the_plain_way(pairs: Pairs, settings: Settings) -> Iterator[dict[str, float]]:
    """Return the epochs of run 1, with the split and the first weights of our way."""
    split_seed, head_seed = seeds_of(settings.seed, 1)
    tested = draw_split(len(pairs), settings.test_split, split_seed).test
    (weight,) = build_head("original", pairs.left.shape[-1], head_seed).state_dict().values()
    return plain.train(pairs.left, pairs.right, tested, weight, settings.temperature, settings.ks)


def _epochs_of_the_plain_way(sizes: Sizes, settings: Settings, device: torch.device) -> list[float]:
    run = the_plain_way(random_pairs(sizes.pairs, sizes.width).to(device), settings)
    next(run)  # warms up
    return [_seconds(lambda: next(run)) for _ in range(max(1, sizes.epochs // 2))]


def _seconds(way: Callable[[], object]) -> float:
    return median_seconds({"": way}, 1)[""]


def _our_epochs(pairs: Pairs, settings: Settings, runs: int, device: torch.device) -> list[float]:
    """Return the seconds an epoch and run."""
    ends: list[float] = []

    def on_epoch() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    tiling = Tiling(factors=torch.bfloat16 if settings.precision == "bf16" else None, numbers=tile_numbers(device))
    with tf32(settings.precision == "tf32"):
        train_runs(pairs, settings, range(1, 1 + runs), on_epoch, tiling=tiling)
    return [(after - before) / runs for before, after in pairwise(ends)]


def _epochs_of_products(pairs: Pairs, settings: Settings, epochs: int) -> list[float]:
    """Return the seconds of the matrix products of an epoch alone: forward and backward of head and similarities, and
    the test."""
    tested = int(settings.test_split * len(pairs))
    kind = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    left, embedding = pairs.left[0].to(kind), torch.rand(len(pairs), WIDTH, device=pairs.left.device).to(kind)
    weight = torch.rand(WIDTH, left.shape[1], device=left.device).to(kind)
    (a, x), (b, y) = ((embedding[:count], left[:count]) for count in (len(pairs) - tested, tested))

    def products() -> None:
        for _ in range(len(pairs.left)):
            for _ in range(2):
                x @ weight.T, a.T @ x
            similarities = a @ a.T
            similarities @ a, similarities.T @ a
        y @ weight.T, y @ weight.T, b @ b.T
        if left.device.type == "cuda":
            torch.cuda.synchronize()

    with tf32(settings.precision == "tf32"):
        products()
        return [_seconds(products) for _ in range(epochs)]


def check_same(device: torch.device) -> None:
    """End the benchmark when losses or recalls differ between the two ways."""
    pairs, settings = random_pairs(400, 64).to(device), Settings(epochs=3, temperature=15.0)
    expected = list(islice(the_plain_way(pairs, settings), settings.epochs))
    (run,) = train_runs(pairs, settings, [1])
    for name in ("Loss", *(f"top {k}" for k in settings.ks)):
        for side, curves in (("train", run.train), ("test", run.test)):
            for epoch, value in enumerate(curves[name]):
                reference = expected[epoch][f"{side} {name}"]
                allowed = LOSS * reference if name == "Loss" else 1e-6  # a recall is a share of some hundred pairs
                if not abs(value - reference) <= allowed:
                    sys.exit(f"{side} {name} of the two ways differ after epoch {epoch + 1}: {value} and {reference}")
