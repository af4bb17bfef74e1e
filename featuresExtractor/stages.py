"""From a dataset to files, in two stages: pictures -> features, features -> their principal components.

What can be found wrong is found before the backbone works. The second stage needs the first one's file alone: another
number of components costs no second extraction.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.device import device_name
from common.errors import InputError, listed, printable
from common.files import held
from featuresExtractor import provenance
from featuresExtractor.activations import TappedBackbone
from featuresExtractor.datasets import Dataset, no_pictures
from featuresExtractor.embeddings import FeaturesWriter, open_features, row_type
from featuresExtractor.extractor import Forward, Report, extract
from featuresExtractor.models import Model
from featuresExtractor.pca import check_components
from featuresExtractor.processor import Processor, reduce_features
from featuresExtractor.weights import Weights, find_weights, load_backbone

REDUCED = re.compile(r"features_pca\d+\.(npy|json)|pca\d+\.skops")


@dataclass(frozen=True)
class Job:
    """One model's features of one dataset.

    `folder` receives the files; `weights` and `seed` are those of `find_weights`; `batch` bounds the pictures at
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
    flags: Mapping[str, object] = field(default_factory=dict)

    @property
    def vectors(self) -> int:
        """Vectors of an item: its sides times its views."""
        return len(self.dataset.sides) * self.views

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
    if components := job.processor.components:
        check_components(components, len(job.dataset) * job.vectors, job.model.width)
    with held(job.folder):
        _run_stages(job)


def _run_stages(job: Job) -> None:
    if job.processor.components and job.reduced.exists() and not job.overwrite:
        raise InputError(f"{_shown(job.reduced)}: already there; --overwrite replaces it")
    weights = find_weights(job.model, job.weights, job.seed)
    chosen = provenance.settings(job.model, weights, job.dataset, job.views)
    facts = _reusable(job, chosen)
    if facts is None:
        _check_outdated(job)
        extract_features(job, weights, chosen)
    else:
        print(f"{_shown(job.features)} is there and was made in the same way: used again")
        _warn(job, len(facts["skipped"]))
    if job.processor.components:
        reduce(job, job.processor.components)


def _reusable(job: Job, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of features that are there and need not be made again; None where they are to be made.

    With `--overwrite` features that fit are kept for another PCA, and made again when they are themselves asked for.
    """
    try:
        facts = provenance.same_features(job.features, chosen)
        if facts is not None:
            open_features(job.features)  # refuses a damaged file
    except InputError:
        if not job.overwrite:
            raise
        return None
    if facts is None or job.processor.components:
        return facts
    if not job.overwrite:
        raise InputError(f"{_shown(job.features)}: already there, made in the same way; --overwrite makes it again")
    return None


def extract_features(job: Job, weights: Weights, chosen: Mapping[str, Any]) -> None:
    """The first stage: pictures -> `features.npy`."""
    tapped = TappedBackbone(load_backbone(job.model, weights), tuple(job.model.layers))
    forward = Forward(tapped, job.model.preprocessing, job.views, job.device, job.batch)
    report = _write_features(job, forward)
    provenance.record(job.features, chosen, weights.origin, report, job.dataset, job.flags)
    print(f"{_shown(job.features)}: {report.written:,} {job.dataset.kind}, {job.model.width:,} numbers a picture")
    print(report.summary(report.written * job.vectors))
    _warn(job, len(job.dataset.skipped) + len(report.skipped))


def _write_features(job: Job, forward: Forward) -> Report:
    """Runs the loop under a line that says what runs."""
    batch = f"{forward.batch} pictures at a time"
    if forward.batch < job.batch:
        batch += f" (of at most {job.batch:,}: memory, or more is not faster here)"
    print(
        f"{job.model.name} on {device_name(job.device)}, precision fp32, {len(job.dataset):,} {job.dataset.kind}, "
        f"{job.views} view{'s' * (job.views > 1)}, {batch}, {job.workers} reading"
    )
    if others := no_pictures(job.dataset):
        print(f"note: not pictures by their suffix, left alone: {listed(others, 5)}", file=sys.stderr)
    row = row_type(job.dataset.sides, forward.width, job.dataset.longest_name)
    with FeaturesWriter(job.features, row, len(job.dataset), job.views) as writer:
        report = extract(job.dataset, forward, writer, job.workers, job.skip)
        if not report.written:
            raise InputError(f"{job.dataset.root}: none of its {len(job.dataset):,} {job.dataset.kind} could be read")
        writer.seal()
        _remove_outdated(job)
        writer.finish()
    return report


def _outdated(job: Job) -> list[Path]:
    """The files that were made from the features that are to be written."""
    return sorted(path for path in job.folder.iterdir() if REDUCED.fullmatch(path.name))


def _check_outdated(job: Job) -> None:
    """InputError for reduced features whose source is gone: they are removed only when that is asked for."""
    if not job.overwrite and (outdated := _outdated(job)):
        raise InputError(f"{_shown(outdated[0])}: made from other features; --overwrite removes it")


def _remove_outdated(job: Job) -> None:
    """Removes what tells of, or was made from, the features that are about to be replaced."""
    job.features.with_suffix(".json").unlink(missing_ok=True)
    for path in _outdated(job):
        path.unlink()
        print(f"{_shown(path)}: removed; it was made from the features that are replaced")


def _warn(job: Job, skipped: int) -> None:
    """Says on stderr that something was left out."""
    if skipped:
        told = _shown(job.features.with_suffix(".json"))
        print(f"warning: {skipped:,} left out; {told} tells which and why", file=sys.stderr)


def reduce(job: Job, components: int) -> None:
    """The second stage: `features.npy` -> the PCA and `features_pcaN.npy`."""
    rows = open_features(job.features)
    check_components(components, rows.count * len(rows.sides), rows.width)
    pca_file = job.folder / f"pca{components}.skops"
    try:
        pca = reduce_features(job.features, job.reduced, pca_file, components, job.device)
    except torch.OutOfMemoryError as error:
        raise InputError("the GPU's memory does not hold the PCA; the features are kept, go on with --cpu") from error
    kept = float(pca.explained_variance_ratio_.sum())
    provenance.record_reduced(job.reduced, job.features, components, kept, job.flags)
    shown = f"{components} numbers a picture, {kept:.1%} of the variance; the PCA: {_shown(pca_file)}"
    print(f"{_shown(job.reduced)}: {shown}")


def _shown(path: Path) -> str:
    """A path as it can be printed on any terminal."""
    return printable(str(path))
