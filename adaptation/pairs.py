"""The features of pairs, laid out for training: views x pairs x numbers."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError, listed
from common.names import read_names, select
from featuresExtractor.embeddings import Embeddings, read_pairs


@dataclass(frozen=True)
class Pairs:
    """`left` and `right` are (V, N, D) float32: V views (the original first, then the flipped one if there is one) of N
    pairs; `names` has the N pairs' file names, sorted, so that a split depends on the pairs and not on their order."""

    left: Tensor
    right: Tensor
    names: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: Tensor) -> Pairs:
        """The pairs at `indices`."""
        names = [self.names[index] for index in indices.tolist()]
        indices = indices.to(self.left.device)
        return Pairs(self.left[:, indices], self.right[:, indices], names)

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on `device`."""
        return Pairs(self.left.to(device), self.right.to(device), self.names)


def load_pairs(path: Path, subset: Path | None = None, skip: bool = False) -> Pairs:
    """Reads a features file; with `subset` only the pairs that a CSV names. InputError where none can be trained on.

    Names of the CSV that the file does not have are an InputError too, or with `skip` left out and told on stderr.
    """
    pairs = by_view(read_pairs(path), path)
    if subset is None:
        return pairs
    chosen, missing = select([left for left, _ in pairs.names], read_names(subset), subset)
    if missing:
        told = f"{subset}: {len(missing):,} of its names are not in {path}"
        if not skip:
            raise InputError(f"{told}: {listed(missing)}; --on-error skip leaves them out")
        print(f"{told} and are left out: {listed(missing)}", file=sys.stderr)
    return pairs.subset(torch.tensor(chosen))


def by_view(embeddings: Embeddings, path: Path) -> Pairs:
    """Puts the views of each pair under one another, by name."""
    if not embeddings.left.size:
        raise InputError(f"{path}: holds no pairs, or no numbers for them; extract it again")
    views = [_rows_by_name(embeddings, view, path) for view in sorted({0, *embeddings.view.tolist()})]
    if any(rows.keys() != views[0].keys() for rows in views):
        raise InputError(f"{path}: its views do not hold the same pairs; extract it again")
    names = sorted(views[0])
    rows = np.array([[view[name] for name in names] for view in views])  # V N
    left, right = (torch.from_numpy(side[rows]) for side in (embeddings.left, embeddings.right))  # V N D
    if not (left.isfinite().all() and right.isfinite().all()):
        raise InputError(f"{path}: holds values that are not finite numbers; extract it again")
    return Pairs(left, right, names)


def _rows_by_name(embeddings: Embeddings, view: int, path: Path) -> dict[tuple[str, str], int]:
    """The row of each pair in one view."""
    rows = np.flatnonzero(embeddings.view == view).tolist()
    names = [embeddings.names[row] for row in rows]
    found = dict(zip(names, rows, strict=True))
    if len(found) < len(names):
        twice = [" / ".join(name) for name, count in Counter(names).items() if count > 1]
        raise InputError(f"{path}: pairs that stand in it twice: {listed(twice)}; extract it again")
    return found
