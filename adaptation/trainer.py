"""The epochs of a run: one full-batch step each, as in the paper. Nothing here prints or writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adaptation.heads import build_head
from adaptation.losses import contrastive_loss, cosine_similarities
from adaptation.metrics import retrieval_metrics
from adaptation.pairs import Pairs
from adaptation.reduction import Reduction
from adaptation.splits import Split, draw_split, seeds_of
from common.errors import InputError

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

LEARNING_RATE = 1e-3

Metrics = dict[str, Tensor]
Curves = dict[str, list[float]]


@dataclass(frozen=True)
class Settings:
    """What a run is made of; the defaults are the paper's."""

    head: str = "original"
    epochs: int = 150
    temperature: float = 1.0
    test_split: float = 0.25
    ks: tuple[int, ...] = (1, 3)
    seed: int = 0

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
    optimiser: torch.optim.Optimizer | None
    pca: PCA | None = None

    def scores(self) -> Scores:
        """The numbers alone, to keep when the run is written."""
        return Scores(train=self.train, test=self.test, frozen=self.frozen)


def train_run(
    pairs: Pairs,
    settings: Settings,
    number: int,
    on_epoch: Callable[[], object] = lambda: None,
    reduction: Reduction | None = None,
) -> Run:
    """Trains and tests one run on the device of `pairs`, or on that of a `reduction`, which is fitted on the run's
    training pairs first. The same seed and number give the same run.

    InputError when the temperature takes the loss beyond what a float32 can hold.
    """
    split_seed, head_seed = seeds_of(settings.seed, number)
    split = draw_split(len(pairs), settings.test_split, split_seed)
    pairs, pca = reduction(pairs, split.train) if reduction else (pairs, None)
    train, test = pairs.subset(split.train), pairs.subset(split.test)
    head = build_head(settings.head, pairs.left.shape[-1], head_seed).to(pairs.left.device)
    weights = list(head.parameters())
    optimiser = torch.optim.Adam(weights, lr=LEARNING_RATE) if weights else None
    run = Run(number, split, head, optimiser, pca)
    seen: list[tuple[Metrics, Metrics]] = []
    for _ in range(settings.steps):
        learned = train_epoch(head, optimiser, train, settings)
        seen.append((learned, evaluate(head, test, settings)))
        on_epoch()
    run.train, run.test = (_curves([epoch[side] for epoch in seen]) for side in (0, 1))
    run.frozen = {name: value.item() for name, value in evaluate(nn.Identity(), test, settings).items()}
    if not all(map(math.isfinite, [*run.train["Loss"], *run.test["Loss"], run.frozen["Loss"]])):
        raise InputError(f"the loss is no finite number at -t {settings.temperature:g}; give a smaller temperature")
    return run


def train_epoch(head: nn.Module, optimiser: torch.optim.Optimizer | None, train: Pairs, settings: Settings) -> Metrics:
    """One step on all train pairs; returns the loss (averaged over the views) and the original view's metrics."""
    with torch.set_grad_enabled(optimiser is not None):
        by_view = [
            cosine_similarities(head(left), head(right)) for left, right in zip(train.left, train.right, strict=True)
        ]
        loss = torch.stack([contrastive_loss(similarities, settings.temperature) for similarities in by_view]).mean()
    if optimiser is not None:
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _metrics(by_view[0].detach(), loss.detach(), settings.ks)


@torch.no_grad()
def evaluate(head: nn.Module, pairs: Pairs, settings: Settings) -> Metrics:
    """Loss and metrics of the original view of `pairs`, which are each other's gallery."""
    similarities = cosine_similarities(head(pairs.left[0]), head(pairs.right[0]))
    return _metrics(similarities, contrastive_loss(similarities, settings.temperature), settings.ks)


def _metrics(similarities: Tensor, loss: Tensor, ks: Sequence[int]) -> Metrics:
    return {"Loss": loss, **retrieval_metrics(similarities, ks)}


def _curves(epochs: Sequence[Metrics]) -> Curves:
    """A list of dicts of scalars -> a dict of lists; they leave the device together, at the end of the run."""
    return {name: torch.stack([epoch[name] for epoch in epochs]).tolist() for name in epochs[0]}
