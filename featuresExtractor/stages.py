"""A whole job, in two stages: pictures -> features of the layers -> their principal components. Tells on the terminal.

The stages meet in the files of features alone, so that another number of components costs no second extraction.
"""

from __future__ import annotations

import gc
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common.device import device_name
from common.errors import InputError, listed, printable
from common.files import held
from featuresExtractor import provenance
from featuresExtractor.activations import TappedBackbone, reduction
from featuresExtractor.datasets import Dataset, no_pictures
from featuresExtractor.embeddings import FeaturesWriter, open_features, row_type
from featuresExtractor.extractor import Report, extract
from featuresExtractor.forward import Forward
from featuresExtractor.models import Model
from featuresExtractor.pca import check_components
from featuresExtractor.processor import Processor, Reduction, made_from, reduce_features
from featuresExtractor.weights import Weights, find_weights, load_backbone


@dataclass(frozen=True)
class Job:
    """One model's features of one dataset.

    `folder` receives the files; `weights` and `seed` are those of `find_weights`; `batch` bounds the pictures at
    a time; with `keep` what is there and was made in the same way is no fault; `flags` is what the user said, for the
    record.
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
    keep: bool = False
    flags: Mapping[str, object] = field(default_factory=dict)
    precision: str = "fp32"
    compiled: bool = False

    @property
    def vectors(self) -> int:
        """Vectors of an item: its sides times its views."""
        return len(self.dataset.sides) * self.views

    @property
    def outputs(self) -> list[Path]:
        """The files that the backbone's outputs go to."""
        return [self.file(stem) for stem in self.processor.outputs(list(self.model.layers))]

    @property
    def reductions(self) -> list[Reduction]:
        """The PCAs that follow."""
        return self.processor.reductions(self.model.layers)

    def file(self, stem: str) -> Path:
        """The features file of that stem."""
        return self.folder / f"{stem}.npy"


def run_all(jobs: Sequence[Job]) -> dict[str, str]:
    """Runs the jobs one after the other; the failures as `{model: reason}`. None of them stops the others."""
    failed = {}
    for number, job in enumerate(jobs, 1):
        print(f"\n[{number}/{len(jobs)}] {job.model.name}", flush=True)
        try:
            run_job(job)
        except (InputError, OSError) as error:  # wrong input, no network, a full disk
            failed[job.model.name] = str(error).removeprefix(f"{job.model.name}: ")
        except Exception as error:  # a fault of the program, or of a library: the night goes on
            traceback.print_exc()
            failed[job.model.name] = f"{type(error).__name__}: {error}".splitlines()[0]
        if job.model.name in failed:
            print(f"{job.model.name} failed: {failed[job.model.name]}", file=sys.stderr)
        gc.collect()
        torch.cuda.empty_cache()
    return failed


def run_job(job: Job) -> None:
    """Both stages, as far as the processor asks for them; says on the terminal what was made."""
    for part in job.reductions:
        _check_components(job, part, len(job.dataset) * job.vectors)
    with held(job.folder):
        try:
            _run_stages(job)
        finally:
            if not any(job.folder.iterdir()):  # nothing came of it
                job.folder.rmdir()


def _check_components(job: Job, part: Reduction, rows: int) -> None:
    """InputError when a PCA asks for more than there is."""
    try:
        check_components(job.processor.components or 0, rows, part.stop - part.start)
    except InputError as error:
        raise InputError(f"{job.model.name}, layer {part.layer}: {error}" if part.layer else str(error)) from error


def _run_stages(job: Job) -> None:
    waiting = [part for part in job.reductions if job.overwrite or not _is_done(job, part)]
    if job.reductions and not waiting and not job.keep:
        raise InputError(f"{_shown(job.file(job.reductions[0].target))}: already there; --overwrite replaces it")
    weights = find_weights(job.model, job.weights, job.seed)
    activation = job.processor.kind.activation
    chosen = provenance.settings(job.model, weights, job.dataset, job.views, activation, job.precision)
    facts = _reusable(job, chosen)
    if facts is None:
        _check_outdated(job)
        extract_features(job, weights, chosen)
        waiting = job.reductions
    else:
        more = f" (and {len(job.outputs) - 1} more)" if len(job.outputs) > 1 else ""
        print(f"{_shown(job.outputs[0])}{more} is there and was made in the same way: used again")
        _warn(job, len(facts["skipped"]))
    for part in waiting:
        reduce(job, part)


def _is_done(job: Job, part: Reduction) -> bool:
    """Whether the reduced features are there, and the `.json` that is written when they are whole."""
    target = job.file(part.target)
    return target.exists() and target.with_suffix(".json").exists()


