"""From a dataset to files, in two stages: pictures -> features, features -> their principal components.

What can be found wrong is found before the backbone works, and the second stage never needs the first one again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.device import device_name, full_precision
from common.errors import InputError
from featuresExtractor import provenance
from featuresExtractor.activations import TappedBackbone
from featuresExtractor.datasets import Dataset
from featuresExtractor.embeddings import FeaturesWriter, row_type
from featuresExtractor.extractor import Forward, Report, extract
from featuresExtractor.models import Model
from featuresExtractor.pca import check_components
from featuresExtractor.processor import Processor, reduce_features
from featuresExtractor.weights import load_backbone


@dataclass(frozen=True)
class Job:
    """One model's features of one dataset.

    `folder` receives the files; `weights` and `seed` are those of `load_backbone`; `batch` bounds the pictures at
    a time; `flags` is what the user said, kept for the record.
    """

    model: Model
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
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def features(self) -> Path:
        """The concatenated features."""
        return self.folder / "features.npy"

    @property
    def reduced(self) -> Path:
        """The features after PCA."""
        return self.folder / f"features_pca{self.processor.components}.npy"


def run_job(job: Job) -> None:
    """Both stages, as far as the processor asks for them; says on the terminal what was made."""
    _check(job)
    full_precision()
    extract_features(job)
    if job.processor.components:
        reduce(job, job.processor.components)


def _check(job: Job) -> None:
    """InputError for too few pictures, for files that are there, and for a folder that cannot be made."""
    if components := job.processor.components:
        check_components(components, len(job.dataset) * len(job.dataset.sides) * job.views, job.model.width)
        if job.reduced.exists() and not job.overwrite:
            raise InputError(f"{job.reduced}: already there; --overwrite replaces it")
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{job.folder}: no folder can be made here ({error.strerror})") from error


def extract_features(job: Job) -> None:
    """The first stage: pictures -> `features.npy`, unless it is there and was made in the same way."""
    backbone, weights = load_backbone(job.model, job.weights, job.seed)
    chosen = provenance.settings(job.model, weights, job.dataset, job.views)
    if not job.overwrite and provenance.same_features(job.features, chosen):
        if not job.processor.components:
            raise InputError(f"{job.features}: already there, made in the same way; --overwrite makes it again")
        print(f"{job.features} is there and was made in the same way: used again")
        return
    tapped = TappedBackbone(backbone, tuple(job.model.layers))
    forward = Forward(tapped, job.model.preprocessing, job.views, job.device, job.batch)
    report = _write_features(job, forward)
    provenance.record(job.features, chosen, report, job.dataset, job.flags)
    _tell(job, report)


def _write_features(job: Job, forward: Forward) -> Report:
    """Runs the loop under a line that says what runs."""
    print(
        f"{job.model.name} on {device_name(job.device)}, precision fp32, {len(job.dataset):,} {job.dataset.kind}, "
        f"{job.views} view(s), {forward.batch} pictures at a time, {job.workers} reading"
    )
    row = row_type(job.dataset.sides, forward.width, job.dataset.longest_name)
    with FeaturesWriter(job.features, row, len(job.dataset), job.views) as writer:
        report = extract(job.dataset, forward, writer, job.workers, job.skip)
        if not report.written:
            raise InputError(f"{job.dataset.root}: none of its {len(job.dataset):,} {job.dataset.kind} could be read")
        job.features.with_suffix(".json").unlink(missing_ok=True)  # it tells of the features that are replaced here
        writer.finish()
    return report


def _tell(job: Job, report: Report) -> None:
    """What was written and what was left out."""
    pictures = report.written * len(job.dataset.sides) * job.views
    print(f"{job.features}: {report.written:,} {job.dataset.kind}, {job.model.width:,} numbers a picture")
    print(report.summary(pictures))
    if skipped := len(job.dataset.skipped) + len(report.skipped):
        told = job.features.with_suffix(".json")
        print(f"warning: {skipped:,} left out; {told} tells which and why", file=sys.stderr)


def reduce(job: Job, components: int) -> None:
    """The second stage: `features.npy` -> the PCA and `features_pcaN.npy`."""
    pca_file = job.folder / f"pca{components}.skops"
    pca = reduce_features(job.features, job.reduced, pca_file, components, job.device)
    kept = float(pca.explained_variance_ratio_.sum())
    provenance.record_reduced(job.reduced, job.features, components, kept)
    print(f"{job.reduced}: {components} numbers a picture, {kept:.1%} of the variance; the PCA: {pca_file}")
