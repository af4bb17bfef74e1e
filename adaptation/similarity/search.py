"""Exact search: the most similar of a gallery for each query, in tiles of bounded memory.

Products in float32 find the candidates, with a margin for their rounding; float64 settles them. So the results depend
neither on the size of a tile, nor on the device, nor on the other queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.machine.device import tf32
from common.progress import Bar, progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Numbers = NDArray[np.int64]

ROWS = 2**18  # of the gallery at a time; larger tiles wait less often for the threads of a product
VALUES = 2**26  # of a tile that is copied, to a device or to another layout: 256 MiB
FEW = 16  # queries; on a CPU torch's products were measured to be faster for few, and numpy's for many
SCORES = 2**24  # of a tile: 64 MiB
QUERIES = 2**12  # in one pass over the gallery
KEPT = 2**22  # neighbours that one pass keeps
PAIRS = 2**16  # of a query and a row that are settled together
SHOWN = 10_000  # rows that a bar is shown from
SETTLED = 2**20  # float64 values at a time; they stay in the cache


@dataclass(frozen=True)
class Neighbours:
    """For each of Q queries the k most similar of a gallery, best first: `indices` (Q, k) int64 and the cosines
    `scores` (Q, k) float32. Of equal scores the lower index comes first."""

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


def search(queries: Vectors, gallery: Vectors, k: int, device: torch.device) -> Neighbours:
    """Return the k most similar rows of `gallery` (N, E) for each row of `queries` (Q, E); both have unit length.

    The gallery may be a memory map that is larger than the memory. The scores are rounded once, from float64. A gallery
    with very many equal rows takes longer. InputError for a k that the gallery does not have, for other widths, and for
    values that are not finite.
    """
    check(queries, gallery, k)
    found = Neighbours(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    for part, tiles in _passes(queries, gallery, min(QUERIES, max(1, KEPT // k)), device):
        best = _Best(queries[part], gallery, k)
        for start, scores in tiles:
            best.add(start, scores)
        found.indices[part], found.scores[part] = best.sorted()
    return found


def ranks_of(queries: Vectors, gallery: Vectors, targets: NDArray[np.int64], device: torch.device) -> NDArray[np.int64]:
    """Return the rank (Q, T), from 1, that each of the gallery's rows `targets` (Q, T) has for its query, in the order
    of `search`. InputError as there, and for a target outside the gallery."""
    check(queries, gallery)
    if targets.size and not 0 <= targets.min() <= targets.max() < len(gallery):
        raise InputError(
            f"targets from {targets.min()} to {targets.max()}: the gallery has rows 0 to {len(gallery) - 1}"
        )
    ranks = np.ones(targets.shape, np.int64)
    for part, tiles in _passes(queries, gallery, QUERIES, device):
        columns = [_Ahead(queries[part], gallery, rows) for rows in targets[part].T]
        for start, scores in tiles:
            for column, ahead in enumerate(columns):
                ranks[part, column] += ahead.count(start, scores)
    return ranks


def check(queries: Vectors, gallery: Vectors, k: int = 1) -> None:
    """InputError for a k that the gallery does not have, for vectors of two widths, and for queries with NaNs."""
    if not 1 <= k <= len(gallery):
        allowed = f"k from 1 to {len(gallery):,} is possible" if len(gallery) else "add some"
        raise InputError(f"k {k}: the gallery has {len(gallery):,} images; {allowed}")
    if queries.shape[1] != gallery.shape[1]:
        raise InputError(
            f"the queries have {queries.shape[1]:,} dimensions, and the gallery has {gallery.shape[1]:,}; "
            "embed both with the same similarity"
        )
    check_finite(queries, "query", range(len(queries)))


def check_finite(vectors: Vectors, what: str, numbers: Sequence[int] | Numbers) -> None:
    """InputError for `vectors` (N, E) with a NaN or infinity, which names the first by `what` and its number."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise InputError(f"{what} {numbers[int(finite.argmin())]:,} (from 0): NaN or infinity; embed this image again")


