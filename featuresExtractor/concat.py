"""Features of several backbones side by side: a file made of theirs, row by row, and a PCA of all where one is wanted.

Rows are matched by their names and their view. Copying takes seconds where the images took hours: what was cut short
is begun anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, listed, printable
from common.machine.resources import require_disk
from common.machine.system import bytes_on_disk
from common.progress import progress
from common.record import check_whole, differences, make_record
from common.storage.files import write_json
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.features import features_file
from featuresExtractor.features.features_file import FeaturesWriter, Rows, name_field, open_features, row_type
from featuresExtractor.features.table import row_label
from featuresExtractor.job import GivenPca, Job
from featuresExtractor.pca import check_memory
from featuresExtractor.pipeline import SEALED, Files, finish, recover
from featuresExtractor.plan import (
    Work,
    check_all_components,
    check_disk,
    check_outdated,
    check_own,
    existing,
    reduction,
    warn_of_other_pca,
)
from featuresExtractor.processor import Processor
from featuresExtractor.recorded import source_record

logger = logging.getLogger(__name__)

LONGEST = 120  # bytes of a folder's name, of the 255 that file systems take

Row = tuple[str | int, ...]


@dataclass(frozen=True)
class Part:
    """The features of one backbone: its name, the file, and what is recorded of it."""

    name: str
    path: Path
    record: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its numbers depend on."""
        settings: Mapping[str, Any] = self.record["settings"]
        return settings


def joined_folder(folders: Sequence[str]) -> str:
    """Return the name of the folder for features of the models of these folders: `a+b`, or where that is too long its
    beginning and a digest of it."""
    name = "+".join(folders)
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def joined_job(jobs: Sequence[Job], processor: Processor, save: Path, given: GivenPca | None = None) -> Job:
    """Return the job of the features of all `jobs` side by side, in a folder within `save`, which `processor` may have
    reduced. Its model is none that could be built: it has the name of all, and the layers of all.

    InputError for what would keep it from being done once the features of `jobs` are there.
    """
    models = [job.model for job in jobs]
    model = Backbone(
        name=" + ".join(model.name for model in models),
        library="",
        architecture="",
        preprocessing=models[0].preprocessing,
        layers={f"{model.name} {layer}": width for model in models for layer, width in model.layers.items()},
    )
    folder = save / joined_folder([model.folder for model in models])
    joined = replace(jobs[0], model=model, processor=processor, folder=folder, given=given)
    _check_before(joined, jobs)
    return joined


def _check_before(job: Job, jobs: Sequence[Job]) -> None:
    """InputError, before the first image, for the components of the PCA, its memory, and the disk for all features."""
    check_all_components(job, len(job.dataset))
    if job.pcas and not job.given:
        check_memory(job.model.width, job.device, "take fewer backbones, or -p adapt")
    wanted = [each for each in (*jobs, job) if not each.outputs[0].exists()]
    sizes = [row_type(job.dataset.sides, each.model.width, job.dataset.longest_name).itemsize for each in wanted]
    grown = [bytes_on_disk(Staging(each.folder, each.outputs[0].stem).path / each.outputs[0].name) for each in wanted]
    needed = sum(sizes) * len(job.dataset) * job.views - sum(grown)
    require_disk(needed, job.folder, "--concat, with the features of each model, takes", "make room")


def concatenate(job: Job, jobs: Sequence[Job]) -> None:
    """Put the features of `jobs`, which exist, side by side as those of `job`; reduce and publish them.

    Features that were made from the very same files are used again. InputError for those made from others, but with
    `overwrite`, and where the files do not hold the same rows.
    """
    with ExitStack() as stack:
        for each in (*jobs, job):
            stack.enter_context(held(each.folder))
        recovered = recover(job)
        parts = [_part(each) for each in jobs]
        work = _plan(job, parts, recovered)
        finish(work, {} if work.record else _join(work, parts), {})


def _part(job: Job) -> Part:
    path = job.outputs[0]
    return Part(job.model.name, path, source_record(path.with_suffix(".json")))


def _plan(job: Job, parts: Sequence[Part], recovered: bool) -> Work:
    """The work of joining features and of reducing them, as far as it is not done."""
    check_own(job)
    settings, sources = _settings(job, parts), {part.name: part.record["sha256"] for part in parts}
    warn_of_other_pca(job, settings)
    record = existing(job, settings, recovered)
    if record is not None and (differing := differences(record, {"sources": sources})):
        if not job.overwrite:
            path = printable(str(job.outputs[0]))
            raise InputError(f"{path}: made from other features ({'; '.join(differing)}); --overwrite replaces it")
        record = None
    if record is not None:
        return reduction(job, None, settings, record)
    check_outdated(job)
    staging = Staging(job.folder, job.outputs[0].stem)
    check_disk(job, staging, [(job.model.width,)], job.pcas)
    return Work(job, None, settings, {**settings, "sources": sources}, staging, False, job.pcas)


def _settings(job: Job, parts: Sequence[Part]) -> dict[str, Any]:
    """Everything that the joined numbers depend on. InputError for features of other images or views than the first."""
    shared = {name: parts[0].settings.get(name) for name in ("views", "dataset")}
    for part in parts:
        if differing := differences(part.settings, shared):
            message = f"its features are not of the images that {parts[0].name} has ({'; '.join(differing)})"
            raise InputError(f"{printable(str(part.path))}: {message}; --overwrite extracts them again")
    return {"model": job.model.name, "backbones": [dict(part.settings) for part in parts], **shared}