def _reusable(job: Job, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of features that are there and need not be made again; None where they are to be made.

    With `--overwrite` features that fit are kept for another PCA, and made again when they are themselves asked for.
    """
    try:
        facts = [provenance.same_features(path, chosen) for path in job.outputs]
        if None not in facts and job.processor.kind.joined:
            open_features(job.outputs[0])  # refuses a damaged file
    except InputError:
        if not job.overwrite:
            raise
        return None
    if None in facts or job.reductions or (job.keep and not job.overwrite):
        return None if None in facts else facts[0]
    if not job.overwrite:
        there = _shown(job.outputs[0])
        raise InputError(f"{there}: already there, made in the same way; --overwrite makes it again")
    return None


def extract_features(job: Job, weights: Weights, chosen: Mapping[str, Any]) -> None:
    """The first stage: pictures -> the files of the backbone's outputs."""
    kind = job.processor.kind
    backbone = load_backbone(job.model, weights)
    tapped = TappedBackbone(backbone, tuple(job.model.layers), reduction(kind.activation, job.model))
    forward = _forward(job, tapped)
    report = _write_features(job, forward)
    for path, sizes in zip(job.outputs, forward.shapes, strict=True):
        provenance.record(path, chosen, weights.origin, report, job.dataset, job.flags)
        shape = " x ".join(f"{size:,}" for size in sizes)
        print(f"{_shown(path)}: {report.written:,} {job.dataset.kind}, {shape} numbers a picture")
    print(report.summary(report.written * job.vectors))
    _warn(job, len(job.dataset.skipped) + len(report.skipped))


def _forward(job: Job, tapped: TappedBackbone) -> Forward:
    """The backbone on its device; InputError for one that cannot take the paper's pictures."""
    joined = job.processor.kind.joined is not None
    try:
        return Forward(
            tapped, job.model.preprocessing, job.views, job.device, job.batch, joined, job.precision, job.compiled
        )
    except (AssertionError, RuntimeError) as error:
        if job.model.preprocess == "own":
            raise
        size, reason = job.model.preprocessing.crop, " ".join(str(error).split())
        told = f"{job.model.name}: takes no pictures of {size} pixels, which --preprocess paper gives"
        raise InputError(f"{told}: {reason}") from error


def _write_features(job: Job, forward: Forward) -> Report:
    """Runs the loop under a line that says what runs."""
    _announce(job, forward)
    rows = [row_type(job.dataset.sides, shape, job.dataset.longest_name) for shape in forward.shapes]
    _check_room(job, sum(row.itemsize for row in rows) * len(job.dataset) * job.views)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(FeaturesWriter(path, row, len(job.dataset), job.views))
            for path, row in zip(job.outputs, rows, strict=True)
        ]
        report = extract(job.dataset, forward, writers, job.workers, job.skip)
        if not report.written:
            raise InputError(f"{job.dataset.root}: none of its {len(job.dataset):,} {job.dataset.kind} could be read")
        for writer in writers:
            writer.seal()
        _remove_outdated(job)
        for writer in writers:
            writer.finish()
    return report


def _announce(job: Job, forward: Forward) -> None:
    """What runs, on what, and what is left alone."""
    batch = f"{forward.batch} pictures at a time"
    precision = f"{job.precision}, compiled" if job.compiled else job.precision
    if forward.batch < job.batch:
        batch += f" (of at most {job.batch:,}: memory, or more is not faster here)"
    print(
        f"{job.model.name} on {device_name(job.device)}, precision {precision}, "
        f"{len(job.dataset):,} {job.dataset.kind}, {job.views} view{'s' * (job.views > 1)}, {batch}, "
        f"{job.workers} reading"
    )
    if others := no_pictures(job.dataset):
        print(f"note: not pictures by their suffix, left alone: {listed(others, 5)}", file=sys.stderr)


def _check_room(job: Job, needed: int) -> None:
    """InputError when the disk has no room for the features: better now than in some hours."""
    if needed > (free := shutil.disk_usage(job.folder).free):
        less = "" if job.processor.kind.joined else "; -p adapt keeps the layers' means alone"
        told = f"-p {job.processor} writes {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free{less}"
        raise InputError(f"{_shown(job.folder)}: {told}")


def _outdated(job: Job) -> list[Path]:
    """The files that were made from the features that are to be written."""
    stems = [path.stem for path in job.outputs]
    return sorted(path for path in job.folder.iterdir() if any(made_from(stem, path.name) for stem in stems))


def _check_outdated(job: Job) -> None:
    """InputError for reduced features whose source is gone: they are removed only when that is asked for."""
    if not job.overwrite and (outdated := _outdated(job)):
        raise InputError(f"{_shown(outdated[0])}: made from other features; --overwrite removes it")


def _remove_outdated(job: Job) -> None:
    """Removes what tells of, or was made from, the features that are about to be replaced."""
    for output in job.outputs:
        output.with_suffix(".json").unlink(missing_ok=True)
    for path in _outdated(job):
        path.unlink()
        print(f"{_shown(path)}: removed; it was made from the features that are replaced")


def _warn(job: Job, skipped: int) -> None:
    """Says on stderr that something was left out."""
    if skipped:
        told = _shown(job.outputs[0].with_suffix(".json"))
        print(f"warning: {skipped:,} left out; {told} tells which and why", file=sys.stderr)


def reduce(job: Job, part: Reduction) -> None:
    """The second stage: features -> a PCA and the features reduced by it."""
    source, target, components = job.file(part.source), job.file(part.target), job.processor.components or 0
    rows = open_features(source)
    _check_components(job, part, rows.count * len(rows.sides))
    pca_file = job.folder / f"{part.pca}.skops"
    try:
        pca = reduce_features(source, target, pca_file, components, job.device, part.columns)
    except torch.OutOfMemoryError as error:
        raise InputError("the GPU's memory does not hold the PCA; the features are kept, go on with --cpu") from error
    kept = float(pca.explained_variance_ratio_.sum())
    provenance.record_reduced(target, source, components, kept, job.flags, part.layer)
    shown = f"{components} numbers a picture, {kept:.1%} of the variance; the PCA: {_shown(pca_file)}"
    print(f"{_shown(target)}: {shown}")


def _shown(path: Path) -> str:
    """A path as it can be printed on any terminal."""
    return printable(str(path))
