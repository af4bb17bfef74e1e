"""The features of pairs, laid out for training: views x pairs x numbers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError, listed, printable
from common.machine.resources import available_memory, require_memory
from common.names.lists import choose
from common.record import check_whole, read_record
from common.storage.files import sha256
from featuresExtractor.features.pairing.layout import Layout, lay_out
from featuresExtractor.features.reader import open_pairs
from featuresExtractor.features.table import Table
from featuresExtractor.features.values import check_values

logger = logging.getLogger(__name__)

COPIES = 3  # of a features file that are held for a moment when it is read, or laid out
FLOAT = 4  # bytes


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


def load_pairs(path: str | os.PathLike[str], subset: str | os.PathLike[str] | None = None, skip: bool = False) -> Pairs:
    """Reads a features file; with `subset` only the pairs that a CSV names. InputError where none can be trained on, or
    where the file is not the one that the `.json` beside it tells of.

    Names of the CSV that the file does not have are an InputError too, or with `skip` left out and message on stderr.
    """
    path = Path(path)
    check_whole(path, read_record(path))
    given = open_pairs(path)
    layout, warnings = _laid_out(given, path)
    _tell([*given.notes, *layout.notes, *warnings])
    pairs = _gathered(given, layout)
    return pairs if subset is None else pairs.subset(torch.tensor(_chosen(pairs.names, path, Path(subset), skip)))


def _chosen(names: list[tuple[str, str]], path: Path, subset: Path, skip: bool) -> list[int]:
    """The indices of the pairs that a CSV names."""
    choice = choose([left for left, _ in names], subset)
    for note in choice.notes:
        logger.warning(printable(note))
    if choice.missing:
        message = f"{subset}: {len(choice.missing):,} of its names are not in {printable(str(path))}"
        listing = f"{listed(choice.missing)} ({choice.reason})"
        if not skip:
            raise InputError(f"{message}: {listing}; --on-error skip leaves them out")
        logger.warning(f"{message} and are left out: {listing}")
    return choice.indices


@dataclass(frozen=True)
class Survey:
    """What is known of a features file that was looked through: the sorted names of its N pairs after `--subset`, its
    V views, the D dimensions, the file's SHA-256, and the indices that a subset chose among all its pairs. Two
    plain arrays (`--paired`) are `path` and `right`, and have a SHA-256 each."""

    path: Path
    names: list[tuple[str, str]]
    views: int
    width: int
    sha256: str
    chosen: list[int] | None = None
    right: Path | None = None

    def load(self) -> Pairs:
        """The pairs; InputError when the file is no longer the one that was looked through."""
        paths = [self.path] if self.right is None else [self.path, self.right]
        if " ".join(map(sha256, paths)) != self.sha256:
            raise InputError(f"{printable(str(self.path))}: was changed while it was worked on; start again")
        pairs = by_view(open_pairs(self.path, self.right), self.path)
        return pairs if self.chosen is None else pairs.subset(torch.tensor(self.chosen))


def survey(path: Path, subset: Path | None = None, skip: bool = False, right: Path | None = None) -> Survey:
    """Looks through a features file as a memory map: what `load_pairs` refuses is refused, and little is held. What is
    odd about it is said on stderr, this once."""
    paths = [path] if right is None else [path, right]
    _check_memory(path, sum(file.stat().st_size for file in paths if file.is_file()))
    digest = " ".join(check_whole(file, read_record(file)) for file in paths)
    given = open_pairs(path, right)
    _check_memory(path, FLOAT * (given.left.size + given.right.size))
    layout, warnings = _laid_out(given, path)
    _tell([*given.notes, *layout.notes, *warnings])
    chosen = None if subset is None else _chosen(layout.names, path, subset, skip)
    kept = layout.names if chosen is None else [layout.names[index] for index in chosen]
    return Survey(path, kept, len(layout.left), given.left.shape[1], digest, chosen, right)


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        logger.warning(printable(note))


def _check_memory(path: Path, size: int) -> None:
    """OutOfMemory for a file that is larger than the memory, before any of it is read. (A file of holes can claim any
    size.)"""
    what, advice = f"{printable(str(path))}: takes", "extract fewer dimensions (-p adapt-pca N)"
    require_memory(COPIES * size, available_memory(), what, advice)


def by_view(given: Table, path: Path) -> Pairs:
    """Puts the views of each pair under one another, and partners side by side, by name."""
    return _gathered(given, _laid_out(given, path)[0])


def _laid_out(given: Table, path: Path) -> tuple[Layout, list[str]]:
    """Where the pairs are, and what their values are to be warned of."""
    layout = lay_out(given, path)
    return layout, check_values(given, layout, path)


def _gathered(given: Table, layout: Layout) -> Pairs:
    """The rows in order: only these are copied of a memory map, and each side by its own rows."""
    left = torch.from_numpy(np.asarray(given.left[layout.left], np.float32))  # V N D
    right = torch.from_numpy(np.asarray(given.right[layout.right], np.float32))
    return Pairs(left, right, layout.names)
