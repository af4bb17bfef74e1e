"""Principal component analysis, exact, deterministic and streamed; in and out as scikit-learn's PCA.

References: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
1979, for the merging of the moments of chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from common.errors import InputError
from common.files import written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Moments:
    """Number, mean (D,) and scatter (D, D) = sum of (x - mean)(x - mean)^T of the rows seen so far, in float64.

    float64 has no reduced-precision mode: on every device the products are what they say.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Merges a chunk of rows (n, D)."""
        rows = rows.to(self.mean)
        mean, total = rows.mean(0), self.count + len(rows)
        shift = mean - self.mean
        rows = rows - mean
        self.scatter.addmm_(rows.T, rows)
        self.scatter.addr_(shift, shift, alpha=self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count = total


def check_components(n_components: int, rows: int, width: int) -> None:
    """InputError when `rows` vectors of `width` numbers have no `n_components` principal components."""
    most = min(rows, width)
    if not 1 <= n_components <= most:
        raise InputError(
            f"{n_components:,} components asked of {rows:,} vectors of {width:,} numbers; 1 to {most:,} are possible"
        )


@torch.inference_mode()
def fit_pca(chunks: Iterable[NDArray[np.float32]], width: int, n_components: int, device: torch.device) -> PCA:
    """The `n_components` directions of largest variance of all rows in `chunks` (each (n, D)), without whitening."""
    moments = Moments(width, device)
    for chunk in chunks:
        moments.add(torch.from_numpy(chunk))
    check_components(n_components, moments.count, width)
    values, vectors = torch.linalg.eigh(moments.scatter / max(1, moments.count - 1))  # ascending; columns of D
    variances = values.flip(0).clamp(min=0)
    components = _signed(vectors.flip(1)[:, :n_components].T)
    return _as_sklearn(components, moments, variances)


def _signed(components: Tensor) -> Tensor:
    """An eigenvector's sign is arbitrary; its largest entry is made positive, as scikit-learn does, so that the same
    data give the same numbers everywhere."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * components.gather(1, largest).sign()


def _as_sklearn(components: Tensor, moments: Moments, variances: Tensor) -> PCA:
    """The fitted values under the names that scikit-learn gives them."""
    n_components, width = components.shape
    kept, rest = variances[:n_components], variances[n_components : min(moments.count, width)]
    pca = PCA(n_components=n_components, svd_solver="covariance_eigh")
    pca.components_ = components.contiguous().cpu().numpy()
    pca.mean_ = moments.mean.cpu().numpy()
    pca.explained_variance_ = kept.cpu().numpy()
    pca.explained_variance_ratio_ = (kept / variances.sum()).nan_to_num(0.0).cpu().numpy()
    pca.singular_values_ = (kept * max(1, moments.count - 1)).sqrt().cpu().numpy()
    pca.noise_variance_ = float(rest.mean()) if len(rest) else 0.0
    pca.n_samples_, pca.n_components_, pca.n_features_in_ = moments.count, n_components, width
    return pca


class Projection:
    """A fitted PCA on a device, in float64 like its fit: `rows` (n, D) float32 -> (n, n_components) float32."""

    def __init__(self, pca: PCA, device: torch.device) -> None:
        self.mean = torch.from_numpy(np.asarray(pca.mean_)).to(device)
        self.components = torch.from_numpy(np.asarray(pca.components_)).to(device)

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        centred = torch.from_numpy(rows).to(self.mean) - self.mean
        projected: NDArray[np.float32] = (centred @ self.components.T).float().cpu().numpy()
        return projected


def save_pca(pca: PCA, path: Path) -> None:
    """Writes a fitted PCA as a skops file, which holds arrays and settings and no code."""
    import skops.io

    with written_whole(path) as partial:
        skops.io.dump(pca, partial)


def load_pca(path: Path) -> PCA:
    """Reads what `save_pca` wrote; InputError for a file that is none or that holds types beyond scikit-learn's own."""
    import skops.io

    try:
        pca = skops.io.load(path)
    except Exception as error:  # a file from elsewhere can fail in any way
        raise InputError(f"{path}: not a PCA file that extract.py wrote ({type(error).__name__})") from error
    if not isinstance(pca, PCA) or not hasattr(pca, "components_"):
        raise InputError(f"{path}: holds {type(pca).__name__}, not a fitted PCA")
    return pca
