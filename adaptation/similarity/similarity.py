"""A learned similarity in Python: `Similarity.load(...)`, then embed, compare and search images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from adaptation.similarity import given
from adaptation.similarity.given import Given
from adaptation.similarity.learned.calibration import KINDS, percentile, quantile
from adaptation.similarity.learned.file import NAME, Learned, describe, read_similarity
from adaptation.similarity.learned.head import build, check_shapes, head_name
from adaptation.similarity.learned.networks import Network, find_networks, own_files
from adaptation.similarity.others import search_others
from common.errors import InputError, listed, printable
from common.machine.device import tf32, training_device
from common.machine.system import readers
from common.record import PACKAGES, package_versions
from common.storage.files import sha256
from common.vectors import to_unit
from featuresExtractor.backbones.inference import default_batch
from featuresExtractor.pca import Projection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featuresExtractor.backbones.inference import Forward

    Vectors = NDArray[np.float32]

logger = logging.getLogger(__name__)

LONGEST = 30  # characters of a version
ROWS = 4096  # feature vectors that go through PCA and head at a time


@dataclass(frozen=True)
class Found:
    """An image that a search found: its name, its cosine with the query, its rank, from 1, and its number in the
    gallery, from 0, which tells images of the same name apart."""

    name: str
    score: float
    rank: int
    index: int


class Similarity:
    """A learned similarity: networks, PCA and head.

    `about` is what its file says of it; `sha256` tells it from others.
    """

    def __init__(
        self,
        learned: Learned,
        head: nn.Module,
        sha256: str,
        device: torch.device,
        weights: Sequence[str | Path] = (),
    ) -> None:
        self.learned, self.head, self.sha256 = learned, head.eval().to(device).requires_grad_(False), sha256
        self.about, self.device, self.weights = learned.about, device, weights
        self._projection = None if learned.pca is None else Projection(learned.pca, device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        weights: str | Path | Sequence[str | Path] = (),
        head: str | None = None,
    ) -> Similarity:
        """Load a similarity from its file, or from the run folder that it is in.

        `device` is chosen where none is given. `weights` are files with the weights of its networks, where these were
        local files or no hub can be reached. `head` is `FILE.py:CLASS` for a head of your own: such a file is run, so
        it is never part of the similarity. InputError where no similarity can be read, or the head is another one.
        """
        file = find_file(Path(path))
        shown, described = printable(str(file)), describe(file)
        name = head_name(described.about, head, shown)
        check_shapes(name, described.reduced, described.head, shown)
        learned = read_similarity(file)
        chosen = _device(device)
        files = [weights] if isinstance(weights, (str, Path)) else list(weights)
        _report_versions(learned.about["versions"], file)
        own_files(learned.about["backbones"], files)
        return cls(learned, build(name, learned, shown), sha256(file), chosen, files)

    @cached_property
    def networks(self) -> list[Network]:
        """The networks whose features it takes, checked against what is recorded of them."""
        if not self.about["backbones"]:
            gap = printable(self.about["gap"] or "no network is recorded")
            raise InputError(f"this similarity cannot embed images: {gap}; it can embed features of the same kind")
        return find_networks(self.about["backbones"], self.device, self.weights)

    @cached_property
    def _forwards(self) -> list[Forward]:
        return [network.forward(self.device, default_batch(self.device)) for network in self.networks]

    @cached_property
    def width(self) -> int:
        """E, the dimensions of an embedding."""
        return int(self.vectors(np.zeros((1, self.learned.width), np.float32))[1].shape[1])

    def embed(self, images: Given, *, batch_size: int | None = None, workers: int | None = None) -> Vectors:
        """Return the embeddings (N, E) float32, of unit length, of N images: paths, PIL images or a folder, or one.

        `batch_size` images (default 64, on a GPU 256) are read at a time by `workers` threads. InputError names the
        images that cannot be read. A PIL image counts as what Pillow made of its file, turned upright by its EXIF
        orientation.
        """
        return self.embed_both(images, batch_size, workers)[1]

    def embed_both(
        self, images: Given, batch_size: int | None = None, workers: int | None = None
    ) -> tuple[Vectors, Vectors]:
        """As `embed`, with the frozen features (N, n) of unit length before the embeddings (N, E)."""
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and not (isinstance(value, int) and value > 0):
                raise InputError(f"{name} {value}: a whole number above 0 is expected")
        listed = given.list_images(images)
        size = batch_size or default_batch(self.device)
        pixels = given.batches(listed, self.networks, size, workers or readers())
        parts = [self.vectors(self._features(each)) for each in pixels]
        frozen, adapted = (np.concatenate(side) for side in zip(*parts, strict=True))
        return frozen, adapted

    def _features(self, pixels: Sequence[NDArray[np.uint8]]) -> Vectors:
        """The features (N, D) of N images, prepared for each network."""
        pairs = zip(self._forwards, pixels, strict=True)
        features = np.concatenate([forward(torch.from_numpy(each))[0][0] for forward, each in pairs], 1)
        if features.shape[1] != self.learned.width:
            raise InputError(
                f"the networks of this similarity give {features.shape[1]:,} dimensions, and it was trained on "
                f"{self.learned.width:,}"
            )
        return features

    def vectors(self, features: Vectors, reduced: bool = False) -> tuple[Vectors, Vectors]:
        """Return what becomes of features (N, D): the frozen ones (N, n), which the PCA reduced, and the embeddings
        (N, E), both float32 of unit length.

        Features that this PCA has reduced already are taken too. Their width shows it; where the PCA keeps as many
        dimensions as there were, `reduced` says so. InputError for those of another width.
        """
        features = np.asarray(features, np.float32)
        widths = dict.fromkeys((self.learned.width, self.learned.reduced))
        if features.ndim != 2 or features.shape[1] not in widths:
            allowed = " or ".join(f"(N, {width})" for width in widths)
            raise InputError(f"features of shape {features.shape}: {allowed} is what this similarity takes")
        reduced = reduced or features.shape[1] != self.learned.width
        starts = range(0, max(1, len(features)), ROWS)
        parts = [self._vectors(features[first : first + ROWS], reduced) for first in starts]
        frozen, adapted = (np.concatenate(side) for side in zip(*parts, strict=True))
        return frozen, adapted

    @torch.inference_mode()
    @tf32(False)
    def _vectors(self, features: Vectors, reduced: bool) -> tuple[Vectors, Vectors]:
        rows = np.ascontiguousarray(features)
        taken = rows if reduced or self._projection is None else self._projection(rows)
        frozen = torch.from_numpy(taken).to(self.device)
        adapted = self.head(frozen).float()
        return to_unit(frozen)[0].cpu().numpy(), to_unit(adapted)[0].cpu().numpy()

    def __call__(self, left: Given, right: Given) -> Vectors:
        """Return the cosines (N, M) float32 of N images with M others."""
        cosines: Vectors = (self.embed(left) @ self.embed(right).T).clip(-1, 1)
        return cosines

    def search(self, query: Given, gallery: Given, k: int = 10) -> list[Found] | list[list[Found]]:
        """Return the k most similar images of a gallery, best first: a list for one query, and a list of such lists
        for several. An image is not found as its own neighbour. InputError for a k above the images that can be found.
        """
        if not isinstance(k, int):
            raise InputError(f"k {k}: a whole number above 0 is expected")
        asked, images = given.list_images(query), given.list_images(gallery)
        own = given.own_rows(asked, images)
        neighbours = search_others(self.embed(asked), self.embed(images), k, self.device, own)
        found = [
            [
                Found(given.name_of(images[index], index), float(score), rank, index)
                for rank, (index, score) in enumerate(zip(indices, scores, strict=True), 1)
            ]
            for indices, scores in zip(neighbours.indices.tolist(), neighbours.scores, strict=True)
        ]
        return found[0] if given.is_one(query) else found

    def percentiles(self, cosines: Vectors, space: str = "adapted") -> dict[str, NDArray[np.float64]]:
        """Return for each cosine (any shape) which percentage of the test pairs' cosines is lower: `partners` those of
        people's pairs, `strangers` those of images that nobody paired. `space` is `adapted` or `frozen`."""
        return {kind: percentile(cosines, self.learned.counts(space, kind)) for kind in KINDS}

    def quantiles(self, shares: Sequence[float], kind: str, space: str = "adapted") -> list[float]:
        """Return the cosines below which these `shares` (0 to 1) of `partners` or `strangers` lie, to 0.001."""
        return [quantile(share, self.learned.counts(space, kind)) for share in shares]


