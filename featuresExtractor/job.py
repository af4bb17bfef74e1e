"""What is to be extracted: one model's features of one dataset, into one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from sklearn.decomposition import PCA

from common.errors import InputError
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.images.folders.dataset import Dataset
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.pca import load_pca, pca_digest
from featuresExtractor.processor import PcaPlan, Processor, made_from


@dataclass(frozen=True)
class GivenPca:
    """A PCA that exists, in the file `path`: it reduces vectors in place of one that is fitted on them."""

    path: Path
    pca: PCA
    sha256: str

    @property
    def width(self) -> int:
        """D, the dimensions of the vectors that it takes."""
        return int(self.pca.components_.shape[1])


def given_pca(path: Path, n_components: int) -> GivenPca:
    """Return the PCA in an untrusted file; InputError for a file that is none, or of another number of components."""
    if not path.is_file():
        raise InputError(f"{path}: no PCA file here; extract.py -p adapt-pca N writes one (pcaN.skops)")
    pca = load_pca(path)
    if (existing := len(pca.components_)) != n_components:
        raise InputError(f"{path}: has {existing:,} components, and {n_components:,} are asked for (-p adapt-pca N)")
    return GivenPca(path, pca, pca_digest(pca))


@dataclass(frozen=True)
class Job:
    """One model's features of one dataset.

    `folder` receives the files; `weights` and `seed` are those of `find_weights`; `batch` bounds the images at a time;
    with `links` images may lie outside of the dataset's folder; `decoding` is how files become RGB; the PCA `given`
    reduces the features, in place of one that is fitted on them; `flags` is what the user said, for the record.
    """

    model: Backbone
    processor: Processor
    dataset: Dataset
    folder: Path
    device: torch.device
    views: int = 2
    batch: int = 64
    workers: int = 1
    weights: str | None = None
    seed: int = 0
    skip: bool = False
    overwrite: bool = False
    links: bool = False
    flags: Mapping[str, object] = field(default_factory=dict)
    precision: str = "fp32"
    compiled: bool = False
    decoding: Decoding = STORED
    given: GivenPca | None = None

    @property
    def vectors(self) -> int:
        """Vectors of an item: its sides times its views."""
        return len(self.dataset.sides) * self.views

    @property
    def outputs(self) -> list[Path]:
        """The files that the backbone's outputs go to."""
        return [self.file(stem) for stem in self.processor.outputs(list(self.model.layers))]

    @property
    def pcas(self) -> list[PcaPlan]:
        """The PCAs that follow."""
        return self.processor.pcas(self.model.layers)

    def file(self, stem: str) -> Path:
        """The features file of that stem."""
        return self.folder / f"{stem}.npy"

    def made_from(self, names: Iterable[str]) -> list[Path]:
        """Return the files that a PCA made from features files of these names."""
        stems = [Path(name).stem for name in names if name.endswith(".npy")]
        return sorted(path for path in self.folder.iterdir() if any(made_from(stem, path.name) for stem in stems))
