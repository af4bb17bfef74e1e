"""What is to be extracted: one model's features of one dataset, into one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.images.folders.dataset import Dataset
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.processor import PcaPlan, Processor, made_from


@dataclass(frozen=True)
class Job:
    """One model's features of one dataset.

    `folder` receives the files; `weights` and `seed` are those of `find_weights`; `batch` bounds the images at a time;
    with `links` images may lie outside of the dataset's folder; `decoding` is how files become RGB; `flags` is what
    the user said, for the record.
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
