"""The small networks that are learned on top of frozen features. One head serves both sides of a pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adaptation.extensions import find, tried
from common.errors import InputError

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


HEADS: dict[str, Callable[[int], nn.Module]] = {
    "original": Original,
    "peterson": Peterson,
    "dummy": Dummy,
}


def build_head(name: str, features: int, seed: int) -> nn.Module:
    """Return the head `name`, or that of an address `FILE.py:CLASS`, for D = `features`; its weights are drawn on the
    CPU from `seed` alone: the same on every device. InputError for an unknown one, and for one that cannot be built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = tried(name, lambda: find(name, HEADS, "head")(features))
    if not isinstance(head, nn.Module):
        raise InputError(f"{name}: gives {type(head).__name__}, not a torch.nn.Module")
    return head


@torch.no_grad()
def embedding_width(name: str, features: int) -> int:
    """Return E of the embeddings (N, E) that the head `name` makes of features (N, D); InputError for anything else,
    and for a head whose state is more than tensors, since that could not be kept."""
    vectors, head = torch.ones(3, features), build_head(name, features, 0).eval()
    embeddings = tried(name, lambda: head(vectors))
    if odd := [key for key, value in head.state_dict().items() if not isinstance(value, Tensor)]:
        raise InputError(f"{name}: its state has '{odd[0]}', which is no tensor; make it a buffer")
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or len(embeddings) != 3:
        shape = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise InputError(f"{name}: makes {shape} of features (3, {features}); embeddings (3, E) are expected")
    return embeddings.shape[1]


def is_stackable(name: str, features: int) -> bool:
    """Return whether one batched product can serve the heads of several runs: not where they have buffers, as BatchNorm
    has, or weights that are not trained, or draw random numbers, as Dropout does."""
    heads = [build_head(name, features, 0) for _ in range(2)]
    if any(not tensor.requires_grad for tensor in (*heads[0].parameters(), *heads[0].buffers())):
        return False
    try:
        HeadStack(heads, torch.device("cpu"))(torch.zeros(2, 3, features))
    except RuntimeError:  # of vmap
        return False
    return True


class HeadStack:
    """The heads of R runs, which may be one. Those of several are one: their weights are stacked, so that one batched
    product serves all of them."""

    def __init__(self, heads: Sequence[nn.Module], device: torch.device) -> None:
        self.heads = [head.to(device) for head in heads]
        named = [dict(head.named_parameters()) for head in heads]
        self.weights: dict[str, Tensor] = dict(named[0])
        if len(heads) > 1:
            self.weights = {
                name: torch.stack([weights[name].detach() for weights in named]).requires_grad_() for name in named[0]
            }

    def __call__(self, x: Tensor) -> Tensor:
        """The embeddings (R, N, E) of vectors (R, N, D), each run's by its own head."""
        if len(self.heads) == 1:
            embeddings: Tensor = self.heads[0](x[0])
            return embeddings[None]
        stacked: Tensor = torch.vmap(self._one, randomness="error")(self.weights, x)
        return stacked

    def _one(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        embeddings: Tensor = functional_call(self.heads[0], weights, (x,))
        return embeddings

    def train(self, mode: bool) -> None:
        """Set all heads to training, or to evaluation, in which Dropout and BatchNorm do something else."""
        for head in self.heads:
            head.train(mode)

    def unstacked(self, run: int) -> nn.Module:
        """Return the head of one run, on the device of the stack, with the weights that it has now."""
        head = self.heads[run]
        if len(self.heads) > 1:
            for name, weight in head.named_parameters():
                weight.data = self.weights[name].detach()[run].clone()
        return head

    def unstacked_adam(self, stacked: torch.optim.Adam | None, head: nn.Module, run: int) -> torch.optim.Adam | None:
        """Return an optimiser for the `head` of one run, as far as that of the stack has come."""
        if stacked is None or len(self.heads) == 1:
            return stacked
        own = torch.optim.Adam(head.parameters(), lr=stacked.param_groups[0]["lr"])
        for name, weight in head.named_parameters():
            state = stacked.state[self.weights[name]]
            own.state[weight] = {
                key: value[run].clone() if value.ndim else value.clone() for key, value in state.items()
            }
        return own
