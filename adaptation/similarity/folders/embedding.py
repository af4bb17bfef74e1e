"""Embed a folder of images into files: resumed, checked and streamed as `extract.py` does it, by the same code.

Images that are embedded already are not embedded again; new and changed ones are. Until all of it is whole, the
features of the new images wait in `.features/`, and what was there before stays.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptation.similarity.folders.embedded import Block, Contents, Embedded, existing_in, read_states, write_embedded
from adaptation.similarity.similarity import BATCH, ROWS, Similarity
from common.errors import printable
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.features.features_file import Rows, name_field, open_features
from featuresExtractor.job import Job
from featuresExtractor.pipeline import extract_features
from featuresExtractor.plan import NoneReadable

if TYPE_CHECKING:
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
    replaced; `flags` is the command line, for the record."""

    batch: int = BATCH
    workers: int = 1
    skip: bool = False
    links: bool = False
    overwrite: bool = False
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


def embed_dataset(similarity: Similarity, dataset: Dataset, folder: Path, options: Options) -> Embedded:
    """Embed the images or the pairs of a dataset into `folder`, those alone that are not there yet, and return all of
    them in the order of the dataset. InputError for images that cannot be read, unless they are skipped."""
    with held(folder):
        staging = Staging(folder, PART)
        staging.complete()
        existing = existing_in(folder, similarity, dataset.sides, options.overwrite)
        known = _known(dataset, existing, folder)
        if existing is not None and np.array_equal(known, np.arange(len(existing))):
            logger.info(f"{printable(str(folder))}: all {len(dataset):,} {dataset.kind} are embedded here already")
            shutil.rmtree(folder / WAITING, ignore_errors=True)  # of a call that was killed after all was done
            return existing
        if already := int((known >= 0).sum()):
            logger.info(f"{already:,} of {len(dataset):,} {dataset.kind} are embedded already")
        new = _features_of_new(similarity, _only(dataset, known < 0), folder / WAITING, options, already > 0)
        names = [tuple(dataset.row_name(path) for path in item) for item in dataset.items]
        kept = [item for item in range(len(dataset)) if known[item] >= 0 or names[item] in new]
        contents = Contents(
            dataset.sides,
            dataset.longest_name,
            len(kept),
            _blocks(similarity, dataset.sides, names, kept, known, existing, new),
            {"skipped": list(new.skipped)},
            [dataset.states[item] for item in kept],
        )
        embedded = write_embedded(similarity, staging, contents, options.flags)
        shutil.rmtree(folder / WAITING, ignore_errors=True)
        return embedded


def _known(dataset: Dataset, existing: Embedded | None, folder: Path) -> NDArray[np.int64]:
    """For each item of the dataset the row that it has already; -1 for new and for changed ones."""
    known = np.full(len(dataset), -1)
    if existing is None or (states := read_states(folder, existing)) is None:
        return known
    rows = {names: row for row, names in enumerate(existing.items())}
    for item, (paths, now) in enumerate(zip(dataset.items, dataset.states, strict=True)):
        row = rows.get(tuple(dataset.row_name(path) for path in paths))
        if row is not None and states[row].tolist() == [tuple(state) for state in now]:
            known[item] = row
    return known


def _only(dataset: Dataset, wanted: NDArray[np.bool_]) -> Dataset:
    """The dataset with the wanted items alone."""
    chosen = wanted.nonzero()[0].tolist()
    return replace(dataset, items=[dataset.items[i] for i in chosen], seen=[dataset.states[i] for i in chosen])


def _features_of_new(similarity: Similarity, missing: Dataset, waiting: Path, options: Options, others: bool) -> New:
    """Extract the features of new items with every network. The same items find what an interrupted call left of them.
    Where there are `others`, it may be that none of the new ones can be read."""
    if not missing.items:
        return New(skipped=[vars(each).copy() for each in missing.skipped])
    folder = waiting / hashlib.sha256(missing.fingerprint().encode()).hexdigest()[:16]
    for stale in waiting.iterdir() if waiting.is_dir() else ():
        if stale != folder:
            shutil.rmtree(stale)
    files: list[Rows] = []
    skipped: list[Mapping[str, str]] = []
    for number, network in enumerate(similarity.networks):
        job = _job(network, missing, folder / str(number), similarity, options)
        try:
            record = extract_features(job)
        except NoneReadable as error:
            if not others:
                raise
            return New(skipped=[vars(each).copy() for each in error.skipped])
        skipped += [each for each in record["skipped"] if each not in skipped]
        files.append(open_features(job.outputs[0]))
    return New(files, [_places(rows) for rows in files], skipped)


def _places(rows: Rows) -> dict[Names, int]:
    table = rows.all()
    names = zip(*(table[name_field(side)].tolist() for side in rows.sides), strict=True)
    return {each: row for row, each in enumerate(names)}


def _job(network: Network, missing: Dataset, folder: Path, similarity: Similarity, options: Options) -> Job:
    """The extraction of the features of new items with one network."""
    return Job(
        network.model,
        network.processor,
        missing,
        folder,
        similarity.device,
        views=1,
        batch=options.batch,
        workers=options.workers,
        weights="random" if network.weights.file is None else str(network.weights.file),
        seed=network.weights.seed or 0,
        skip=options.skip,
        links=options.links,
        precision=network.precision,
        decoding=network.decoding,
        flags=options.flags,
    )


def _blocks(
    similarity: Similarity,
    sides: tuple[str, ...],
    names: Sequence[Names],
    kept: Sequence[int],
    known: NDArray[np.int64],
    existing: Embedded | None,
    new: New,
) -> Iterator[Block]:
    """The rows of the `kept` items: those that exist are copied, the others are computed from the features of `new`."""
    for first in range(0, len(kept), ROWS):
        items = kept[first : first + ROWS]
        rows = known[items]
        fresh = [names[item] for item, row in zip(items, rows, strict=True) if row < 0]
        vectors = []
        for side in sides:
            frozen = np.empty((len(items), similarity.learned.reduced), np.float32)
            adapted = np.empty((len(items), similarity.width), np.float32)
            if fresh:
                frozen[rows < 0], adapted[rows < 0] = similarity.vectors(new.features(side, fresh))
            if existing is not None:
                old = existing.vectors(side)
                frozen[rows >= 0], adapted[rows >= 0] = (each[rows[rows >= 0]] for each in old)
            vectors.append((frozen, adapted))
        yield Block([names[item] for item in items], vectors)
