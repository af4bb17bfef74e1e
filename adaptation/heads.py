"""The small networks that are learned on top of frozen features. One head serves both sides of a pair."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 1024  # of the paper's head


class Original(nn.Sequential):
    """The paper's head: ReLU(W x), W of 1024 x D without bias, torch's default initialisation. (N, D) -> (N, 1024)."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, WIDTH, bias=False), nn.ReLU())


class Peterson(nn.Module):
    """One weight a dimension: x * ReLU(w), w = 1 at first. (N, D) -> (N, D).

    After Peterson, Abbott and Griffiths, "Evaluating (and improving) the correspondence between deep neural networks
    and human representations", Cognitive Science 42, 2018.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return x * self.weight.relu()


class Dummy(nn.Identity):
    """The frozen features themselves; nothing to train."""

    def __init__(self, features: int) -> None:
        super().__init__()


HEADS: dict[str, type[Original] | type[Peterson] | type[Dummy]] = {
    "original": Original,
    "peterson": Peterson,
    "dummy": Dummy,
}


def build_head(name: str, features: int, seed: int) -> nn.Module:
    """The head `name` for D = `features`, its weights drawn on the CPU from `seed` alone: the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HEADS[name](features)
