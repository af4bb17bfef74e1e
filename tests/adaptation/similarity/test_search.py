"""Exact search beside numpy's sort of float64 scores and beside faiss, in tiles of any size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from adaptation.similarity import search as module
from adaptation.similarity.search import Neighbours, exact_scores, ranks_of, search
from common.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def unit(rows: NDArray[Any]) -> Vectors:
    vectors: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def drawn(count: int, width: int = 48, seed: int = 0) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, width)))


def with_duplicates() -> Vectors:
    """A gallery of 900 rows: each of the first 300 comes again, exactly, and again with its last bits changed."""
    rows = drawn(300)
    nearly = np.nextafter(rows, np.random.default_rng(1).choice([-1, 1], rows.shape).astype(np.float32))
    return np.concatenate([rows, nearly, rows])


def expected(queries: Vectors, gallery: Vectors, k: int) -> Neighbours:
    """The order of scores in float64, rounded once; numpy's stable sort keeps the lower index first."""
    scores = np.stack([(query.astype(np.float64) * gallery).sum(axis=1) for query in queries]).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Neighbours(order, np.take_along_axis(scores, order, axis=1))


def assert_same(actual: Neighbours, other: Neighbours) -> None:
    np.testing.assert_array_equal(actual.indices, other.indices)
    np.testing.assert_array_equal(actual.scores, other.scores)
    assert [str(values.dtype) for values in (actual.indices, actual.scores)] == ["int64", "float32"]


@pytest.mark.parametrize("k", [1, 10, 900])
def test_order_is_that_of_float64_with_ties_to_the_lower_index(k: int) -> None:
    gallery = with_duplicates()
    queries = np.concatenate([drawn(20, seed=2), gallery[:20]])
    assert_same(search(queries, gallery, k, CPU), expected(queries, gallery, k))


SIZES = [
    {"ROWS": 1},
    {"ROWS": 7},
    {"ROWS": 250, "PAIRS": 3},
    {"SCORES": 100},
    {"FEW": 100},
    {"FEW": 100, "ROWS": 7},
    {"QUERIES": 3, "SETTLED": 5},
    {"KEPT": 1},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_size_of_tiles_changes_nothing(sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, targets = with_duplicates(), np.random.default_rng(3).integers(0, 900, (40, 3))
    queries = np.concatenate([drawn(20, seed=2), gallery[:20]])
    found, ranks = search(queries, gallery, 10, CPU), ranks_of(queries, gallery, targets, CPU)
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    assert_same(search(queries, gallery, 10, CPU), found)
    np.testing.assert_array_equal(ranks_of(queries, gallery, targets, CPU), ranks)


def test_queries_one_at_a_time_and_one_thread_find_the_same() -> None:
    gallery = np.concatenate([with_duplicates()[:, :40]] * 3)
    queries = gallery[:30]
    together, threads = search(queries, gallery, 25, CPU), torch.get_num_threads()
    for number in range(len(queries)):
        alone = search(queries[number : number + 1], gallery, 25, CPU)
        assert_same(alone, Neighbours(together.indices[[number]], together.scores[[number]]))
    torch.set_num_threads(1)
    assert_same(search(queries, gallery, 25, CPU), together)
    torch.set_num_threads(threads)


def test_gallery_of_one_image_many_times_is_found_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 100)
    gallery = np.repeat(drawn(1), 1000, axis=0)
    found = search(gallery[:3], gallery, 5, CPU)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(5), (3, 1)))
    targets = np.array([[0, 999], [500, 1], [2, 3]])
    np.testing.assert_array_equal(ranks_of(gallery[:3], gallery, targets, CPU), targets + 1)


def test_rows_that_only_rounding_separates_are_settled() -> None:
    """With float32 alone, sums of 2,000 products would decide by their order."""
    gallery = np.repeat(drawn(1, 2000), 64, axis=0)
    gallery[1::2, 0] = np.nextafter(gallery[1::2, 0], np.float32(2))
    queries = drawn(5, 2000, seed=4)
    assert_same(search(queries, gallery, 64, CPU), expected(queries, gallery, 64))


def test_products_in_float32_are_within_the_margin() -> None:
    for width in (8, 512, 4096):
        queries, gallery = np.abs(drawn(50, width)), np.abs(drawn(400, width, seed=1))
        error = np.abs(queries @ gallery.T - queries.astype(np.float64) @ gallery.astype(np.float64).T)
        assert error.max() < module._margin(width)


def test_neighbours_are_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    queries, gallery = drawn(50, 64, seed=5), drawn(20_000, 64, seed=6)
    index = faiss.IndexFlatIP(64)
    index.add(gallery)
    scores, indices = index.search(queries, 10)
    found = search(queries, gallery, 10, CPU)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)


def test_ranks_are_the_places_in_the_search() -> None:
    gallery = with_duplicates()
    queries = np.concatenate([drawn(10, seed=7), gallery[290:300]])
    found = search(queries, gallery, 900, CPU)
    ranks = ranks_of(queries, gallery, found.indices, CPU)
    np.testing.assert_array_equal(ranks, np.tile(np.arange(1, 901), (20, 1)))


@pytest.mark.gpu
def test_gpu_finds_the_same() -> None:
    gallery, gpu = with_duplicates(), torch.device("cuda")
    queries = np.concatenate([drawn(20, seed=2), gallery[:20]])
    found = search(queries, gallery, 10, CPU)
    assert_same(search(queries, gallery, 10, gpu), found)
    np.testing.assert_array_equal(
        ranks_of(queries, gallery, found.indices, gpu), ranks_of(queries, gallery, found.indices, CPU)
    )


# ---- galleries of any layout


