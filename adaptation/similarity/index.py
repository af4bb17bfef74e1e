"""Approximate search in large galleries by faiss, an optional package, with its recall measured.

The index is built for one search: with 100,000 x 1,024 on two cores it took less time than exact search from some
3,500 queries on.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adaptation.similarity.others import search_others
from adaptation.similarity.search import Neighbours, check, check_finite, exact_scores, search
from common.errors import InputError
from common.machine.resources import available_memory, require_memory
from common.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Rows = NDArray[np.int64]

LEAST = 10_000  # images; exact search in fewer takes less time than the training of an index
TRAINED = 64  # vectors a list that the lists are found from; faiss warns below 39
PROBED = 8  # of that many lists one is searched: recall@10 .96 of 100,000 clustered vectors; .88 with 16, .99 with 4
WIDER = 4  # times k candidates are scored again, since the index rounds vectors to 8 bits a dimension
ROWS = 2**14  # that are added at a time
QUERIES = 2**10  # that are asked at a time
SAMPLE = 100  # queries that the recall is measured on, at most
EXACT = "Flat"  # faiss' name of an index that is none
CPU = torch.device("cpu")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Approximate:
    """What an index found: `neighbours` with exact scores; `recall`, the mean share of the true k nearest that it found
    for `sample` of the queries; and `name`, faiss' name of the index."""

    neighbours: Neighbours
    recall: float
    sample: int
    name: str


def search_faiss(queries: Vectors, gallery: Vectors, k: int, own: Rows | None = None, seed: int = 0) -> Approximate:
    """Return nearly the k most similar rows of `gallery` (N, E) for each row of `queries` (Q, E), of unit length.

    The index is an inverted file of about sqrt(N) lists, found by k-means from a sample that `seed` draws, with a byte
    a dimension. What it finds is scored again and ordered as by `search`. A gallery of fewer than 10,000 images is
    searched exactly. The row `own` (Q,) of a query in the gallery, -1 where it is not there, does not count.
    InputError as by `search`, without faiss, and for a gallery whose index exceeds the memory.
    """
    faiss = load_faiss()
    check(queries, gallery, k)
    own = np.full(len(queries), -1) if own is None else own
    if len(gallery) < LEAST:
        logger.info(f"the gallery has {len(gallery):,} images, fewer than {LEAST:,}: searched exactly, with no index")
        neighbours = search_others(queries, gallery, k, CPU, own)
        return Approximate(neighbours, 1.0, min(SAMPLE, len(queries)), EXACT)
    name = f"IVF{round(math.sqrt(len(gallery)))},SQ8"
    index = _built(faiss, name, gallery, seed)
    neighbours = search_others(queries, gallery, k, CPU, own, partial(_searched, index))
    sample = np.unique(np.linspace(0, max(0, len(queries) - 1), min(SAMPLE, len(queries))).astype(np.int64))
    exact = search_others(queries[sample], gallery, k, CPU, own[sample]).indices
    return Approximate(neighbours, _recall(neighbours.indices[sample], exact), len(sample), name)


def load_faiss() -> Any:
    """Return the module faiss; InputError where it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(f"an index needs faiss ({error}): pip install -r requirements-faiss.txt") from error
    return faiss


def _built(faiss: Any, name: str, gallery: Vectors, seed: int) -> Any:
    """The index of a gallery, of which a tile is read at a time."""
    count, width = gallery.shape
    index = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
    sampled = min(count, TRAINED * index.nlist)
    needed = count * (width + 8) + 2 * sampled * width * 4
    require_memory(needed, available_memory(), "the index of the gallery takes", "search a smaller one, or exactly")
    rows = np.sort(np.random.default_rng(seed).choice(count, sampled, replace=False))
    trained = np.ascontiguousarray(gallery[rows], np.float32)
    check_finite(trained, "gallery row", rows)
    index.cp.seed, index.cp.max_points_per_centroid = 1 + seed, TRAINED
    index.train(trained)
    _fill(index, gallery)
    index.nprobe = max(1, round(index.nlist / PROBED))
    return index


def _fill(index: Any, gallery: Vectors) -> None:
    with progress(len(gallery), "index", "rows") as bar:
        for start in range(0, len(gallery), ROWS):
            rows = np.ascontiguousarray(gallery[start : start + ROWS], np.float32)
            check_finite(rows, "gallery row", range(start, start + len(rows)))
            index.add(rows)
            bar.update(len(rows))


def _searched(index: Any, queries: Vectors, gallery: Vectors, k: int) -> Neighbours:
    """What an index finds, by exact scores; queries for which its lists held fewer than k are searched exactly."""
    found = Neighbours(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
    for start in range(0, len(queries), QUERIES):
        part = slice(start, start + QUERIES)
        some = np.ascontiguousarray(queries[part], np.float32)
        _, rows = index.search(some, min(WIDER * k, len(gallery)))
        found.indices[part], found.scores[part] = _ordered(some, gallery, rows, k)
    few = np.flatnonzero((found.indices < 0).any(axis=1))
    if len(few):
        exact = search(queries[few], gallery, k, CPU)
        found.indices[few], found.scores[few] = exact.indices, exact.scores
    return found


def _ordered(queries: Vectors, gallery: Vectors, rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.int64], Vectors]:
    """The best k (Q, k) of candidates `rows` (Q, C), in which -1 stands for none and comes last."""
    chosen, place = np.nonzero(rows >= 0)
    scores = np.full(rows.shape, -np.inf, np.float32)
    scores[chosen, place] = exact_scores(queries, gallery, chosen, rows[chosen, place])
    order = np.lexsort((rows, -scores))[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The mean share of each row of `exact` that is in the same row of `found`; 1 without rows."""
    shares = [len(np.intersect1d(*pair)) / len(pair[1]) for pair in zip(found, exact, strict=True)]
    return float(np.mean(shares)) if shares else 1.0
