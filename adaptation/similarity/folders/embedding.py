"""Embed a folder of images into files: resumed, checked and streamed as `extract.py` does it, by the same code.

Images that are embedded already are not embedded again; new and changed ones are. Until all of it is whole, the
features of the new images wait in `.features/`, and what was there before stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptation.similarity.folders.embedded import (
    Block,
    Contents,
    Embedded,
    existing_in,
    read_states,
    states_of,
    write_embedded,
)
from adaptation.similarity.similarity import ROWS, Similarity
from common.errors import InputError, printable
from common.machine.device import arithmetic_of
from common.record import differences, package_versions, read_record
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.backbones.inference import BATCH
from featuresExtractor.features.features_file import Rows, name_field, open_features
from featuresExtractor.images.settings import MOST_PIXELS
from featuresExtractor.job import Job
from featuresExtractor.pipeline import extract_features
from featuresExtractor.plan import NoneReadable
from featuresExtractor.recorded import plan_of, settings_of

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from adaptation.similarity.learned.networks import Network
    from featuresExtractor.images.folders.dataset import Dataset

    Names = tuple[str, ...]

logger = logging.getLogger(__name__)

PART, WAITING = "embeddings", ".features"


@dataclass(frozen=True)
class Options:
    """How images are embedded: `batch` at a time at most, read by `workers` threads; with `skip` those that cannot be
    read are left out; with `links` they may lie behind links; with `overwrite` embeddings by another similarity are
    replaced; images of more than `max_pixels` pixels are refused; `flags` is the command line, for the record."""

    batch: int = BATCH
    workers: int = 1
    skip: bool = False
    links: bool = False
    overwrite: bool = False
    max_pixels: int | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class New:
    """Features of new items: a file of each network, where each item is in it, and what was skipped."""

    files: Sequence[Rows] = ()
    places: Sequence[Mapping[Names, int]] = ()
    skipped: Sequence[Mapping[str, str]] = ()

    def __contains__(self, names: Names) -> bool:
        return bool(self.places) and all(names in places for places in self.places)

    def features(self, side: str, items: Sequence[Names]) -> NDArray[np.float32]:
        """Return the features (n, D) of these items, those of all networks side by side."""
        parts = [
            rows.all()[side][[places[names] for names in items]]
            for rows, places in zip(self.files, self.places, strict=True)
        ]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Mixed:
    """The items of a dataset: those that exist, in row `known` (items,) of `existing`, and those with `new` features,
    for which `known` is -1."""

    dataset: Dataset
    existing: Embedded | None
    known: NDArray[np.int64]
    new: New

    def kept(self) -> NDArray[np.int64]:
        """Return the items that have features (K,), in order: all but those that were skipped."""
        kept = self.known >= 0
        for item in np.flatnonzero(~kept).tolist():
            kept[item] = _names(self.dataset, item) in self.new
        return np.flatnonzero(kept)

    def blocks(self, similarity: Similarity, kept: NDArray[np.int64]) -> Iterator[Block]:
        """Yield the rows of the `kept` items: those that exist are copied, the others are computed."""
        for first in range(0, len(kept), ROWS):
            items = kept[first : first + ROWS]
            names = [_names(self.dataset, item) for item in items.tolist()]
            fresh = [of_item for of_item, row in zip(names, self.known[items], strict=True) if row < 0]
            yield Block(
                names, [self._vectors(similarity, side, self.known[items], fresh) for side in self.dataset.sides]
            )

    def _vectors(
        self, similarity: Similarity, side: str, known: NDArray[np.int64], fresh: Sequence[Names]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The frozen features and the embeddings of items, of which the `fresh` ones do not exist yet."""
        frozen = np.empty((len(known), similarity.learned.reduced), np.float32)
        adapted = np.empty((len(known), similarity.width), np.float32)
        old = known >= 0
        if fresh:
            frozen[~old], adapted[~old] = similarity.vectors(self.new.features(side, fresh))
        if self.existing is not None:
            frozen[old], adapted[old] = (each[known[old]] for each in self.existing.vectors(side))
        return frozen, adapted


def embed_dataset(similarity: Similarity, dataset: Dataset, folder: Path, options: Options) -> Embedded:
    """Embed the images or the pairs of a dataset into `folder`, those alone that are not there yet, and return all of
    them in the order of the dataset. InputError for images that cannot be read, unless they are skipped, and for the
    folder of the images itself: as a gallery it would count as embedded, and new images in it be overlooked."""
    if folder.is_dir() and folder.samefile(dataset.root):
        raise InputError(f"{printable(str(folder))}: holds the images; embeddings need a folder of their own (-s)")
    with held(folder):
        staging = Staging(folder, PART)
        staging.complete()
        existing = existing_in(folder, similarity, dataset.sides, options.overwrite)
        known = _known(dataset, existing)
        already = int((known >= 0).sum())
        if 0 < already < len(dataset):
            logger.info(f"{already:,} of {len(dataset):,} {dataset.kind} are embedded already")
            _report_others(existing, similarity)
        new = _features_of_new(similarity, _only(dataset, known < 0), folder / WAITING, options, already > 0)
        embedded = _written(similarity, staging, Mixed(dataset, existing, known, new), options)
        shutil.rmtree(folder / WAITING, ignore_errors=True)
        _warn_of_skipped(folder, new)
        return embedded


