"""The features of pairs, laid out for training: views x pairs x numbers."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError, listed, printable
from common.files import check_whole, read_facts, sha256
from common.names import read_names, select
from common.resources import available_memory
from featuresExtractor.embeddings import CHUNK_BYTES, Embeddings, open_features, read_pairs

COPIES = 3  # of a features file that are held for a moment when it is read, or laid out

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """Reads a features file; with `subset` only the pairs that a CSV names. InputError where none can be trained on, or
    where the file is not the one that the `.json` beside it tells of.

    Names of the CSV that the file does not have are an InputError too, or with `skip` left out and told on stderr.
    """
    check_whole(path, read_facts(path))
    pairs = by_view(read_pairs(path), path)
    return pairs if subset is None else pairs.subset(torch.tensor(_chosen(pairs.names, path, subset, skip)))


def _chosen(names: list[tuple[str, str]], path: Path, subset: Path, skip: bool) -> list[int]:
    """The indices of the pairs that a CSV names."""
    chosen, missing = select([left for left, _ in names], read_names(subset), subset)
    if missing:
        told = f"{subset}: {len(missing):,} of its names are not in {printable(str(path))}"
        if not skip:
            raise InputError(f"{told}: {listed(missing)}; --on-error skip leaves them out")
        print(f"{told} and are left out: {listed(missing)}", file=sys.stderr)
    return chosen


@dataclass(frozen=True)
class Survey:
    """What is known of a features file that was looked through: the sorted names of its N pairs after `--subset`, its
    V views, the D numbers a side, the file's SHA-256, and the indices that a subset chose among all its pairs."""

    path: Path
    names: list[tuple[str, str]]
    views: int
    width: int
    sha256: str
    chosen: list[int] | None = None

    def load(self) -> Pairs:
        """The pairs; InputError when the file is no longer the one that was looked through."""
        if sha256(self.path) != self.sha256:
            raise InputError(f"{printable(str(self.path))}: was changed while it was worked on; start again")
        pairs = by_view(read_pairs(self.path), self.path)
        return pairs if self.chosen is None else pairs.subset(torch.tensor(self.chosen))


def survey(path: Path, subset: Path | None = None, skip: bool = False) -> Survey:
    """Looks through a features file as a memory map: what `load_pairs` refuses is refused, and little is held."""
    _check_room(path)
    digest = check_whole(path, read_facts(path))
    embeddings = _mapped(path)
    names, rows = _laid_out(embeddings, path)
    _check_finite(embeddings, path)
    chosen = None if subset is None else _chosen(names, path, subset, skip)
    kept = names if chosen is None else [names[index] for index in chosen]
    return Survey(path, kept, len(rows), embeddings.left.shape[1], digest, chosen)


def _check_room(path: Path) -> None:
    """InputError for a file that is larger than the memory, before any of it is read. (A file of holes can claim any
    size.)"""
    size = COPIES * path.stat().st_size if path.is_file() else 0
    if size > (free := available_memory()):
        told = f"takes {size / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free"
        raise InputError(f"{printable(str(path))}: {told}; extract fewer numbers a picture (-p adapt-pca N)")


def _mapped(path: Path) -> Embeddings:
    """A features file of pairs as a memory map; the field's old file is read whole."""
    try:
        rows = open_features(path)
    except InputError:
        return read_pairs(path)  # an old file, or the same error
    if rows.sides != ("left", "right"):
        return read_pairs(path)  # which says what is wrong with it
    table = rows.all()
    names = list(zip(table["left_name"].tolist(), table["right_name"].tolist(), strict=True))
    return Embeddings(table["left"], table["right"], names, np.array(table["view"]))


def by_view(embeddings: Embeddings, path: Path) -> Pairs:
    """Puts the views of each pair under one another, by name."""
    names, rows = _laid_out(embeddings, path)
    _check_finite(embeddings, path)
    left, right = (torch.from_numpy(side[rows]) for side in (embeddings.left, embeddings.right))  # V N D
    return Pairs(left, right, names)


def _laid_out(embeddings: Embeddings, path: Path) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The sorted names of the N pairs, and the row of each in each view: (V, N)."""
    if not embeddings.left.size:
        raise InputError(f"{path}: holds no pairs, or no numbers for them; extract it again")
    views = [_rows_by_name(embeddings, view, path) for view in sorted({0, *embeddings.view.tolist()})]
    if any(rows.keys() != views[0].keys() for rows in views):
        raise InputError(f"{path}: its views do not hold the same pairs; extract it again")
    names = sorted(views[0])
    return names, np.array([[view[name] for name in names] for view in views])


def _check_finite(embeddings: Embeddings, path: Path) -> None:
    """InputError when a value is none; looked at in chunks, since a memory map is not to be held whole."""
    step = max(1, CHUNK_BYTES // embeddings.left[0].nbytes)
    for side in (embeddings.left, embeddings.right):
        if not all(np.isfinite(side[row : row + step]).all() for row in range(0, len(side), step)):
            raise InputError(f"{path}: holds values that are not finite numbers; extract it again")


def _rows_by_name(embeddings: Embeddings, view: int, path: Path) -> dict[tuple[str, str], int]:
    """The row of each pair in one view."""
    rows = np.flatnonzero(embeddings.view == view).tolist()
    names = [embeddings.names[row] for row in rows]
    found = dict(zip(names, rows, strict=True))
    if len(found) < len(names):
        twice = [" / ".join(name) for name, count in Counter(names).items() if count > 1]
        raise InputError(f"{path}: pairs that stand in it twice: {listed(twice)}; extract it again")
    return found
