"""Approximate search by faiss: its recall, its order, and what it does with small galleries."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from adaptation.similarity import index as module
from adaptation.similarity.index import search_faiss
from adaptation.similarity.search import exact_scores, search
from common.errors import InputError, OutOfMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images make an index, tiles are small, and faiss, without which nothing here is tested, is installed."""
    pytest.importorskip("faiss")
    for name, value in {"LEAST": 2000, "ROWS": 700, "QUERIES": 50}.items():
        monkeypatch.setattr(module, name, value)


def clustered(count: int, seed: int) -> Vectors:
    """Vectors of unit length, loosely around 40 centres."""
    centres = np.random.default_rng(0).standard_normal((40, 32))
    generator = np.random.default_rng(seed)
    rows = centres[generator.integers(0, 40, count)] + 1.2 * generator.standard_normal((count, 32))
    vectors: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def true_recall(found: NDArray[np.int64], queries: Vectors, gallery: Vectors, k: int) -> float:
    order = np.argsort(-(queries.astype(np.float64) @ gallery.T), axis=1)[:, :k]
    return float(np.mean([len({*a} & {*b}) / k for a, b in zip(found.tolist(), order.tolist(), strict=True)]))


def test_recall_is_that_against_numpy() -> None:
    queries, gallery = clustered(80, 1), clustered(4000, 2)
    found = search_faiss(queries, gallery, 10)
    assert (found.name, found.sample) == ("IVF63,SQ8", 80)
    assert found.recall == pytest.approx(true_recall(found.neighbours.indices, queries, gallery, 10))
    assert 0.8 < found.recall < 1


def test_recall_is_measured_on_a_hundred_queries_spread_evenly() -> None:
    queries, gallery = clustered(298, 1), clustered(4000, 2)
    found = search_faiss(queries, gallery, 10)
    assert found.sample == 100
    sampled = found.neighbours.indices[::3]
    assert found.recall == pytest.approx(true_recall(sampled, queries[::3], gallery, 10), abs=0.01)


def test_scores_are_exact_best_first_and_each_row_comes_once() -> None:
    gallery = np.concatenate([clustered(2000, 2)] * 2)
    queries = gallery[:60]
    found = search_faiss(queries, gallery, 10).neighbours
    chosen = np.repeat(np.arange(60), 10)
    scores = exact_scores(queries, gallery, chosen, found.indices.ravel()).reshape(60, 10)
    np.testing.assert_array_equal(found.scores, scores)
    pairs = zip(found.scores.tolist(), found.indices.tolist(), strict=True)
    for row in ([(-score, place) for score, place in zip(*pair, strict=True)] for pair in pairs):
        assert row == sorted(set(row))
    np.testing.assert_array_equal(found.indices[:, :2], np.stack([np.arange(60), np.arange(60) + 2000], axis=1))


def test_seed_decides() -> None:
    queries, gallery = clustered(80, 1), clustered(4000, 2)
    first, again, other = (search_faiss(queries, gallery, 10, seed=seed).neighbours.indices for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_lists_with_fewer_than_k_are_made_up_for_exactly() -> None:
    queries, gallery = clustered(5, 1), clustered(2000, 2)
    found, exact = search_faiss(queries, gallery, 1500), search(queries, gallery, 1500, CPU)
    np.testing.assert_array_equal(found.neighbours.indices, exact.indices)
    np.testing.assert_array_equal(found.neighbours.scores, exact.scores)
    assert found.recall == 1


def test_small_gallery_is_searched_exactly(caplog: pytest.LogCaptureFixture) -> None:
    queries, gallery = clustered(7, 1), clustered(1999, 2)
    with caplog.at_level(logging.INFO):
        found = search_faiss(queries, gallery, 10)
    np.testing.assert_array_equal(found.neighbours.indices, search(queries, gallery, 10, CPU).indices)
    assert (found.recall, found.sample, found.name) == (1.0, 7, "Flat")
    assert caplog.messages == ["the gallery has 1,999 images, fewer than 2,000: searched exactly, with no index"]


def test_memory_map_is_searched_and_no_queries_find_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "gallery.npy", clustered(4000, 2))
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    queries = clustered(20, 1)
    expected = search_faiss(queries, np.array(gallery), 10).neighbours.indices
    np.testing.assert_array_equal(search_faiss(queries, gallery, 10).neighbours.indices, expected)
    assert search_faiss(queries[:0], gallery, 10).neighbours.indices.shape == (0, 10)


def test_wrong_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = clustered(3, 1), clustered(2000, 2)
    with pytest.raises(InputError, match=r"^k 2001: the gallery has 2,000 images; k from 1 to 2,000 is possible$"):
        search_faiss(queries, gallery, 2001)
    for row in (0, 1234, 1999):
        wrong = gallery.copy()
        wrong[row, 3] = np.nan
        with pytest.raises(InputError, match=rf"^gallery row {row:,} \(from 0\): NaN or infinity; "):
            search_faiss(queries, wrong, 3)
    monkeypatch.setattr(module, "available_memory", lambda: 2.0**15)
    with pytest.raises(
        OutOfMemory, match=r"^the index of the gallery takes .* GiB of memory, .*; search a smaller one"
    ):
        search_faiss(queries, gallery, 3)


def test_faiss_that_is_missing_is_named() -> None:
    program = """
import sys
sys.modules["faiss"] = None
import numpy as np
from adaptation.similarity.index import search_faiss
from common.errors import InputError
try:
    search_faiss(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1)
except InputError as error:
    print(error)
"""
    done: Any = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("an index needs faiss (")
    assert done.stdout.endswith("): pip install -r requirements-faiss.txt\n")
