"""A whole job, in two stages: images -> features of the layers -> their principal components. Tells on the terminal.

The stages meet in the files of features alone, so that another number of components costs no second extraction.
"""

from __future__ import annotations

import gc
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import InputError, OutOfMemory, listed, printable
from common.machine.device import device_name, empty_cache
from common.machine.shortage import explained
from common.machine.system import bytes_on_disk
from common.record import package_versions
from common.storage.files import partial_name
from common.storage.lock import held
from featuresExtractor import provenance
from featuresExtractor.backbones.activations import TappedBackbone, reduction
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone
from featuresExtractor.extractor import Report, extract, kept
from featuresExtractor.features.alike import ZERO, fault_of
from featuresExtractor.features.features_file import FeaturesWriter, open_features, row_type
from featuresExtractor.images.folders.dataset import Dataset
from featuresExtractor.images.loader import check_images, without
from featuresExtractor.images.pixels.color import summed_up
from featuresExtractor.job import Job
from featuresExtractor.journal import Journal
from featuresExtractor.pca import check_components
from featuresExtractor.processor import Reduction, made_from, reduce_features


def run_all(jobs: Sequence[Job]) -> tuple[dict[str, str], int]:
    """Runs the jobs one after the other; the failures as `{model: reason}`, and how much was left out. None of them
    stops the others."""
    failed, left_out = {}, 0
    for number, job in enumerate(jobs, 1):
        print(f"\n[{number}/{len(jobs)}] {job.model.name}", flush=True)
        try:
            left_out += run_job(job)
        except (InputError, OSError) as error:  # wrong input, no network, a full disk
            failed[job.model.name] = printable(explained(error) or str(error).removeprefix(f"{job.model.name}: "))
        except Exception as error:  # a full memory, or a fault of the program or of a library: the night goes on
            if (full := explained(error)) is None:
                traceback.print_exc()
            failed[job.model.name] = printable(full or f"{type(error).__name__}: {error}".splitlines()[0])
        if job.model.name in failed:
            print(f"{job.model.name} failed: {failed[job.model.name]}", file=sys.stderr)
        gc.collect()
        empty_cache()
    return failed, left_out


def run_job(job: Job) -> int:
    """Both stages, as far as the processor asks for them; says on the terminal what was made. Returns how much was left
    out."""
    for part in job.reductions:
        _check_components(job, part, len(job.dataset) * job.vectors)
    try:
        with held(job.folder):
            return _run_stages(job)
    finally:
        if job.folder.is_dir() and not any(job.folder.iterdir()):  # nothing came of it
            job.folder.rmdir()


def _check_components(job: Job, part: Reduction, rows: int) -> None:
    """InputError when a PCA asks for more than there is."""
    try:
        check_components(job.processor.components or 0, rows, part.stop - part.start)
    except InputError as error:
        raise InputError(f"{job.model.name}, layer {part.layer}: {error}" if part.layer else str(error)) from error


def _run_stages(job: Job) -> int:
    _check_own(job)
    journal = Journal(job.outputs)
    if named := journal.sealed is not None:
        _give_names(job, journal)  # the last step of what was cut short
    weights = find_weights(job.model, job.weights, job.seed)
    activation = job.processor.kind.activation
    chosen = provenance.settings(job.model, weights, job.dataset, job.views, activation, job.precision, job.decoding)
    facts = _reusable(job, chosen, named)
    if facts is None:
        facts = extract_features(job, weights, chosen, journal)
    else:
        more = f" (and {len(job.outputs) - 1} more)" if len(job.outputs) > 1 else ""
        print(f"{_shown(job.outputs[0])}{more} is there and was made in the same way: used again")
        if journal.begun:
            print(f"note: {_shown(journal.path)}: begun with --overwrite, which goes on with it", file=sys.stderr)
    _warn_of_remarks(facts.get("remarks") or {})
    if job.processor.kind.joined:
        _check_varied(job)
    for part in job.reductions:
        if job.overwrite or not _is_reduced(job, part):
            reduce(job, part)
    return _warn(job, len(facts["skipped"]))


