"""A whole job: images -> features of the layers -> their principal components.

`plan` looks at everything and writes nothing, `extract` and `reduce` let the files grow in a hidden folder, `publish`
puts them in their places. All of it may be cut short anywhere; the same job resumes.
"""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, OutOfMemory, listed, printable
from common.machine.device import device_name, empty_cache
from common.machine.gpu import gpu_memory
from common.machine.shortage import explained
from common.storage.files import write_json
from common.storage.lock import held
from common.storage.staging import Staging, complete_all
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.extractor import Clock, extract_units, kept, report_of
from featuresExtractor.features.alike import check_varied
from featuresExtractor.features.features_file import FeaturesWriter, Rows, open_features, row_type
from featuresExtractor.images.pixels.color import summed_up
from featuresExtractor.job import Job
from featuresExtractor.pca import pca_digest, project_features, reduce_features, save_pca
from featuresExtractor.plan import Work, check_all_components, none_readable, plan
from featuresExtractor.processor import PcaPlan
from featuresExtractor.recorded import record_of, reduced_record, source_record
from featuresExtractor.units import Unit, missing_units, recorded_units, verified

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

logger = logging.getLogger(__name__)

NO_MEMORY = "the GPU's memory does not hold the PCA; the features are kept, continue with --cpu"

SEALED = "sealed"  # the key under which the names of whole files are recorded
Files = dict[str, Path]  # the names of files in the folder of a job, and where they are yet


def run_all(jobs: Sequence[Job]) -> tuple[dict[str, str], int]:
    """Run the jobs one after the other. Return the failures as `{model: reason}`, none of which stops the others, and
    how much was left out."""
    failed, skipped = {}, 0
    for number, job in enumerate(jobs, 1):
        logger.info(f"\n[{number}/{len(jobs)}] {job.model.name}")
        try:
            skipped += run_job(job)
        except Exception as error:  # of input, network, disk, memory or the program: the night goes on
            failed[job.model.name] = _reason(job, error)
            logger.warning(f"{job.model.name} failed: {failed[job.model.name]}")
        gc.collect()
        empty_cache()
    return failed, skipped


def _reason(job: Job, error: Exception) -> str:
    """Why a job failed, in one line."""
    if full := explained(error):
        return printable(full)
    if isinstance(error, (InputError, OSError)):
        return printable(str(error).removeprefix(f"{job.model.name}: "))
    logger.warning(traceback.format_exc())
    return printable(f"{type(error).__name__}: {error}".splitlines()[0])


def run_job(job: Job) -> int:
    """Plan, extract, reduce and publish, as far as the processor asks for them. Return how much was left out."""
    check_all_components(job, len(job.dataset))
    with held(job.folder):
        return _run(job)


def _run(job: Job) -> int:
    work = plan(job, recover(job))
    files, record = extract(work)
    if work.forward is not None:
        _report_written(work.job, work.forward, record)
    finish(work, files, record.get("remarks") or {})
    if skipped := len(record["skipped"]):
        path = printable(str(job.outputs[0].with_suffix(".json")))
        logger.warning(f"warning: {skipped:,} left out; {path} tells which and why")
    return skipped


def finish(work: Work, files: Files, remarks: Mapping[str, Sequence[str]]) -> None:
    """Say what was remarked on, reduce the features, whole `files` or those in their places, and publish."""
    try:
        _warn_of_remarks(remarks)
        if work.job.processor.recipe.joined:
            features = work.job.outputs[0]
            check_varied(features, open_features(files.get(features.name, features)), work.job.views)
        for part in work.pcas:
            files |= reduce(work, part, files)
    finally:
        publish(work, files)  # what is whole


def extract_features(job: Job) -> Mapping[str, Any]:
    """Extract the features of a job alone, without a PCA and without asking whether anything can be learned from them.
    Return their record."""
    with held(job.folder):
        work = plan(job, recover(job))
        files, record = extract(work)
        publish(work, files)
    return record


def recover(job: Job) -> bool:
    """End what was cut short in its last step. Return whether there were features that only wanted their names."""
    part = job.outputs[0].stem
    if part in complete_all(job.folder):
        return True
    staging = Staging(job.folder, part)
    sealed = {str(name): str(place) for name, place in staging.units.get(SEALED, {}).items()}
    files = {name: staging.path / Path(place).name for name, place in sealed.items()}
    if not files or not all(path.is_file() for path in files.values()):
        return False  # a power cut may have kept the line and lost a file
    _place(job, staging, files)
    return True


