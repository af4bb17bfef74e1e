"""Measure exact search beside faiss' exact index."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adaptation.similarity import search as ours
from benchmarks.table import Row, median_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

QUERIES = (1, 10, 100, 1000)
K = 10
STEP = 10_000  # vectors that are drawn at a time


@dataclass(frozen=True)
class Sizes:
    """What is searched: `gallery` vectors of `width` dimensions. (A million take 8 GiB: faiss copies them.)"""

    gallery: int = 100_000
    width: int = 1024


def measure(sizes: Sizes, device: torch.device, repeats: int) -> list[Row]:
    """Return a row for each number of queries, beside `IndexFlatIP.search`, whose copy of the gallery is not counted;
    no rows where faiss is missing."""
    if find_spec("faiss") is None:
        print("skipped: search (faiss is missing: pip install -r requirements-faiss.txt)", file=sys.stderr)
        return []
    check_same(device)
    gallery = unit_vectors(sizes.gallery, sizes.width, 0)
    index = _index(gallery)
    return [_row(unit_vectors(count, sizes.width, 1), gallery, index, device, repeats) for count in QUERIES]


def _row(queries: Vectors, gallery: Vectors, index: Any, device: torch.device, repeats: int) -> Row:
    k = min(K, len(gallery))
    seconds = median_seconds(
        {"faiss": lambda: index.search(queries, k), "ours": lambda: ours.search(queries, gallery, k, device)}, repeats
    )
    size = f"{len(queries):,} in {len(gallery):,} x {gallery.shape[1]:,}"
    return Row(f"search, {size}, beside IndexFlatIP", "s", seconds["faiss"], seconds["ours"], None, 1.0)


def unit_vectors(count: int, width: int, seed: int) -> Vectors:
    """Return random vectors (count, width) of unit length."""
    vectors, generator = np.empty((count, width), np.float32), np.random.default_rng(seed)
    for start in range(0, count, STEP):
        some = generator.standard_normal(vectors[start : start + STEP].shape, np.float32)
        vectors[start : start + STEP] = some / np.linalg.norm(some, axis=1, keepdims=True)
    return vectors


def _index(gallery: Vectors) -> Any:
    import faiss

    index = faiss.IndexFlatIP(gallery.shape[1])
    for start in range(0, len(gallery), STEP):
        index.add(gallery[start : start + STEP])
    return index


def check_same(device: torch.device) -> None:
    """End the benchmark when the neighbours are others than faiss'."""
    queries, gallery = unit_vectors(50, 64, 1), unit_vectors(5000, 64, 0)
    _, expected = _index(gallery).search(queries, K)
    same = float((ours.search(queries, gallery, K, device).indices == expected).mean())
    if same < 1:
        sys.exit(f"the neighbours differ from faiss': {1 - same:.2%} of them")