def exact_scores(queries: Vectors, gallery: Vectors, chosen: Numbers, rows: Numbers) -> NDArray[np.float32]:
    """Return the cosines (P,) of pairs of the `chosen` queries (P,) and `rows` of the gallery (P,): sums in float64,
    each in the same order, rounded once. Equal rows have equal scores. InputError for rows that are not finite."""
    scores = np.empty(len(rows), np.float32)
    step = max(1, SETTLED // queries.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found = gallery[rows[part]]
        check_finite(found, "gallery row", rows[part])
        scores[part] = np.multiply(queries[chosen[part]], found, dtype=np.float64).sum(axis=1)
    return scores


def _margin(width: int) -> float:
    """The most by which a product of unit vectors in float32 differs from that in float64, whatever the order of its
    sum (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), with a little for thresholds."""
    return 1.01 * (width + 4) * 2.0**-24


# ---- tiles


def _passes(
    queries: Vectors, gallery: Vectors, most: int, device: torch.device
) -> Iterator[tuple[slice, Iterator[tuple[int, Tensor]]]]:
    """Up to `most` queries at a time, and the tiles of their scores."""
    parts = [slice(start, min(start + most, len(queries))) for start in range(0, len(queries), most)]
    rows = len(gallery) * len(parts)
    with progress(rows, "search", "rows", disable=rows < SHOWN) as bar, tf32(False):
        for part in parts:
            yield part, _tiles(queries[part], gallery, device, bar)


def _tiles(queries: Vectors, gallery: Vectors, device: torch.device, bar: Bar) -> Iterator[tuple[int, Tensor]]:
    """The first row of each tile of the gallery, and its scores (rows, queries), which the next tile overwrites."""
    count, width = queries.shape
    viewed = device.type == "cpu" and gallery.dtype == np.float32 and gallery.flags.c_contiguous
    most = ROWS if viewed else min(ROWS, VALUES // max(1, width))
    step = max(1, min(most, SCORES // count))
    product = _Product(queries, min(step, len(gallery)), device)
    for start in range(0, len(gallery), step):
        rows = np.ascontiguousarray(gallery[start : start + step], np.float32)
        scores = product(rows)
        if not bool(scores[:, 0].isfinite().all()):  # a NaN in a row is in all of its scores
            check_finite(rows, "gallery row", range(start, start + len(rows)))
        yield start, scores
        bar.update(len(rows))


class _Product:
    """The scores of rows for queries."""

    def __init__(self, queries: Vectors, rows: int, device: torch.device) -> None:
        self.queries = np.ascontiguousarray(queries, np.float32)
        self.factor = _tensor(self.queries).to(device).T
        self.scores = torch.empty(rows, len(queries), device=device)
        self.by_numpy = device.type == "cpu" and len(queries) > FEW

    def __call__(self, rows: Vectors) -> Tensor:
        out = self.scores[: len(rows)]
        if self.by_numpy:
            with np.errstate(invalid="ignore"):  # an infinity is refused with its row
                np.matmul(rows, self.queries.T, out=out.numpy())
            return out
        return torch.matmul(_tensor(rows).to(out.device), self.factor, out=out)


def _tensor(values: Vectors) -> Tensor:
    """The values themselves, to be read alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it could write to a map that is read
        return torch.from_numpy(values.reshape(-1).reshape(values.shape))  # a single row keeps strides of its file


def _where(scores: Tensor, least: Vectors) -> tuple[Numbers, Numbers]:
    """The rows and queries of the scores that are at least `least` (Q,), by rows. (On a CPU numpy finds few among many
    faster than torch, above all where other programs are at work.)"""
    if scores.device.type == "cpu":
        mask = scores.numpy() >= least
    else:
        mask = (scores >= torch.from_numpy(least).to(scores.device)).cpu().numpy()
    rows, queries = np.divmod(np.flatnonzero(mask), scores.shape[1])
    return rows, queries


# ---- what is found


class _Best:
    """The best k rows for each query, of the tiles that were added in order."""

    def __init__(self, queries: Vectors, gallery: Vectors, k: int) -> None:
        self.queries, self.gallery, self.k = queries, gallery, k
        self.margin = _margin(gallery.shape[1])
        none = np.empty(0, np.int64)
        self.found = [(none, none, np.empty(0, np.float32))]  # queries, rows, scores: the best, then newer ones
        self.worst = np.full(len(queries), -np.inf, np.float32)  # the k-th best score; below it no row is wanted
        self.newer = 0

    def add(self, start: int, scores: Tensor) -> None:
        """Take in a tile of scores (rows, queries) whose first row is `start`."""
        rows, chosen = _where(scores, self._least(scores))
        rows += start
        for first in range(0, len(rows), PAIRS):
            self._settle(chosen[first : first + PAIRS], rows[first : first + PAIRS])

    def _least(self, scores: Tensor) -> Vectors:
        """What a score in float32 must have (Q,) to be one of the best k."""
        least = self.worst - self.margin
        if np.isinf(least).any() and len(scores) >= self.k:
            in_tile = torch.topk(scores, self.k, dim=0).values[-1].cpu().numpy() - 2 * self.margin
            least = np.maximum(least, in_tile)
        return least.astype(np.float32)

    def _settle(self, chosen: Numbers, rows: Numbers) -> None:
        """Keep the pairs that are better than the worst so far: of equal ones, those before come first."""
        scores = exact_scores(self.queries, self.gallery, chosen, rows)
        better = scores > self.worst[chosen]
        self.found.append((chosen[better], rows[better], scores[better]))
        self.newer += int(better.sum())
        if self.newer >= len(self.queries) * self.k:
            self._merge()

    def _merge(self) -> None:
        """Keep the best k of each query."""
        chosen, rows, scores = (np.concatenate(column) for column in zip(*self.found, strict=True))
        order = np.lexsort((rows, -scores, chosen))
        first = np.searchsorted(chosen[order], np.arange(len(self.queries)))
        place = np.arange(len(order)) - first[chosen[order]]
        kept = order[place < self.k]
        self.found, self.newer = [(chosen[kept], rows[kept], scores[kept])], 0
        full = order[place == self.k - 1]
        self.worst[chosen[full]] = scores[full]

    def sorted(self) -> tuple[Numbers, Vectors]:
        """Return the rows and scores (Q, k), best first."""
        self._merge()
        _, rows, scores = self.found[0]
        return rows.reshape(-1, self.k), scores.reshape(-1, self.k)


class _Ahead:
    """Counts the rows that come before a target (Q,) of each query."""

    def __init__(self, queries: Vectors, gallery: Vectors, targets: Numbers) -> None:
        self.queries, self.gallery, self.targets = queries, gallery, targets
        self.scores = exact_scores(queries, gallery, np.arange(len(queries)), targets)
        margin = _margin(gallery.shape[1])
        self.least, self.most = ((self.scores + sign * margin).astype(np.float32) for sign in (-1, 1))

    def count(self, start: int, scores: Tensor) -> Numbers:
        """Return how many rows (Q,) of a tile of scores come before the target."""
        surely = scores > torch.from_numpy(self.most).to(scores.device)
        above: Numbers = surely.sum(dim=0).cpu().numpy()
        rows, chosen = _where(scores.masked_fill(surely, -np.inf), self.least)
        rows += start
        for first in range(0, len(rows), PAIRS):
            near = slice(first, first + PAIRS)
            ahead = chosen[near][self._before(chosen[near], rows[near])]
            above += np.bincount(ahead, minlength=len(above))
        return above

    def _before(self, chosen: Numbers, rows: Numbers) -> NDArray[np.bool_]:
        scores, own = exact_scores(self.queries, self.gallery, chosen, rows), self.scores[chosen]
        before: NDArray[np.bool_] = (scores > own) | ((scores == own) & (rows < self.targets[chosen]))
        return before
