"""A features file -> principal components: seconds, and the memory that it takes."""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.table import Row, median_seconds
from featuresExtractor.eigen import leading_eigenpairs
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, open_features, row_type
from featuresExtractor.pca import Moments, Projection, fit_pca

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

SAME = 1e-5  # the largest sine between the subspace found and numpy's
MEMORY = 1.5e9  # bytes over the imports


@dataclass(frozen=True)
class Sizes:
    """What is reduced: vectors of a width, to components. The defaults are those of TLL_obj."""

    vectors: int = 16796
    width: int = 5440
    components: int = 256


def measure(sizes: Sizes, device: torch.device, repeats: int) -> list[Row]:
    """Rows for the fit and the projection, beside scikit-learn's default and its exact solver, and for the memory."""
    check_same(device)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "features.npy"
        write_features(path, sizes)
        vectors = np.concatenate(list(_vectors(path)))
        seconds = _fits(path, vectors, sizes, device, repeats)
        solved = _eigenpairs(vectors, sizes, device, max(3, repeats))
        passes = _projections(path, vectors, sizes, device)
        del vectors
        taken = peak(path, sizes, device)
    size = f"{sizes.vectors:,} x {sizes.width:,} -> {sizes.components}"
    return [
        Row(f"PCA, {size}, beside the default (not exact)", "s", seconds["default"], seconds["ours"], seconds["limit"]),
        Row(f"PCA, {size}, beside covariance_eigh", "s", seconds["exact"], seconds["ours"], seconds["limit"], 1.0),
        Row("PCA, of it reading", "s", None, seconds["reading"]),
        Row("PCA, of it reading and covariance", "s", None, seconds["covariance"], seconds["limit"]),
        Row(f"eigenpairs, {sizes.width:,} -> {sizes.components}", "s", solved["library"], solved["ours"], None, 1.0),
        Row(f"projection, {size}", "s", passes["plain"], passes["ours"], passes["limit"]),
        Row("PCA, memory over the imports", "GB", None, taken / 1e9, MEMORY / 1e9, None, 1.0),
    ]


def _fits(path: Path, vectors: Matrix, sizes: Sizes, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds of the ways to fit."""
    return median_seconds(
        {
            "default": lambda: plain.fit_pca(vectors, sizes.components),
            "exact": lambda: plain.fit_pca(vectors, sizes.components, "covariance_eigh"),
            "ours": lambda: fit_pca(_vectors(path), sizes.width, sizes.components, device),
            "limit": lambda: _products(vectors, device),
            "reading": lambda: sum(len(chunk) for chunk in _vectors(path)),
            "covariance": lambda: _covariance(_vectors(path), sizes.width, device).cpu(),
        },
        repeats,
    )


def _eigenpairs(vectors: Matrix, sizes: Sizes, device: torch.device, repeats: int) -> dict[str, float]:
    """Seconds for the leading eigenpairs of the covariance: ours beside the fastest exact way of a library."""
    matrix = _covariance([vectors], sizes.width, device)
    return median_seconds(
        {
            "library": lambda: _largest(matrix, sizes.components),
            "ours": lambda: leading_eigenpairs(matrix, sizes.components)[0].cpu(),
        },
        repeats,
    )


@torch.inference_mode()
def _covariance(chunks: Iterable[Matrix], width: int, device: torch.device) -> Tensor:
    moments = Moments(width, device)
    for chunk in chunks:
        moments.add(torch.from_numpy(chunk))
    return moments.covariance()


def _largest(matrix: Tensor, count: int) -> None:
    """Compute the largest eigenpairs: on a CPU only those, by scipy; on a GPU all of them."""
    if matrix.device.type == "cpu":
        width = len(matrix)
        scipy.linalg.eigh(matrix.numpy(), subset_by_index=[width - count, width - 1], check_finite=False)
    else:
        torch.linalg.eigh(matrix)[0].cpu()


def _projections(path: Path, vectors: Matrix, sizes: Sizes, device: torch.device) -> dict[str, float]:
    """Seconds to project all vectors by a PCA of some of them; the limit is a copy of the vectors."""
    some = vectors[: 2 * sizes.components]
    fitted = plain.fit_pca(some, sizes.components)
    project = Projection(fit_pca([some], sizes.width, sizes.components, device), device)
    return median_seconds(
        {
            "plain": lambda: fitted.transform(vectors),
            "ours": lambda: [project(chunk) for chunk in _vectors(path)],
            "limit": vectors.copy,
        },
        3,
    )


def write_features(path: Path, sizes: Sizes) -> None:
    """A features file of pairs whose variances fall off as those of features do."""
    row, generator = row_type(("left", "right"), sizes.width, 9), np.random.default_rng(0)
    scale = (np.arange(1, sizes.width + 1) ** -0.5).astype(np.float32)
    items, step = sizes.vectors // 2, 1000
    with FeaturesWriter(path, row, items) as writer:
        for start in range(0, items, step):
            names = [(f"{number:05d}.jpg",) * 2 for number in range(start, min(start + step, items))]
            numbers = generator.standard_normal((len(names), 2, sizes.width), dtype=np.float32) * scale + 1
            writer.put(start, [make_rows(row, names, numbers, 0)])


def _vectors(path: Path) -> Iterator[Matrix]:
    for chunk in open_features(path).chunks():
        yield from (chunk["left"].copy(), chunk["right"].copy())


def _products(vectors: Matrix, device: torch.device) -> None:
    """The least products that a covariance takes: half of all, since it is symmetric."""
    moments = Moments(vectors.shape[1], device)
    rows = torch.from_numpy(vectors).to(device)
    for block in moments.blocks:
        rows[:, block].T @ rows[:, : block.stop]
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(path: Path, sizes: Sizes, device: torch.device) -> float:
    """Bytes that a fit takes in a process of its own, over what the imports take."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (path, sizes, device))


def _peak(path: Path, sizes: Sizes, device: torch.device) -> float:
    torch.linalg.eigh(torch.eye(8, dtype=torch.float64, device=device))  # loads what the first call loads
    before = _most()
    fit_pca(_vectors(path), sizes.width, sizes.components, device)
    return _most() - before


def _most() -> float:
    """The most bytes that this process has had. (Linux counts those of the process that started it among them, but for
    /proc.)"""
    try:
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
        return 1024.0 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError):
        import resource  # which Windows does not have

        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def check_same(device: torch.device) -> None:
    """Ends the benchmark when the subspace is another than that of numpy's full decomposition."""
    width, components = 1500, 40
    numbers = np.random.default_rng(1).standard_normal((4000, width)) * np.arange(1, width + 1) ** -0.5 + 1
    rows = numbers.astype(np.float32)
    _, directions = np.linalg.eigh(np.cov(rows.astype(np.float64), rowvar=False))
    expected = directions[:, -components:]
    found = fit_pca([rows[:2500], rows[2500:]], width, components, device).components_.T
    sine = np.linalg.norm(found - expected @ (expected.T @ found), 2)
    if not sine <= SAME:
        sys.exit(f"the subspace differs from numpy's: sine {sine:.2g}")
