"""The epochs of runs: one full-batch step each, as in the paper, for many runs at once. Nothing here prints or writes.

V views, R runs, N pairs, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptation.curves import Curves, Metrics, Progress, Recorder
from adaptation.data.pairs import Pairs
from adaptation.data.split_pca import SplitPCA
from adaptation.data.splits import Split, draw_split, seeds_of
from adaptation.data.stack import Stack, batches, stack
from adaptation.heads import HeadStack, build_head, is_stackable
from adaptation.losses import contrast, find_loss
from adaptation.metrics import retrieval_metrics
from adaptation.tiled_loss import Tiling
from common.errors import InputError
from common.machine.device import tf32

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Settings:
    """What a run is made of; the defaults are the paper's. `batch_size` is None for all pairs at once; `temperature` is
    the logit scale; `code` has each file of the user's that a head or a loss is in, with its SHA-256."""

    head: str = "original"
    epochs: int = 150
    temperature: float = 1.0
    test_split: float = 0.25
    ks: tuple[int, ...] = (1, 3)
    seed: int = 0
    batch_size: int | None = None
    precision: str = "fp32"
    loss: str = "contrastive"
    code: tuple[tuple[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the settings as they are recorded: of the default loss, and where there is no code of the user's,
        nothing, as in older records, so that both compare."""
        new = {"loss": Settings.loss, "code": Settings.code}
        return {name: value for name, value in asdict(self).items() if name not in new or value != new[name]}

    @property
    def steps(self) -> int:
        """The epochs that a run has: frozen features need one look and no more."""
        return 1 if self.head == "dummy" else self.epochs


@dataclass(kw_only=True)
class Scores:
    """The numbers of a run: the curves of its metrics, a value an epoch.

    `train` holds the loss over all views and the metrics of the original view before the epoch's step; `test` the loss
    and metrics of the test pairs (never flipped) after it; `frozen` those of the features without a head.
    """

    train: Curves = field(default_factory=dict)
    test: Curves = field(default_factory=dict)
    frozen: dict[str, float] = field(default_factory=dict)


@dataclass
class Run(Scores):
    """A finished run: its numbers, its split, its own PCA where there is one, and the trained head and optimiser, which
    are large."""

    number: int
    split: Split
    head: nn.Module
    optimiser: torch.optim.Adam | None
    pca: PCA | None = None

    def scores(self) -> Scores:
        """The numbers alone, to keep when the run is written."""
        return Scores(train=self.train, test=self.test, frozen=self.frozen)


@dataclass(frozen=True)
class Final:
    """A head that was trained on all pairs, in evaluation, on the device of its training; the PCA before it where there
    is one; and the loss of each epoch, before its step."""

    head: nn.Module
    pca: PCA | None
    loss: list[float]


def train_runs(
    pairs: Pairs,
    settings: Settings,
    numbers: Sequence[int],
    on_epoch: Callable[[], object] = lambda: None,
    split_pca: SplitPCA | None = None,
    tiling: Tiling | None = None,
    watch: Callable[[Progress], object] | None = None,
) -> list[Run]:
    """Train and test the runs of these numbers side by side, on the device of `pairs` or on that of a `split_pca`,
    which is fitted on each run's training pairs first. A run depends on the seed and its own number alone.

    Heads that cannot be stacked go one after the other. `on_epoch` is called after each epoch, and `watch` every few
    seconds with the new epochs of each run. InputError when the temperature takes the loss beyond what a float32 holds.
    """
    width = split_pca.components if split_pca else pairs.left.shape[-1]
    together = len(numbers) == 1 or is_stackable(settings.head, width)
    groups = [numbers] if together else [[number] for number in numbers]
    tiling = tiling or Tiling()
    return [run for group in groups for run in _train(pairs, settings, group, on_epoch, split_pca, tiling, watch)]


def _train(
    pairs: Pairs,
    settings: Settings,
    numbers: Sequence[int],
    on_epoch: Callable[[], object],
    split_pca: SplitPCA | None,
    tiling: Tiling,
    watch: Callable[[Progress], object] | None,
) -> list[Run]:
    """As `train_runs`, of one run or of runs whose heads are stacked."""
    seeds = [seeds_of(settings.seed, number) for number in numbers]
    splits = [draw_split(len(pairs), settings.test_split, seed) for seed, _ in seeds]
    train, test, pcas = _stacked(pairs, splits, split_pca)
    recorder = Recorder(numbers, train.left.device, watch)

    def after_epoch(heads: HeadStack, learned: Metrics) -> None:
        recorder.add(learned, evaluate(heads, test, settings, tiling))
        on_epoch()

    heads, optimiser = _learn(train, settings, [seed for _, seed in seeds], tiling, after_epoch)
    recorder.flush()
    frozen = {name: values.tolist() for name, values in evaluate(nn.Identity(), test, settings, tiling).items()}
    _check_finite([*recorder.train, *recorder.test, {"Loss": frozen["Loss"]}], settings)
    return [
        Run(
            train=recorder.train[run],
            test=recorder.test[run],
            frozen={name: values[run] for name, values in frozen.items()},
            number=number,
            split=splits[run],
            head=(head := heads.unstacked(run)),
            optimiser=heads.unstacked_adam(optimiser, head, run),
            pca=pcas[run],
        )
        for run, number in enumerate(numbers)
    ]


def train_final(
    pairs: Pairs,
    settings: Settings,
    number: int = 0,
    on_epoch: Callable[[], object] = lambda: None,
    split_pca: SplitPCA | None = None,
    tiling: Tiling | None = None,
) -> Final:
    """Train one head on all of `pairs`, as run `number` is trained on its training pairs, and test nothing.

    Runs have the numbers 1, 2, ...; 0 is of the head that is kept. On the training pairs of run n the head of number n
    is that of run n. The arguments and the InputError are those of `train_runs`.
    """
    reduced, pca = split_pca(pairs, torch.arange(len(pairs))) if split_pca else (pairs, None)
    losses: list[Tensor] = []

    def after_epoch(_: HeadStack, learned: Metrics) -> None:
        losses.append(learned["Loss"])
        on_epoch()

    seeds = [seeds_of(settings.seed, number)[1]]
    heads, _ = _learn(stack([reduced]), settings, seeds, tiling or Tiling(), after_epoch)
    loss: list[float] = torch.cat(losses).tolist()  # in one transfer
    _check_finite([{"Loss": loss}], settings)
    return Final(heads.unstacked(0), pca, loss)


def _learn(
    train: Stack,
    settings: Settings,
    seeds: Sequence[int],
    tiling: Tiling,
    after_epoch: Callable[[HeadStack, Metrics], object],
) -> tuple[HeadStack, torch.optim.Adam | None]:
    """Train a head of each of the `seeds` on the pairs of its run; `after_epoch` gets the heads, in evaluation, and
    what `train_epoch` returned."""
    device = train.left.device
    heads = HeadStack([build_head(settings.head, train.left.shape[-1], seed) for seed in seeds], device)
    weights = [weight for weight in heads.weights.values() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE) if weights else None
    orders = [np.random.default_rng(seed) for seed in seeds]
    with _seeded(seeds[0], device):
        for _ in range(settings.steps):
            learned = train_epoch(heads, optimiser, train, settings, tiling, orders)
            heads.train(False)
            after_epoch(heads, learned)
    return heads, optimiser


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Let Dropout and the like draw from the seed of the head's weights; torch's own generators stay as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed + 1)
        yield


def _stacked(
    pairs: Pairs, splits: Sequence[Split], split_pca: SplitPCA | None
) -> tuple[Stack, Stack, list[PCA | None]]:
    """The train and the test pairs of all runs, and the PCA of each; of the test pairs the original view alone."""
    train: list[Pairs] = []
    test: list[Pairs] = []
    pcas: list[PCA | None] = []
    for split in splits:
        own, pca = split_pca(pairs, split.train) if split_pca else (pairs, None)
        train.append(own.subset(split.train))
        test.append(Pairs(own.left[:1], own.right[:1], own.names).subset(split.test))
        pcas.append(pca)
    return stack(train), stack(test), pcas


def train_epoch(
    heads: HeadStack,
    optimiser: torch.optim.Adam | None,
    train: Stack,
    settings: Settings,
    tiling: Tiling,
    orders: Sequence[np.random.Generator],
) -> Metrics:
    """One step on each batch of the train pairs, which is one on all of them when there is no batch size.

    Returns for each run the loss, averaged over views and pairs, and the original view's metrics, where the gallery of
    a pair is its batch. `orders` draws each run's batches.
    """
    heads.train(True)
    losses, ranks = [], []
    for batch in batches(train, settings.batch_size, orders):
        loss, ranked = _step(heads, optimiser, batch, settings, tiling)
        losses.append(loss * (len(batch) / len(train)))
        ranks.append(ranked)
    directions = [torch.cat(parts, dim=-1) for parts in zip(*ranks, strict=True)]
    return {"Loss": torch.stack(losses).sum(0), **retrieval_metrics(directions, settings.ks)}


def _step(
    heads: HeadStack, optimiser: torch.optim.Adam | None, batch: Stack, settings: Settings, tiling: Tiling
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step of Adam; the loss (R,) before it and the ranks (R, N) of the original view.

    The views go one after the other, so that the activations of one alone are held.
    """
    seen, loss = [], find_loss(settings.loss, settings.code)
    if optimiser is not None:
        optimiser.zero_grad()
    for view, (left, right) in enumerate(zip(batch.left, batch.right, strict=True)):
        with torch.set_grad_enabled(optimiser is not None):
            left, right = (_embeddings(heads, side, settings.precision) for side in (left, right))
            contrasted = contrast(left, right, loss, settings.temperature, tiling, ranked=view == 0)
        if optimiser is not None:
            (contrasted.loss.sum() / len(batch.left)).backward()  # type: ignore[no-untyped-call]
        seen.append(contrasted)
    if optimiser is not None:
        optimiser.step()
    return torch.stack([each.loss.detach() for each in seen]).mean(0), seen[0].ranks


def _embeddings(heads: HeadStack, side: Tensor, precision: str) -> Tensor:
    """The embeddings (R, N, E) float32 of a side (R, N, D)."""
    with torch.autocast(side.device.type, torch.bfloat16, enabled=precision == "bf16"):
        embeddings = heads(side)
    return embeddings.float()


@torch.no_grad()
@tf32(False)
def evaluate(heads: Callable[[Tensor], Tensor], test: Stack, settings: Settings, tiling: Tiling) -> Metrics:
    """Loss and metrics (R,) of the original view of `test`, whose pairs are each other's gallery; always in fp32."""
    exact = replace(tiling, factors=None)
    left, right = heads(test.left[0]), heads(test.right[0])
    contrasted = contrast(left, right, find_loss(settings.loss, settings.code), settings.temperature, exact)
    return {"Loss": contrasted.loss, **retrieval_metrics(contrasted.ranks, settings.ks)}


def _check_finite(curves: Sequence[Curves], settings: Settings) -> None:
    if not all(math.isfinite(value) for each in curves for value in each["Loss"]):
        scale = f"a temperature (-t) of {settings.temperature:g}"
        raise InputError(f"the loss is not finite at {scale}; give a smaller one")
