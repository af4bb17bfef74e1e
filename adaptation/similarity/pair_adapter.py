"""The similarity of pairs as a scikit-learn estimator, for features that are arrays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from adaptation.data.pairs import Pairs
from adaptation.data.split_pca import SplitPCA
from adaptation.data.stack import Stack
from adaptation.extensions import digest
from adaptation.heads import HeadStack
from adaptation.losses import find_loss
from adaptation.memory import Size, head_sizes, lay_out
from adaptation.tiled_loss import Tiling
from adaptation.trainer import Settings, evaluate, train_final
from common.errors import InputError, OutOfMemory
from common.machine.device import tf32, training_device
from common.machine.gpu import fills_gpu
from common.vectors import to_unit
from featuresExtractor.features.alike import fault_of
from featuresExtractor.features.features_file import CHUNK_BYTES
from featuresExtractor.pca import Projection

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

NUMBER = 1  # of the run of train.py that has the same seeds


class PairAdapter(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Learn a similarity from the features of pairs: PCA, then a small head, trained so that partners find each other.

        adapter = PairAdapter(n_components=64).fit(left, right)     # (N, D) each: row i of both is pair i
        embeddings = adapter.transform(others)                      # (M, E) of unit length
        adapter.score(test_left, test_right)                        # aR@1

    To scikit-learn the left sides are X and the right sides are y. A `Pipeline` changes X alone: steps before this one
    change the left sides in `fit` and `score` and not the right ones, so bring `right` to the same form first. Steps
    after it get the embeddings of the left sides.

    One view of each pair is learned from; `train.py` also uses flipped views. On the training pairs of its run 1, with
    the same settings and one view, the head is the same number for number.

    Parameters: `n_components` of the PCA, which is fitted on both sides, or None for none; `temperature` is the logit
    scale, which multiplies the cosines; `epochs`; `head` and `loss` by their names in `train.py` or as
    `FILE.py:NAME`, a file that is run; `batch_size` is the most pairs in a step, None for all; `random_state` is a
    whole number from 0, the `--seed` of `train.py`, or as scikit-learn has it a `RandomState`, or None for another
    seed each time; `device` is "cpu", "cuda", or None for the GPU where there is one.

    Fitted: `head_` (a `torch.nn.Module`, on the CPU), `pca_` (a fitted `sklearn.decomposition.PCA`, or None),
    `loss_curve_` (the loss of each epoch, before its step), `n_features_in_`.
    """

    def __init__(
        self,
        n_components: int | None = 256,
        temperature: float = 15.0,
        epochs: int = 150,
        head: str = "original",
        loss: str = "contrastive",
        batch_size: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str | torch.device | None = None,
    ) -> None:
        self.n_components = n_components
        self.temperature = temperature
        self.epochs = epochs
        self.head = head
        self.loss = loss
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> PairAdapter:
        """Learn from the pairs of the left sides `X` and the right sides `y`, both (N, D), N at least 2.

        ValueError or TypeError for arrays or parameters that cannot be used, MemoryError where memory is too small.
        """
        left = _owned(validate_data(self, _array(X), dtype=np.float32, order="C", ensure_min_samples=2))
        pairs = _pairs(left, self._right(left, y))
        self._check_parameters(pairs)
        device = self._device()
        with _errors_of_scikit_learn(), tf32(False):
            self._train(pairs, self._settings(), device)
        return self

    def _train(self, pairs: Pairs, settings: Settings, device: torch.device) -> None:
        """Set the fitted attributes."""
        width, trained = self.n_components or self.n_features_in_, len(pairs)
        find_loss(settings.loss, settings.code)
        embedding, weights = head_sizes(settings.head, width)
        batch = min(settings.batch_size or trained, trained)
        size = Size(1, trained, 0, batch, width, embedding, weights, settings.loss == "contrastive")
        tiling = lay_out(size, 1, device, advice="batch_size takes fewer pairs at a time").tiling
        reduction = SplitPCA(width, device) if self.n_components else None
        given = pairs if reduction else pairs.to(device)
        final = train_final(given, settings, NUMBER, split_pca=reduction, tiling=tiling)
        self.head_, self.pca_, self.loss_curve_ = final.head.cpu(), final.pca, final.loss
        self._n_features_out = embedding

    def transform(self, X: ArrayLike | Tensor) -> NDArray[np.float32]:
        """Return embeddings (M, E) float32 of unit length of vectors (M, D) of either side. The product of two is their
        similarity. An embedding that the head makes zero stays zero."""
        check_is_fitted(self, "head_")
        rows = _owned(validate_data(self, _array(X), dtype=np.float32, order="C", reset=False))
        device = self._device()
        head, step = self._head(device), max(1, CHUNK_BYTES // (4 * max(rows.shape[1], self._n_features_out)))
        embeddings = np.empty((len(rows), self._n_features_out), np.float32)
        with torch.inference_mode(), tf32(False):
            for first in range(0, len(rows), step):
                part = slice(first, first + step)
                embeddings[part] = to_unit(head(self._reduced(rows[part], device)))[0].cpu().numpy()
        return embeddings

    def score(self, X: ArrayLike | Tensor, y: ArrayLike | Tensor) -> float:
        """Return aR@1 of the left sides `X` and the right sides `y`, both (M, D): the share of pairs of which one side
        or both find their partner first among the M of the other side. It depends on M."""
        check_is_fitted(self, "head_")
        left = _owned(validate_data(self, _array(X), dtype=np.float32, order="C", reset=False))
        device = self._device()
        sides = (self._reduced(side, device)[None, None] for side in (left, self._right(left, y)))
        heads = HeadStack([self._head(device)], device)
        with tf32(False):
            metrics = evaluate(heads, Stack(*sides), Settings(ks=(1,)), Tiling(keep=False))
        return float(metrics["top 1"])

    def _right(self, left: NDArray[np.float32], y: ArrayLike | Tensor | None) -> NDArray[np.float32]:
        """The right sides; ValueError where they are no partners of the left ones."""
        if y is None:
            raise ValueError(
                "PairAdapter requires y to be passed, but the target y is None; give the right sides of the pairs"
            )
        right = _owned(check_array(_array(y), dtype=np.float32, order="C", input_name="y"))
        if right.shape != left.shape:
            raise ValueError(
                f"X (left) has shape {left.shape} and y (right) {right.shape}; row i of both is pair i, so that the "
                "shapes must be equal"
            )
        return right

    def _check_parameters(self, pairs: Pairs) -> None:
        """ValueError or TypeError for a parameter that cannot be used."""
        check_scalar(self.epochs, "epochs", Integral, min_val=1)
        check_scalar(self.temperature, "temperature", Real, min_val=0, include_boundaries="neither")
        if self.batch_size is not None:
            check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        if self.n_components is None:
            return
        check_scalar(self.n_components, "n_components", Integral, min_val=1)
        vectors, width = 2 * len(pairs), self.n_features_in_
        if self.n_components > (most := min(vectors, width)):
            raise ValueError(
                f"n_components={self.n_components}: {vectors:,} vectors of {width:,} features have 1 to {most:,} "
                "principal components; None uses the features as they are"
            )

    def _settings(self) -> Settings:
        """What the training is made of, as in a run of `train.py`."""
        code = tuple((name, sha256) for name in (self.head, self.loss) if (sha256 := digest(name)))
        return Settings(
            head=self.head,
            epochs=int(self.epochs),
            temperature=float(self.temperature),
            ks=(1,),
            seed=_seed(self.random_state),
            batch_size=self.batch_size,
            loss=self.loss,
            code=code,
        )

    def _device(self) -> torch.device:
        """The device to compute on; ValueError for one that cannot be had."""
        if self.device is None:
            return training_device(None)
        kind = str(self.device).partition(":")[0]
        if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
            gpu = "torch finds no such GPU; " if kind == "cuda" else ""
            raise ValueError(f"device={self.device!r}: {gpu}'cpu', 'cuda', or None for the GPU where there is one")
        return torch.device(self.device)

    def _head(self, device: torch.device) -> nn.Module:
        """The head on a device. `head_` stays on the CPU, so that a pickled estimator can be loaded on any machine."""
        return self.head_ if device.type == "cpu" else copy.deepcopy(self.head_).to(device)

    def _reduced(self, rows: NDArray[np.float32], device: torch.device) -> Tensor:
        """Rows (M, D) after the PCA, where there is one, on a device."""
        return torch.from_numpy(Projection(self.pca_, device)(rows) if self.pca_ else rows).to(device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _array(given: Any) -> Any:
    """Tensors of any device as arrays; anything else as it is."""
    return given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given


def _owned(array: Any) -> NDArray[np.float32]:
    """The array, or a copy where torch could not share it: an array that must not be written to."""
    return np.require(array, np.float32, ["C", "W"])


def _pairs(left: NDArray[np.float32], right: NDArray[np.float32]) -> Pairs:
    """Pairs of one view; ValueError where the vectors of a side do not differ."""
    for side, vectors in (("X (left)", left), ("y (right)", right)):
        if fault := fault_of(vectors, np.arange(len(vectors))):
            raise ValueError(f"{side}: the vectors are {fault}")
    names = [(str(row), str(row)) for row in range(len(left))]
    return Pairs(torch.from_numpy(left)[None], torch.from_numpy(right)[None], names)


def _seed(random_state: Any) -> int:
    """The seed that a `random_state` of scikit-learn stands for."""
    if isinstance(random_state, Integral):
        return int(check_scalar(random_state, "random_state", Integral, min_val=0))
    return int(check_random_state(random_state).randint(2**31))


@contextmanager
def _errors_of_scikit_learn() -> Iterator[None]:
    """Raise an InputError as the ValueError that users of scikit-learn expect; OutOfMemory and a full GPU as a
    MemoryError."""
    try:
        yield
    except OutOfMemory as error:
        raise MemoryError(str(error)) from error
    except InputError as error:
        raise ValueError(str(error)) from error
    except RuntimeError as error:
        if fills_gpu(error):
            raise MemoryError(str(error)) from error
        raise