def _join(work: Work, parts: Sequence[Part]) -> Files:
    """Let the file of all features grow. Return it, when it is whole, and its record."""
    job, staging, path = work.job, work.staging, work.job.outputs[0]
    for part in parts:
        check_whole(part.path, part.record)
    files = [open_features(part.path) for part in parts]
    orders = [_order(parts, files, number) for number in range(len(parts))]
    if staging.plan is not None:
        staging.remove()
    staging.begin(work.plan, overwrite=True)
    with ExitStack() as stack:
        stack.callback(staging.close)
        row = row_type(files[0].sides, sum(rows.width for rows in files), max(rows.name_length for rows in files))
        writer = stack.enter_context(FeaturesWriter(staging.path / path.name, row, files[0].count))
        _copy(files, orders, writer)
        whole, digest = writer.seal()
        record = path.with_suffix(".json").name
        write_json(staging.path / record, _record(work, parts, digest))
        made = {record: staging.path / record, path.name: whole}
        staging.add(SEALED, {name: place.name for name, place in made.items()}, durable=True)
    widths = " + ".join(f"{rows.width:,}" for rows in files)
    logger.info(f"{printable(str(path))}: {widths} = {job.model.width:,} dimensions of {job.model.name}")
    return made


def _record(work: Work, parts: Sequence[Part], digest: str) -> dict[str, Any]:
    """The record of joined features of this SHA-256; what was left out is the same for all parts."""
    first = parts[0].record
    contents = {
        "weights_origin": {part.name: part.record.get("weights_origin") for part in parts},
        "sources": work.plan["sources"],
        **{name: first.get(name) for name in ("written", "device")},
        **{name: first.get(name) or [] for name in ("skipped", "not_read")},
    }
    return {"sha256": digest, **make_record(work.settings, work.job.flags, **contents)}


def _copy(files: Sequence[Rows], orders: Sequence[NDArray[np.int64] | None], writer: FeaturesWriter) -> None:
    """Write the rows of the first file with the vectors of all, some 64 MB at a time."""
    first, sides = files[0], files[0].sides
    step = max(1, features_file.CHUNK_BYTES // writer.row.itemsize)
    stops = np.cumsum([rows.width for rows in files]).tolist()
    with progress(first.count, "concat", "rows") as bar:
        for start in range(0, first.count, step):
            block = np.empty(min(step, first.count - start), writer.row)
            for rows, order, stop in zip(files, orders, stops, strict=True):
                some = rows.some(start, step) if order is None else rows.all()[order[start : start + step]]
                for side in sides:
                    block[side][:, stop - rows.width : stop] = some[side]
                if rows is first:
                    for name in _keys(first):
                        block[name] = some[name]
            writer.put(start, [block])
            bar.update(len(block))


def _keys(rows: Rows) -> list[str]:
    """The fields that tell a row from the others."""
    return [*map(name_field, rows.sides), "view"]


def _order(parts: Sequence[Part], files: Sequence[Rows], number: int) -> NDArray[np.int64] | None:
    """The rows of a file that belong to those of the first one; None where they are in the same order. InputError where
    one of both has a row that the other lacks."""
    first, other = files[0], files[number]
    if first.sides != other.sides:
        raise InputError(f"{printable(str(other.path))}: holds {' and '.join(other.sides)}, and {first.path} does not")
    if _in_the_same_order(first, other):
        return None
    places, wanted = _places(other), _places(first)
    lacking = {parts[0].name: wanted.keys() - places.keys(), parts[number].name: places.keys() - wanted.keys()}
    if told := [f"of {name} alone {_listed(rows)}" for name, rows in lacking.items() if rows]:
        advice = "replace these images or skip them (--subset), and extract again with --overwrite"
        raise InputError(f"{parts[0].name} and {parts[number].name} have other rows: {'; '.join(told)}; {advice}")
    return np.array([places[row] for row in wanted])


def _in_the_same_order(first: Rows, other: Rows) -> bool:
    """Whether two files hold the same names and views, row by row. (A memory map would hold all of their pages.)"""
    step = max(1, features_file.CHUNK_BYTES // first.row.itemsize)
    pairs = ((first.some(row, step), other.some(row, step)) for row in range(0, first.count, step))
    return first.count == other.count and all(
        np.array_equal(ours[field], theirs[field]) for ours, theirs in pairs for field in _keys(first)
    )


def _places(rows: Rows) -> dict[Row, int]:
    """The place of each row by its names and view; InputError where two rows have the same."""
    keys = (
        key for chunk in rows.chunks() for key in zip(*(chunk[field].tolist() for field in _keys(rows)), strict=True)
    )
    places: dict[Row, int] = {key: place for place, key in enumerate(keys)}
    if len(places) < rows.count:
        raise InputError(f"{printable(str(rows.path))}: holds rows of the same names and view; extract it again")
    return places


def _listed(rows: set[Row]) -> str:
    """Names of rows for a message, each once."""
    names = sorted({row_label((str(row[0]), str(row[-2]))) for row in rows})
    return listed(names, 3)
