"""Principal component analysis, exact, deterministic and streamed; in and out as scikit-learn's PCA.

References: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979, for the merging of the moments of chunks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from common.errors import InputError
from common.machine.device import float64_device, require_free, tf32, uploaded
from common.progress import Bar, progress
from common.storage.archives import canonical, check_archive
from common.storage.files import written_whole
from common.vectors import power_of_two
from featuresExtractor.eigen import leading_eigenpairs
from featuresExtractor.features.alike import ALIKE, CAUSES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featuresExtractor.features.features_file import Features, FeaturesWriter, Rows

NARROW = 1024  # up to this width float64 costs little
MATRICES, GPU_MATRICES = 2, 4  # as large as the covariance, at the least, that are held at once; cuSOLVER's too
ADVICE = "take fewer --layers, or one PCA a layer (-p pca N)"
OUTER = 32  # outer products that are added together
BLOCKS, BLOCK = 8, 256  # parts that a row is cut into, and the least numbers of one


class Moments:
    """Number, mean (D,) and scatter (D, D) = sum of (x - mean)(x - mean)^T of the rows seen so far, in float64.

    The products of wide rows are computed in float32, chunk by chunk, and merged in float64. Of the scatter, which is
    symmetric, only blocks on and below the diagonal are computed.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.outer: list[tuple[Tensor, float]] = []  # vectors and weights whose outer products the scatter lacks
        self.products = torch.float32 if width > NARROW else torch.float64
        step = max(BLOCK, -(-width // BLOCKS))
        self.blocks = [slice(start, min(start + step, width)) for start in range(0, width, step)]

    def add(self, rows: Tensor) -> None:
        """Merges a chunk of rows (n, D)."""
        about = uploaded(rows.mean(0), self.mean.device).to(self.products)
        centred = uploaded(rows, about.device).to(about.dtype) - about
        rest = centred.mean(0, dtype=torch.float64)  # what rounding left of the mean
        shift, total = about + rest - self.mean, self.count + len(rows)
        self._add_products(centred)
        if len(self.outer) >= OUTER:
            self._add_outer()
        self.outer += [(rest, -len(rows)), (shift, self.count * len(rows) / total)]
        self.mean += shift * (len(rows) / total)
        self.count = total

    def _add_products(self, centred: Tensor) -> None:
        """Adds the products of a chunk, which is written over."""
        least, most = torch.aminmax(centred)
        scale = power_of_two(torch.maximum(most, -least).float())  # squares of large numbers would overflow a float32
        square = scale.double().square()  # on the device, so that nothing waits for it
        centred.div_(scale)
        for block in self.blocks:
            products = centred[:, block].T @ centred[:, : block.stop]
            self.scatter[block, : block.stop].addcmul_(products, square)

    def _add_outer(self) -> None:
        """Adds the outer products of vectors that wait for it: many together cost what one does."""
        vectors = torch.stack([vector for vector, _ in self.outer])
        weighted = torch.stack([vector * weight for vector, weight in self.outer])
        for block in self.blocks:
            self.scatter[block, : block.stop].addmm_(weighted[:, block].T, vectors[:, : block.stop])
        self.outer.clear()

    def covariance(self) -> Tensor:
        """Of the rows seen, (D, D), in the memory of the scatter: nothing can be added afterwards."""
        self._add_outer()
        for block in self.blocks:
            self.scatter[: block.start, block] = self.scatter[block, : block.start].T
        return self.scatter.div_(max(1, self.count - 1))


def check_components(n_components: int, rows: int, width: int) -> None:
    """InputError when `rows` vectors of `width` numbers have no `n_components` principal components."""
    most = min(rows, width)
    if not 1 <= n_components <= most:
        raise InputError(
            f"{n_components:,} components asked of {rows:,} vectors of {width:,} numbers; 1 to {most:,} are possible"
        )


def check_memory(width: int, device: torch.device, advice: str = ADVICE) -> None:
    """OutOfMemory, with the advice, where a PCA of vectors of `width` numbers cannot be fitted on this device."""
    matrices = (GPU_MATRICES if device.type == "cuda" else MATRICES) * torch.float64.itemsize * width**2
    require_free(matrices, float64_device(device), f"a PCA of {width:,} dimensions takes", advice)


@torch.inference_mode()
def fit_pca(chunks: Iterable[NDArray[np.float32]], width: int, n_components: int, device: torch.device) -> PCA:
    """Return the `n_components` directions of largest variance of all rows in `chunks` (each (n, D)); no whitening.

    Computed on the CPU where `device` has no float64. InputError where there are fewer, or where the rows are all alike
    but for rounding.
    """
    device = float64_device(device)
    check_memory(width, device)
    moments = Moments(width, device)
    with tf32(False):
        for chunk in chunks:
            moments.add(torch.from_numpy(chunk))
        check_components(n_components, moments.count, width)
        covariance = moments.covariance()
        _check_variance(covariance.trace(), moments)
        variances, vectors = leading_eigenpairs(covariance, n_components)
    return _as_sklearn(_signed(vectors.T), moments, variances.clamp(min=0), covariance.trace())


def _check_variance(total: Tensor, moments: Moments) -> None:
    """InputError where nothing but rounding is left of the rows without their mean."""
    length = float(moments.mean.square().sum())
    if float(total) <= ALIKE**2 * length:
        what = "alike" if length else "zero"
        raise InputError(f"the vectors are all {what}, so that they have no principal components; {CAUSES}")


def _signed(components: Tensor) -> Tensor:
    """An eigenvector's sign is arbitrary; its largest entry is made positive, as scikit-learn does, so that the same
    data give the same numbers everywhere."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * components.gather(1, largest).sign()


def _as_sklearn(components: Tensor, moments: Moments, kept: Tensor, total: Tensor) -> PCA:
    """The fitted values under the names that scikit-learn gives them."""
    n_components, width = components.shape
    rest = min(moments.count, width) - n_components
    pca = PCA(n_components=n_components, svd_solver="covariance_eigh")
    pca.components_ = components.contiguous().cpu().numpy()
    pca.mean_ = moments.mean.cpu().numpy()
    pca.explained_variance_ = kept.cpu().numpy()
    pca.explained_variance_ratio_ = (kept / total).nan_to_num(0.0).cpu().numpy()
    pca.singular_values_ = (kept * max(1, moments.count - 1)).sqrt().cpu().numpy()
    pca.noise_variance_ = max(0.0, float(total - kept.sum()) / rest) if rest else 0.0
    pca.n_samples_, pca.n_components_, pca.n_features_in_ = moments.count, n_components, width
    return pca


class Projection:
    """A fitted PCA on a device: `rows` (n, D) float32 -> (n, n_components) float32. Computed in float64 and rounded, so
    that a row does not depend on the rows that are projected with it."""

    def __init__(self, pca: PCA, device: torch.device) -> None:
        device = float64_device(device)
        self.mean = torch.from_numpy(np.asarray(pca.mean_, np.float64)).to(device)
        self.components = torch.from_numpy(np.asarray(pca.components_, np.float64)).to(device)

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        centred = uploaded(torch.from_numpy(rows), self.mean.device).to(self.mean.dtype) - self.mean
        projected: NDArray[np.float32] = self._project(centred).float().cpu().numpy()
        return projected

    def _project(self, centred: Tensor) -> Tensor:
        return centred @ self.components.T


class MeasuredProjection(Projection):
    """A projection that measures how much of the variance of its rows it keeps: they are not those of the fit."""

    def __init__(self, pca: PCA, device: torch.device) -> None:
        super().__init__(pca, device)
        self.count, self.squares = 0, self.mean.new_zeros(2)
        self.sums = [torch.zeros_like(self.mean), self.mean.new_zeros(len(self.components))]

    def _project(self, centred: Tensor) -> Tensor:
        projected = super()._project(centred)
        self.count += len(centred)
        for number, values in enumerate((centred, projected)):
            self.squares[number] += values.square().sum()
            self.sums[number] += values.sum(0)
        return projected

    @property
    def kept(self) -> float | None:
        """The share of the variance; None where the rows have none, such as a single one."""
        squares, means = self.squares.tolist(), [float(total.square().sum()) / self.count for total in self.sums]
        total, kept = (square - mean for square, mean in zip(squares, means, strict=True))
        return kept / total if total > ALIKE**2 * squares[0] else None


def save_pca(pca: PCA, path: str | os.PathLike[str]) -> None:
    """Writes a fitted PCA as a skops file: arrays and settings, no code. The same PCA gives the same bytes."""
    import skops.io

    with written_whole(Path(path)) as partial:
        partial.write_bytes(canonical(skops.io.dumps(pca)))


def load_pca(path: str | os.PathLike[str]) -> PCA:
    """Reads what `save_pca` wrote; InputError for a file that is none or that holds types beyond scikit-learn's own."""
    import skops.io

    path = Path(path)
    check_archive(path)
    try:
        pca = skops.io.load(path)
    except Exception as error:  # a file from elsewhere can fail in any way
        raise InputError(f"{path}: not a PCA file that extract.py wrote ({type(error).__name__})") from error
    if not isinstance(pca, PCA) or not hasattr(pca, "components_"):
        raise InputError(f"{path}: holds {type(pca).__name__}, not a fitted PCA")
    if problem := _problem(pca):
        raise InputError(f"{path}: {problem}; give the file that extract.py wrote")
    return pca


def _problem(pca: PCA) -> str | None:
    """What keeps the PCA in an untrusted file from reducing anything, in words."""
    arrays: list[Any] = [getattr(pca, name, None) for name in ("mean_", "components_")]
    if not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays):
        return "its mean and components are no arrays of floats"
    mean, components = arrays
    if components.ndim != 2 or not components.size or mean.shape != components.shape[1:]:
        return f"its mean is of shape {mean.shape} and its components {components.shape}, not (D,) and (N, D)"
    if not (np.isfinite(mean).all() and np.isfinite(components).all()):
        return "its mean or components hold numbers that are not finite"
    return "it whitens, as no PCA here does" if getattr(pca, "whiten", False) is True else None


def pca_digest(pca: PCA) -> str:
    """Return the SHA-256 of what a fitted PCA does to vectors: the shapes of `mean_` (D,) and `components_` (N, D), and
    their numbers as little-endian float64. The bytes of its file depend on skops."""
    digest = hashlib.sha256()
    for name in ("mean_", "components_"):
        values = np.ascontiguousarray(getattr(pca, name), dtype="<f8")
        digest.update(f"{name} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def reduce_features(
    rows: Rows, columns: slice, writer: FeaturesWriter, pca_file: Path, n_components: int, device: torch.device
) -> PCA:
    """Fit a PCA on the columns of a features file, write it to `pca_file`, and the reduced features by `writer`.

    The fit takes the vectors of all sides and views, as the paper's protocol does. Both passes stream over the file;
    the reduced rows keep their names, views and order.
    """
    width = len(range(*columns.indices(rows.width)))
    with progress(2 * rows.count, "pca", "rows") as bar:
        pca = fit_pca(_vectors(rows, columns, bar), width, n_components, device)
        save_pca(pca, pca_file)
        _project(rows, columns, writer, Projection(pca, device), bar)
    return pca


def project_features(
    rows: Rows, columns: slice, writer: FeaturesWriter, pca: PCA, device: torch.device
) -> float | None:
    """Reduce the columns of a features file by a PCA that exists. Return the share of their variance that it keeps,
    None where they have none."""
    project = MeasuredProjection(pca, device)
    with progress(rows.count, "pca", "rows") as bar:
        _project(rows, columns, writer, project, bar)
    return project.kept


def _vectors(rows: Rows, columns: slice, bar: Bar) -> Iterator[Features]:
    """The vectors of all sides, chunk by chunk: (n, D)."""
    for chunk in rows.chunks():
        for side in rows.sides:
            yield chunk[side][:, columns].copy()
        bar.update(len(chunk))


def _project(rows: Rows, columns: slice, writer: FeaturesWriter, project: Projection, bar: Bar) -> None:
    """Write every row again with its vectors replaced by their principal components."""
    first = 0
    for chunk in rows.chunks():
        reduced = np.empty(len(chunk), writer.row)
        for name in rows.row.names or ():
            values = chunk[name]
            reduced[name] = project(values[:, columns].copy()) if name in rows.sides else values
        writer.put(first, [reduced])
        first += len(chunk)
        bar.update(len(chunk))