def extract(work: Work) -> tuple[Files, Mapping[str, Any]]:
    """Let the files of the backbone's outputs grow, from where unfinished work ended. Return them, when they are whole,
    and their record; no files where they exist in their places."""
    if work.forward is None:
        assert work.record is not None
        return {}, work.record
    _announce(work.job, work.forward)
    with ExitStack() as stack:
        work.staging.begin(work.plan, work.job.overwrite)
        stack.callback(work.staging.close)
        if SEALED in work.staging.units:  # of a file that a power cut took: it is no longer whole
            work.staging.add(SEALED, {})
        writers = [stack.enter_context(writer) for writer in _writers(work, work.forward)]
        with _said_what_is_kept(work):
            units, summary = _extract_all(work, work.forward, writers)
            files, record = _seal(work, units, writers)
    if summary:
        logger.info(summary)
    return files, record


def _report_written(job: Job, forward: Forward, record: Mapping[str, Any]) -> None:
    """Print what the new files of the backbone's outputs hold."""
    for path, sizes in zip(job.outputs, forward.shapes, strict=True):
        shape = " x ".join(f"{size:,}" for size in sizes)
        logger.info(f"{_shown(path)}: {record['written']:,} {job.dataset.kind}, {shape} dimensions")


def _writers(work: Work, forward: Forward) -> Iterator[FeaturesWriter]:
    """A file for each output of the backbone."""
    dataset = work.job.dataset
    for path, shape in zip(work.job.outputs, forward.shapes, strict=True):
        row = row_type(dataset.sides, shape, dataset.longest_name)
        yield FeaturesWriter(work.staging.path / path.name, row, len(dataset), work.job.views, work.resumed)


def _extract_all(work: Work, forward: Forward, writers: Sequence[FeaturesWriter]) -> tuple[list[Unit], str]:
    """All units, those of unfinished work and the missing ones, in order, and a line about the latter."""
    job, dataset, clock = work.job, work.job.dataset, Clock()
    units = verified(recorded_units(work.staging), dataset, writers) if work.resumed else []
    if work.resumed:
        done = sum(len(unit.items) for unit in units)
        logger.info(f"going on: {done:,} of {len(dataset):,} {dataset.kind} are done")
    parts = missing_units(len(dataset), work.size, [unit.items for unit in units])

    def record(unit: Unit) -> None:
        work.staging.add(unit.key, unit.record())

    new = list(extract_units(dataset, forward, writers, parts, job.workers, job.skip, job.decoding, clock, record))
    images = sum(len(unit.items) - len(unit.left_out) for unit in new) * job.vectors
    return sorted(units + new, key=lambda unit: unit.items.start), clock.summary(images) if images else ""


def _seal(work: Work, units: Sequence[Unit], writers: Sequence[FeaturesWriter]) -> tuple[Files, dict[str, Any]]:
    """Make the files whole, as far as their names, with a record of each. Return them, and the first record."""
    assert work.weights is not None
    assert work.forward is not None
    job, files, records = work.job, Files(), list[dict[str, Any]]()
    report = report_of(units, job.dataset)
    if not report.written:
        raise none_readable(job, report.skipped)
    for path, writer in zip(job.outputs, writers, strict=True):
        whole, digest = writer.seal(kept(job.dataset, units))
        records.append(record_of(job, work.settings, work.weights, report, digest, work.forward.layout))
        record = path.with_suffix(".json").name
        write_json(work.staging.path / record, records[-1])
        files |= {record: work.staging.path / record, path.name: whole}
    work.staging.add(SEALED, {name: path.name for name, path in files.items()}, durable=True)
    return files, records[0]


@contextmanager
def _said_what_is_kept(work: Work) -> Iterator[None]:
    """Say after an error that not all is lost."""
    try:
        yield
    except Exception:
        if done := sum(len(unit.items) for unit in recorded_units(work.staging)):
            message = f"{done:,} of {len(work.job.dataset):,} {work.job.dataset.kind} are done and kept"
            logger.warning(f"note: {message}: the same command goes on from there")
        raise


