"""The small networks that are learned on top of frozen features. One head serves both sides of a pair."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

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


class HeadStack:
    """The heads of R runs as one: their weights are stacked, so that one batched product serves all of them."""

    def __init__(self, heads: Sequence[nn.Module], device: torch.device) -> None:
        self.heads = list(heads)
        named = [dict(head.named_parameters()) for head in heads]
        self.weights = {
            name: torch.stack([weights[name].detach() for weights in named]).to(device).requires_grad_()
            for name in named[0]
        }

    def __call__(self, x: Tensor) -> Tensor:
        """The embeddings (R, N, E) of vectors (R, N, D), each run's by its own head."""
        if len(self.heads) == 1:
            return self._one({name: weight[0] for name, weight in self.weights.items()}, x[0])[None]
        embeddings: Tensor = torch.vmap(self._one)(self.weights, x)
        return embeddings

    def _one(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        embeddings: Tensor = functional_call(self.heads[0], weights, (x,))
        return embeddings

    def unstacked(self, run: int) -> nn.Module:
        """The head of one run, on the device of the stack, with the weights that it has now."""
        head = copy.deepcopy(self.heads[run])
        for name, weight in head.named_parameters():
            weight.data = self.weights[name].detach()[run].clone()
        return head