def _check_varied(job: Job) -> None:
    """InputError for features of which nothing can be learned, a warning where that is so of one side alone. The file
    stays, for whoever looks for the cause."""
    rows = open_features(job.outputs[0])
    originals = np.arange(rows.count // job.views)
    faults = {side: fault for side in rows.sides if (fault := fault_of(rows.all()[side], originals))}
    for side, fault in faults.items():
        message = f"{_shown(job.outputs[0])}: the {side} vectors are {fault}"
        if len(faults) == len(rows.sides) or fault.startswith(ZERO):
            raise InputError(message)
        print(f"warning: {message}", file=sys.stderr)


def _is_reduced(job: Job, part: Reduction) -> bool:
    """Whether the PCA and the features reduced by it are there; says so, or why they are made again."""
    target, there = job.file(part.target), (job.folder / f"{part.pca}.skops").exists()
    if there and provenance.is_made_from(target, job.file(part.source)):
        print(f"{_shown(target)} is there and was made from it")
        return True
    if target.exists():
        print(f"{_shown(target)}: is not what its .json tells of, or has no PCA beside it: made again", file=sys.stderr)
    return False


def _check_own(job: Job) -> None:
    """InputError for a file in the place of reduced features that nothing tells of: it may be anyone's."""
    for part in job.reductions:
        target = job.file(part.target)
        if target.exists() and not target.with_suffix(".json").exists() and not job.overwrite:
            told = "already there, and no .json beside it says how it was made"
            raise InputError(f"{_shown(target)}: {told}; --overwrite replaces it")


def _reusable(job: Job, chosen: Mapping[str, Any], named: bool) -> dict[str, Any] | None:
    """The record of features that are there and need not be made again; None where they are to be made.

    With `--overwrite` features that fit are kept for another PCA, and made again when they are themselves asked for,
    but for those that were only just `named`.
    """
    try:
        facts = [provenance.same_features(path, chosen) for path in job.outputs]
    except InputError:
        if not job.overwrite:
            raise
        return None
    again = job.overwrite and not job.reductions and not named
    return None if None in facts or again else facts[0]


def extract_features(job: Job, weights: Weights, chosen: Mapping[str, Any], journal: Journal) -> dict[str, Any]:
    """The first stage: images -> the files of the backbone's outputs. Goes on where the journal ends; returns what
    the `.json` says."""
    readable = replace(job, dataset=_readable(job))
    journal.check(_begun(readable, chosen), job.overwrite)
    if journal.begun is None:
        _check_outdated(job)
    kind = job.processor.kind
    backbone = load_backbone(job.model, weights)
    tapped = TappedBackbone(backbone, tuple(job.model.layers), reduction(kind.activation, job.model))
    forward = _forward(job, tapped)
    report = _write_features(readable, forward, journal, chosen, weights)
    for path, sizes in zip(job.outputs, forward.shapes, strict=True):
        shape = " x ".join(f"{size:,}" for size in sizes)
        print(f"{_shown(path)}: {report.written:,} {job.dataset.kind}, {shape} numbers an image")
    if report.images:
        print(report.summary())
    remarks = provenance.remarks_of(report)
    return {"skipped": [*readable.dataset.skipped, *report.skipped], "remarks": remarks}


def _begun(job: Job, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What an extraction must have in common with one that goes on with it, to the last digit. The images may differ
    where they were not read yet."""
    return {
        **chosen,
        "dataset": {"kind": job.dataset.kind, "names": job.dataset.names_digest()},
        "device": job.device.type,
        "compiled": job.compiled,
        "versions": package_versions(),
    }


def _readable(job: Job) -> Dataset:
    """The images that can be read, by their headers: better seen now than after some hours. InputError where there
    are others, or with `skip` where there is nothing else."""
    faults = check_images(job.dataset, job.model.preprocessing, job.workers, job.links, job.decoding)
    if not faults:
        return job.dataset
    if not job.skip:
        for fault in faults:
            print(printable(f"{fault.name}: {fault.reason}"), file=sys.stderr)
        told = f"{len(faults):,} of the images cannot be read (named above)"
        raise InputError(f"{job.dataset.root}: {told}; mend or remove them, or --on-error skip leaves such pairs out")
    dataset = without(job.dataset, faults)
    if not dataset.items:
        raise _none_readable(job)
    for part in job.reductions:
        _check_components(job, part, len(dataset) * job.vectors)
    return dataset


def _none_readable(job: Job) -> InputError:
    fault = f"none of its {len(job.dataset):,} {job.dataset.kind} could be read"
    return InputError(f"{job.dataset.root}: {fault}")


def _forward(job: Job, tapped: TappedBackbone) -> Forward:
    """The backbone on its device; InputError for one that cannot take the paper's images."""
    joined = job.processor.kind.joined is not None
    try:
        return Forward(
            tapped, job.model.preprocessing, job.views, job.device, job.batch, joined, job.precision, job.compiled
        )
    except (AssertionError, RuntimeError) as error:
        if job.model.preprocess == "own":
            raise
        size, reason = job.model.preprocessing.crop, " ".join(str(error).split())
        told = f"{job.model.name}: takes no images of {size} pixels, which --preprocess paper gives"
        raise InputError(f"{told}: {reason}") from error


def _write_features(
    job: Job, forward: Forward, journal: Journal, chosen: Mapping[str, Any], weights: Weights
) -> Report:
    """Runs the loop under a line that says what runs, and gives the files their names."""
    _announce(job, forward)
    rows = [row_type(job.dataset.sides, shape, job.dataset.longest_name) for shape in forward.shapes]
    reduced = row_type(job.dataset.sides, job.processor.components or 0, job.dataset.longest_name)
    numbers = sum(row.itemsize for row in rows) + reduced.itemsize * len(job.reductions)
    _check_room(job, numbers * len(job.dataset) * job.views)
    count, again = len(job.dataset), journal.begun is not None
    with ExitStack() as stack:
        stack.callback(journal.close)
        writers = [
            stack.enter_context(FeaturesWriter(path, row, count, job.views, keep=True, again=again))
            for path, row in zip(job.outputs, rows, strict=True)
        ]
        if again:
            forward.batch = min(forward.batch, journal.batch)
            journal.verify(job.dataset, writers)
            print(f"going on: {journal.items:,} of {count:,} {job.dataset.kind} are done")
        journal.begin(_begun(job, chosen), forward.batch)
        with _told_what_is_kept(job, journal):
            report = extract(job.dataset, forward, writers, journal, job.workers, job.skip, job.decoding)
            if not report.written:
                raise _none_readable(job)
            facts = partial(
                provenance.facts_of, chosen, weights.origin, report, job.dataset, job.flags, read=weights.read
            )
            _seal(job, writers, journal, facts)
    _give_names(job, journal)
    return report


def _seal(
    job: Job, writers: Sequence[FeaturesWriter], journal: Journal, facts: Callable[[str], dict[str, Any]]
) -> None:
    """Makes the files whole, as far as their names."""
    which = kept(job.dataset, journal)
    journal.seal([{"facts": facts(writer.seal(which)), "file": writer.whole.name} for writer in writers])


def _give_names(job: Job, journal: Journal) -> None:
    """Puts sealed files, which may be those of another call, in the place of what was there."""
    _remove_outdated(job, journal.files)
    journal.give_names()


@contextmanager
def _told_what_is_kept(job: Job, journal: Journal) -> Iterator[None]:
    """Says after an error that not all is lost."""
    try:
        yield
    except Exception:
        if journal.items:
            told = f"{journal.items:,} of {len(job.dataset):,} {job.dataset.kind} are done and kept"
            print(f"note: {told}: the same command goes on from there", file=sys.stderr)
        raise


def _announce(job: Job, forward: Forward) -> None:
    """What runs, and on what."""
    batch = f"{forward.batch} images at a time"
    precision = f"{job.precision}, compiled" if job.compiled else job.precision
    if forward.batch < job.batch:
        batch += f" (of at most {job.batch:,}: memory, or more is not faster here)"
    print(
        f"{job.model.name} on {device_name(job.device)}, precision {precision}, "
        f"{len(job.dataset):,} {job.dataset.kind}, {job.views} view{'s' * (job.views > 1)}, {batch}, "
        f"{job.workers} reading"
    )


def _check_room(job: Job, needed: int) -> None:
    """InputError when the disk has no room for the features: better now than in some hours."""
    needed -= sum(bytes_on_disk(partial_name(output)) for output in job.outputs)
    if needed > (free := shutil.disk_usage(job.folder).free):
        less = "" if job.processor.kind.joined else "; -p adapt keeps the layers' means alone"
        told = f"-p {job.processor} writes {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free{less}"
        raise InputError(f"{_shown(job.folder)}: {told}")


def _outdated(job: Job, files: Sequence[str]) -> list[Path]:
    """The files that were made from features that are to be written."""
    stems = [Path(name).stem for name in files]
    return sorted(path for path in job.folder.iterdir() if any(made_from(stem, path.name) for stem in stems))


def _check_outdated(job: Job) -> None:
    """InputError for reduced features whose source is gone: they are removed only when that is asked for."""
    if not job.overwrite and (outdated := _outdated(job, [path.name for path in job.outputs])):
        raise InputError(f"{_shown(outdated[0])}: made from features that are not here; --overwrite removes it")


def _remove_outdated(job: Job, files: Sequence[str]) -> None:
    """Removes what tells of, or was made from, the features that are about to be replaced."""
    for name in files:
        (job.folder / name).with_suffix(".json").unlink(missing_ok=True)
    for path in _outdated(job, files):
        path.unlink()
        print(f"{_shown(path)}: removed; it was made from the features that are replaced")


def _warn(job: Job, skipped: int) -> int:
    """Says on stderr that something was left out, and returns how much."""
    if skipped:
        told = _shown(job.outputs[0].with_suffix(".json"))
        print(f"warning: {skipped:,} left out; {told} tells which and why", file=sys.stderr)
    return skipped


def _warn_of_remarks(remarks: Mapping[str, Sequence[str]]) -> None:
    """Lists on stderr what a person should know about the images, each remark with the images that it is about."""
    for text, names in summed_up(remarks).items():
        images = "image" if len(names) == 1 else "images"
        print(printable(f"warning: {len(names):,} {images}: {text}: {listed(names, 3)}"), file=sys.stderr)


def reduce(job: Job, part: Reduction) -> None:
    """The second stage: features -> a PCA and the features reduced by it."""
    source, target, components = job.file(part.source), job.file(part.target), job.processor.components or 0
    rows = open_features(source)
    _check_components(job, part, rows.count * len(rows.sides))
    pca_file, row = job.folder / f"{part.pca}.skops", row_type(rows.sides, components, rows.name_length)
    with FeaturesWriter(target, row, rows.count) as writer:
        try:
            pca = reduce_features(rows, part.columns, writer, pca_file, components, job.device)
        except torch.OutOfMemoryError as error:
            told = "the GPU's memory does not hold the PCA; the features are kept, go on with --cpu"
            raise OutOfMemory(told) from error
        except OutOfMemory:
            raise
        except InputError as error:
            layer = f", layer {part.layer}" if part.layer else ""
            raise InputError(f"{_shown(source)}{layer}: {error}") from error
        share = float(pca.explained_variance_ratio_.sum())
        provenance.record_reduced(target, source, components, share, job.flags, writer.seal(), part.layer)
        writer.finish()
    shown = f"{components} numbers an image, {share:.1%} of the variance; the PCA: {_shown(pca_file)}"
    print(f"{_shown(target)}: {shown}")


def _shown(path: Path) -> str:
    """A path as it can be printed on any terminal."""
    return printable(str(path))