def _written(similarity: Similarity, staging: Staging, mixed: Mixed, options: Options) -> Embedded:
    """Write what is not there in just this way."""
    dataset, existing, kept = mixed.dataset, mixed.existing, mixed.kept()
    record = {"folder": str(dataset.root.resolve()), "skipped": list(mixed.new.skipped)}
    if existing is not None and np.array_equal(mixed.known[kept], np.arange(len(existing))):
        recorded = read_record(existing.embeddings.path)
        if record == {name: recorded.get(name) for name in record}:
            logger.info(f"{printable(str(staging.folder))}: all {len(kept):,} {dataset.kind} are embedded here already")
            return existing
    blocks, states = mixed.blocks(similarity, kept), states_of(dataset.states, len(dataset.sides))[kept]
    contents = Contents(dataset.sides, dataset.longest_name, len(kept), blocks, record, states)
    return write_embedded(similarity, staging, contents, options.flags)


def _report_others(existing: Embedded | None, similarity: Similarity) -> None:
    """Report where what exists was made by another device, or by libraries of other versions, than new images are."""
    record = {} if existing is None else read_record(existing.embeddings.path)
    recorded = {"device": record.get("device"), **record.get("versions", {})}
    asked = {"device": arithmetic_of(similarity.device), **package_versions()}
    if differing := differences(recorded, asked):
        logger.warning(f"note: the last digits of new images may differ: {'; '.join(differing)}")


def _warn_of_skipped(folder: Path, new: New) -> None:
    if new.skipped:
        path = printable(str(folder / "embeddings.json"))
        logger.warning(f"warning: {len(new.skipped):,} skipped; {path} lists which and why")


def _names(dataset: Dataset, item: int) -> Names:
    """The names of the images of an item in the files."""
    return tuple(dataset.row_name(path) for path in dataset.items[item])


def _known(dataset: Dataset, existing: Embedded | None) -> NDArray[np.int64]:
    """For each item of the dataset the row that it has already; -1 for new and for changed ones."""
    known = np.full(len(dataset), -1)
    if existing is None or not _is_same_folder(dataset, existing) or (states := read_states(existing)) is None:
        return known
    rows = {names: row for row, names in enumerate(existing.items())}
    known[:] = [rows.get(_names(dataset, item), -1) for item in range(len(dataset))]
    same = (states[known] == states_of(dataset.states, len(dataset.sides))).all(axis=1)
    return np.where(same, known, -1)


def _is_same_folder(dataset: Dataset, existing: Embedded) -> bool:
    """Whether images of one name may be the same: in one folder, or in one that was moved. (Files of two folders may
    well have a name, a size and a time in common, such as those of archives.)"""
    root = existing.root
    return root is None or root == dataset.root.resolve() or not os.path.exists(root)  # noqa: PTH110  # never raises


def _only(dataset: Dataset, wanted: NDArray[np.bool_]) -> Dataset:
    """The dataset with the wanted items alone."""
    chosen = wanted.nonzero()[0].tolist()
    return replace(dataset, items=[dataset.items[i] for i in chosen], seen=[dataset.states[i] for i in chosen])


def _features_of_new(similarity: Similarity, missing: Dataset, waiting: Path, options: Options, others: bool) -> New:
    """Extract the features of new items with every network. The same items find what an interrupted call left of them.
    Where there are `others`, it may be that none of the new ones can be read."""
    skipped: list[Mapping[str, str]] = [vars(each).copy() for each in missing.skipped]
    if not missing.items:
        return New(skipped=skipped)
    jobs = [_job(network, missing, waiting, similarity.device, options) for network in similarity.networks]
    _remove_others(waiting, [job.folder for job in jobs])
    try:
        for job in jobs:
            found = extract_features(job)["skipped"]
            skipped += [each for each in found if each not in skipped]
    except NoneReadable as error:
        if not others:
            raise
        return New(skipped=[vars(each).copy() for each in error.skipped])
    finally:
        _remove_empty(waiting)
    files = [open_features(job.outputs[0]) for job in jobs]
    return New(files, [_places(rows) for rows in files], skipped)


def _remove_others(waiting: Path, folders: Sequence[Path]) -> None:
    """Remove features that wait for other items, or are of other networks or devices."""
    for path in waiting.iterdir() if waiting.is_dir() else ():
        if path not in folders:
            logger.warning(f"note: {printable(str(path))}: unfinished, of other images or settings: removed")
            shutil.rmtree(path)


def _remove_empty(waiting: Path) -> None:
    """Remove the folders of extractions that kept nothing."""
    for path in [*(waiting.iterdir() if waiting.is_dir() else ()), waiting]:
        with suppress(OSError):  # which says that something is in it
            path.rmdir()


def _places(rows: Rows) -> dict[Names, int]:
    table = rows.all()
    names = zip(*(table[name_field(side)].tolist() for side in rows.sides), strict=True)
    return {each: row for row, each in enumerate(names)}


def _job(network: Network, missing: Dataset, waiting: Path, device: torch.device, options: Options) -> Job:
    """The extraction of the features of new items with one network. Its folder tells it from that of other items, and
    from all that could not resume it."""
    job = Job(
        network.model,
        network.processor,
        missing,
        waiting,
        device,
        views=1,
        batch=options.batch,
        workers=options.workers,
        weights="random" if network.weights.file is None else str(network.weights.file),
        seed=network.weights.seed or 0,
        skip=options.skip,
        links=options.links,
        precision=network.precision,
        decoding=replace(network.decoding, max_pixels=options.max_pixels or MOST_PIXELS),
        flags=options.flags,
    )
    plan = json.dumps(plan_of(job, settings_of(job, network.weights)))
    return replace(job, folder=waiting / hashlib.sha256(plan.encode()).hexdigest()[:16])