def test_memory_map_strides_and_other_types_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, queries = drawn(500), drawn(5, seed=8)
    found = search(queries, gallery, 10, CPU)
    np.save(tmp_path / "gallery.npy", gallery)
    assert_same(search(queries, np.load(tmp_path / "gallery.npy", mmap_mode="r"), 10, CPU), found)
    rows = np.zeros(500, [("name", "S3"), ("vector", np.float32, 48)])
    rows["vector"] = gallery
    rows.tofile(tmp_path / "rows")
    mapped: Any = np.memmap(tmp_path / "rows", rows.dtype, "r")
    assert_same(search(queries, mapped["vector"], 10, CPU), found)
    monkeypatch.setattr(module, "VALUES", 480)
    assert_same(search(queries, mapped["vector"], 10, CPU), found)
    halves: Any = gallery.astype(np.float16)
    assert_same(search(queries, halves, 10, CPU), expected(queries, halves, 10))


BOUNDED = """
import resource, sys
import numpy as np, torch
from adaptation.similarity.search import ranks_of, search
gallery = np.memmap(sys.argv[1], np.float32, "r", shape=(2**17, 1024))
queries = np.eye(1024, dtype=np.float32)[[0, 0, 1]]
def run(rows):
    found = search(queries, rows, 10, torch.device("cpu"))
    assert (found.indices == np.arange(10)).all(), found
    assert (ranks_of(queries, rows, found.indices[:, :2], torch.device("cpu")) == [1, 2]).all()
run(gallery[:2**14])
with open("/proc/self/status") as file:
    used = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**27, resource.RLIM_INFINITY))
run(gallery)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits what a process allocates as Linux does")
def test_gallery_larger_than_the_memory_that_is_left_is_searched(tmp_path: Path) -> None:
    """A file of 512 MiB, nearly all of it a hole, in a process that may allocate 128 MiB more."""
    gallery = np.memmap(tmp_path / "gallery", np.float32, "w+", shape=(2**17, 1024))
    gallery[:10, :2] = 0.5**0.5
    gallery.flush()
    subprocess.run([sys.executable, "-c", BOUNDED, str(tmp_path / "gallery")], cwd=ROOT, check=True)
    (tmp_path / "gallery").unlink()


def test_no_queries_find_nothing() -> None:
    none, gallery = drawn(5)[:0], drawn(20)
    assert search(none, gallery, 3, CPU).indices.shape == (0, 3)
    assert ranks_of(none, gallery, np.empty((0, 2), np.int64), CPU).shape == (0, 2)
    assert ranks_of(drawn(5), gallery, np.empty((5, 0), np.int64), CPU).shape == (5, 0)


def test_rows_are_shown_as_progress(capsys: pytest.CaptureFixture[str]) -> None:
    search(drawn(5), drawn(1234), 3, CPU)
    assert capsys.readouterr().err == ""  # it takes no time
    search(drawn(5), drawn(12345), 3, CPU)
    assert "12345/12345" in capsys.readouterr().err


# ---- wrong input


@pytest.mark.parametrize("k", [0, 13, -1])
def test_k_that_the_gallery_lacks_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=f"^k {k}: the gallery has 12 images; k from 1 to 12 is possible$"):
        search(drawn(2), drawn(12), k, CPU)


def test_empty_gallery_and_another_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"^k 1: the gallery has 0 images; add some$"):
        search(drawn(2), drawn(2)[:0], 1, CPU)
    with pytest.raises(InputError, match=r"^the queries have 7 dimensions, and the gallery has 8; embed both with the"):
        search(drawn(2, 7), drawn(2, 8), 1, CPU)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 3, 39])
@pytest.mark.parametrize("few", [1, 100])
def test_values_that_are_not_finite_are_refused(
    value: float, row: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(module, "FEW", few)
    queries, gallery = np.eye(48, dtype=np.float32), drawn(40)  # most products of a value with a query are with 0
    wrong = gallery.copy()
    wrong[row, 5] = value
    targets = np.zeros((48, 1), np.int64)
    for call in (lambda: search(queries, wrong, 2, CPU), lambda: ranks_of(queries, wrong, targets, CPU)):
        with pytest.raises(
            InputError, match=rf"^gallery row {row} \(from 0\): NaN or infinity; embed this image again$"
        ):
            call()
    with pytest.raises(InputError, match=rf"^query {row} \(from 0\): NaN or infinity; embed this image again$"):
        search(wrong, gallery, 2, CPU)


def test_target_outside_the_gallery_is_refused() -> None:
    for target in (-1, 20):
        with pytest.raises(InputError, match=rf"^targets from {target} to {target}: the gallery has rows 0 to 19$"):
            ranks_of(drawn(1), drawn(20), np.array([[target]]), CPU)


def test_scores_of_pairs_are_rounded_once() -> None:
    queries, gallery = drawn(3), drawn(9, seed=1)
    actual = exact_scores(queries, gallery, np.array([2, 0]), np.array([8, 1]))
    sums = [(queries[q].astype(np.float64) * gallery[row]).sum() for q, row in ((2, 8), (0, 1))]
    np.testing.assert_array_equal(actual, np.array(sums, np.float32))


def test_single_rows_of_a_features_file_are_read(tmp_path: Path) -> None:
    row = np.dtype([("features", "<f4", (6,)), ("name", "U3"), ("view", "u1")])  # of an odd number of bytes
    table = np.zeros(1, row)
    table["features"] = drawn(1, 6)
    np.save(tmp_path / "rows.npy", table)
    vectors = np.load(tmp_path / "rows.npy", mmap_mode="r")["features"]
    found = search(vectors, vectors, 1, torch.device("cpu"))
    assert found.indices.tolist() == [[0]]
    assert ranks_of(vectors, vectors, np.zeros((1, 1), np.int64), torch.device("cpu")).tolist() == [[1]]
