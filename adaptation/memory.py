"""How many runs go side by side, and whether their similarities are kept: what the memory allows.

Nothing of this changes a number beyond rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from adaptation.heads import build_head, embedding_width
from adaptation.tiled_loss import TILE, Tiling
from common.machine.device import free_memory
from common.machine.gpu import occupancy
from common.machine.resources import require_memory

FLOAT = 4  # bytes
COPIES = 10  # of the embeddings of both sides and of what is computed from them, at the worst moment of a step
HEAD_COPIES = 8  # of its weights: gradients, Adam's moments, and what a step computes
MATRICES = 8  # (N, N) that a loss without tiles holds: similarities, logits, what autograd keeps, and gradients
SHARE = 0.5  # of the free memory, when nothing is said
GIB = 2**30
ADVICE = "--memory allows more, --batch-size takes fewer pairs at a time"


@dataclass(frozen=True)
class Size:
    """What the memory of a run depends on: V views, pairs to train on and to test on, at most `batch` pairs in a step,
    D dimensions, E numbers of an embedding, the numbers of a head, and whether the loss works in `tiles`."""

    views: int
    trained: int
    tested: int
    batch: int
    width: int
    embedding: int
    weights: int
    tiles: bool = True

    @property
    def gallery(self) -> int:
        """The most pairs that are compared at once."""
        return max(self.batch, self.tested)

    @property
    def matrix(self) -> int:
        """Bytes of the similarities that tiles can do without."""
        return FLOAT * self.gallery**2 if self.tiles else 0

    def least(self, tiling: Tiling) -> int:
        """Bytes of a run whose similarities are computed again: features, embeddings, tiles or all of the matrices that
        a loss without tiles holds, and the head."""
        features = 2 * (self.views * self.trained + self.tested) * self.width
        rows = 3 * tiling.height(1, self.gallery) if self.tiles else MATRICES * self.gallery
        return FLOAT * (
            features + COPIES * self.gallery * self.embedding + rows * self.gallery + HEAD_COPIES * self.weights
        )


@dataclass(frozen=True)
class Layout:
    """The runs that go side by side, and how their similarities are worked through."""

    runs: int
    tiling: Tiling


def head_sizes(head: str, width: int) -> tuple[int, int]:
    """Numbers of an embedding that a head makes of `width` numbers, and numbers of its weights."""
    weights = sum(weight.numel() for weight in build_head(head, width, 0).parameters())
    return embedding_width(head, width), weights


def tile_numbers(device: torch.device) -> int:
    """Return the numbers of a tile: on a GPU what half of its cache holds, since two are at work; on a CPU what was
    measured."""
    if device.type != "cuda":
        return TILE
    cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)  # bytes; torch has it since 2.1
    return cache // (2 * FLOAT) or TILE


def lay_out(
    size: Size,
    runs: int,
    device: torch.device,
    bound: float | None = None,
    bf16: bool = False,
    advice: str = ADVICE,
) -> Layout:
    """What fits into `bound` bytes, by default a share of what is free on `device`.

    On a CPU one run after the other is fastest: a single run keeps all cores busy. InputError when not even one fits;
    `advice` says what to do.
    """
    bound, factors = bound or SHARE * free_memory(device), torch.bfloat16 if bf16 else None
    kept = Tiling(factors=factors, numbers=tile_numbers(device))
    again = replace(kept, keep=False)
    least = size.least(again)
    if least > bound:
        advice += occupancy(device)
    require_memory(least, bound, f"training on {size.trained:,} pairs takes some", advice)
    if least + size.matrix > bound:
        return Layout(1, again)
    at_once = int(bound // (least + size.matrix)) if device.type == "cuda" else 1
    return Layout(min(runs, at_once), kept)
