"""A PCA for each run, fitted on its training pairs alone: what is tested on has no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptation.data.pairs import Pairs
from common.errors import InputError, printable
from featuresExtractor.features.features_file import CHUNK_BYTES
from featuresExtractor.pca import Projection, fit_pca

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

    from featuresExtractor.features.features_file import Features


@dataclass(frozen=True)
class SplitPCA:
    """Reduces pairs to `components` dimensions, computed on `device`, where the reduced pairs then are."""

    components: int
    device: torch.device

    def __call__(self, pairs: Pairs, train: Tensor) -> tuple[Pairs, PCA]:
        """Fits on both sides and all views of the pairs at the indices `train`, and projects all: (V, N, D) float32 to
        (V, N, components). The large ones are read in chunks and may stay on the CPU."""
        width = pairs.left.shape[-1]
        pca = fit_pca(_vectors(pairs, train), width, self.components, self.device)
        project = Projection(pca, self.device)
        left, right = (self._projected(side, project) for side in (pairs.left, pairs.right))
        return Pairs(left, right, pairs.names), pca

    def _projected(self, side: Tensor, project: Projection) -> Tensor:
        """(V, N, D) -> (V, N, components); what was computed without autograd is copied to where autograd works."""
        reduced = torch.empty(*side.shape[:2], self.components)
        for view, rows in _chunks(side, torch.arange(side.shape[1])):
            reduced[view, rows] = torch.from_numpy(project(side[view, rows].numpy()))
        return reduced.to(self.device)


def _vectors(pairs: Pairs, train: Tensor) -> Iterator[Features]:
    """The vectors of both sides and all views of the pairs at the indices `train`, chunk by chunk: (n, D)."""
    for side in (pairs.left, pairs.right):
        yield from (side[view, rows].numpy() for view, rows in _chunks(side, train))


def _chunks(side: Tensor, pairs: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each view with the indices `pairs`, some 64 MB of vectors at a time."""
    step = max(1, CHUNK_BYTES // (4 * side.shape[-1]))
    for view in range(len(side)):
        yield from ((view, pairs[start : start + step]) for start in range(0, len(pairs), step))


def check_components(components: int, path: Path, views: int, trained: int, width: int) -> None:
    """InputError when the training pairs of a run have no `components` principal components."""
    vectors = 2 * views * trained
    if components > (most := min(vectors, width)):
        raise InputError(
            f"--components {components:,}: {printable(str(path))} has {vectors:,} vectors of {width:,} numbers in the "
            f"{trained:,} training pairs of a run; 1 to {most:,} are possible"
        )