def _device(device: str | torch.device | None) -> torch.device:
    """The device that is asked for, or one that is chosen; InputError for one that is not here."""
    if device is None:
        return training_device(None)
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch has it, with or without a GPU
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"device '{printable(str(device))}': cannot be used here ({printable(reason)})") from error
    return chosen


def find_file(path: Path) -> Path:
    """Return the file of a similarity: the path itself, or that in a run folder; InputError where there is none."""
    shown = printable(str(path))
    if not path.is_dir():
        if path.exists():
            return path
        raise InputError(f"{shown}: no such run folder or file; train.py --final writes {NAME} into its run folder")
    if (path / NAME).is_file():
        return path / NAME
    inside = sorted(each.parent.name for each in path.glob(f"*/{NAME}"))
    if "run1" in inside:
        raise InputError(
            f"{shown}: no {NAME} here; train.py --final with the same settings adds one that has learned from all "
            f"pairs, and {printable(str(path / 'run1'))} has that of a run, which has not seen its test pairs"
        )
    if inside:
        raise InputError(f"{shown}: no {NAME} here; give one of the folders in it that have one: {listed(inside, 5)}")
    raise InputError(f"{shown}: no {NAME} here; train.py --final writes one into its run folder")


def _report_versions(recorded: Mapping[str, str], file: Path) -> None:
    """Report libraries of other versions than those that the similarity was made with."""
    now = package_versions()
    others = [
        f"{name} {now.get(name, 'missing')} (made with {version[:LONGEST]})"
        for name, version in recorded.items()
        if name in PACKAGES and now.get(name) != version
    ]
    if others:
        logger.warning(
            printable(f"note: {file}: made with other versions: {', '.join(others)}; results may differ slightly")
        )