def _announce(job: Job, forward: Forward) -> None:
    """Say what runs, and on what."""
    batch = f"{forward.batch} images at a time"
    precision = f"{job.precision}, compiled" if job.compiled else job.precision
    if forward.batch < job.batch:
        batch += f" (of at most {job.batch:,}: memory, or more is not faster here)"
    logger.info(
        f"{job.model.name} on {device_name(job.device)}, precision {precision}, "
        f"{len(job.dataset):,} {job.dataset.kind}, {job.views} view{'s' * (job.views > 1)}, {batch}, "
        f"{job.workers} reading" + f", {forward.layout}" * forward.overlaps
    )


def _warn_of_remarks(remarks: Mapping[str, Sequence[str]]) -> None:
    """List what a person should know about the images, each remark with the images that it is about."""
    for text, names in summed_up(remarks).items():
        images = "image" if len(names) == 1 else "images"
        logger.warning(printable(f"warning: {len(names):,} {images}: {text}: {listed(names, 3)}"))


def reduce(work: Work, part: PcaPlan, files: Files) -> Files:
    """Reduce features, whole `files` or those in their places. Return the files of the PCA and of what it made."""
    job, staging, source, target = work.job, work.staging, work.job.file(part.source), work.job.file(part.target)
    components = job.processor.components or 0
    rows = open_features(files.get(source.name, source))
    if work.forward is None:
        staging.begin(work.plan, overwrite=True)
    new = {name: staging.path / name for name in (f"{part.pca}.skops", f"{part.target}.json", target.name)}
    pca_file, record, reduced = new.values()
    with FeaturesWriter(reduced, row_type(rows.sides, components, rows.name_length), rows.count) as writer:
        with _named(part, job):
            pca, variance = _fit_or_take(job, part, rows, writer, pca_file)
        _, digest = writer.seal()
    features = source_record(files.get(source.with_suffix(".json").name, source.with_suffix(".json")))
    write_json(record, reduced_record(job, part, features, digest, pca_digest(pca), variance))
    shown, given = _shown(job.folder / pca_file.name), f" by the PCA given ({pca_digest(pca)[:8]})" * bool(job.given)
    share = "" if variance is None else f", {variance:.1%} of the variance"
    logger.info(f"{_shown(target)}: {components} dimensions{given}{share}; the PCA: {shown}")
    return new


def _fit_or_take(
    job: Job, part: PcaPlan, rows: Rows, writer: FeaturesWriter, pca_file: Path
) -> tuple[PCA, float | None]:
    """Reduce features by a PCA that is fitted on them, or by the given one. Return it, and the share of the variance
    that it keeps."""
    if job.given is None:
        pca = reduce_features(rows, part.columns, writer, pca_file, job.processor.components or 0, job.device)
        return pca, float(pca.explained_variance_ratio_.sum())
    save_pca(job.given.pca, pca_file)
    return job.given.pca, project_features(rows, part.columns, writer, job.given.pca, job.device)


@contextmanager
def _named(part: PcaPlan, job: Job) -> Iterator[None]:
    """Name the file and the layer that a PCA could not be fitted on."""
    try:
        with gpu_memory(NO_MEMORY, job.device):
            yield
    except OutOfMemory:
        raise
    except InputError as error:
        layer = f", layer {part.layer}" if part.layer else ""
        raise InputError(f"{_shown(job.file(part.source))}{layer}: {error}") from error


def publish(work: Work, files: Files) -> None:
    """Put whole files in their places, all of them by one list of renames."""
    if files:
        _place(work.job, work.staging, files)


def _place(job: Job, staging: Staging, files: Files) -> None:
    """Put whole files, which may be those of an earlier call, in the place of what exists."""
    outdated = [path for path in job.made_from(files) if path.name not in files]
    existing = [name for name in files if (job.folder / name).exists()]
    new = {path.relative_to(staging.path).as_posix(): name for name, path in files.items()}
    staging.place(new, [*existing, *(path.name for path in outdated)])
    for path in outdated:
        logger.info(f"{_shown(path)}: removed; it was made from the features that are replaced")


def _shown(path: Path) -> str:
    """A path as it can be printed on any terminal."""
    return printable(str(path))
