"""Search a gallery of images: both sides are embedded, as far as they are not yet; each query gets its k nearest."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adaptation.similarity.folders.embedded import (
    EMBEDDINGS,
    Embedded,
    is_unchanged,
    open_embedded,
    read_states,
    states_of,
)
from adaptation.similarity.folders.embedding import Options, embed_dataset
from adaptation.similarity.folders.images import images_at
from adaptation.similarity.folders.results import cosine, percentage
from adaptation.similarity.others import check_k, ranks_among_others, search_others
from adaptation.similarity.search import Neighbours
from adaptation.similarity.similarity import Similarity
from common.errors import InputError, printable
from common.names.matching import match
from featuresExtractor.images.folders.dataset import FLAT_SIDES, Dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adaptation.similarity.search import Vectors

logger = logging.getLogger(__name__)

SIDE = FLAT_SIDES[0]
FILE = "results.csv"
HEADER = (
    *("query", "rank", "name", "cosine", "percentile_strangers", "percentile_partners"),
    *("frozen_cosine", "frozen_rank"),
)


@dataclass(frozen=True)
class Search:
    """What was found: for each query its `neighbours` in the gallery, and their ranks (Q, k) by the frozen features.
    `own` (Q,) is the row that a query has in the gallery itself, which does not count, and `partners` (Q,) that of its
    partner; -1 where there is none."""

    queries: Embedded
    gallery: Embedded
    neighbours: Neighbours
    frozen_ranks: NDArray[np.int64]
    own: NDArray[np.int64]
    partners: NDArray[np.int64]

    def recall(self) -> str:
        """Return a line that says how many partners are among what was found."""
        known = self.partners >= 0
        found = (self.neighbours.indices == self.partners[:, None]).any(axis=1) & known
        return f"partners among the first {self.neighbours.indices.shape[1]}: {found.sum():,} of {known.sum():,}"


@dataclass(frozen=True)
class Wanted:
    """What is searched for: the `k` nearest, exactly, or with `index` faiss approximately. `paired` says that images
    of the same name are partners."""

    k: int
    index: str = "exact"
    paired: bool = False


def gallery_at(path: Path, similarity: Similarity, recursive: bool, links: bool, skip: bool) -> Dataset | Embedded:
    """Return the images of a gallery, or what `embed_dataset` wrote of them; InputError for pairs, and as `images_at`
    and `open_embedded`."""
    folder = path.parent if path.name == EMBEDDINGS else path
    if not (folder / EMBEDDINGS).is_file():
        return images_at(path, recursive, links, skip)
    embedded = open_embedded(folder, similarity)
    if embedded.embeddings.sides != FLAT_SIDES:
        raise InputError(f"{printable(str(folder))}: holds pairs; embed its left/ or right/ alone to search there")
    return embedded


def search_images(
    similarity: Similarity,
    queries: Dataset,
    gallery: Dataset | Embedded,
    folder: Path,
    options: Options,
    wanted: Wanted,
) -> Search:
    """Embed the queries and the gallery into `folder`, as far as that is not done, and search. InputError for a k above
    the gallery's size, and as `embed_dataset`."""
    k = wanted.k
    check_k(k, len(gallery), _is_among(queries, gallery))
    asked, candidates = _embedded(similarity, queries, gallery, folder, options)
    own = own_rows(asked, candidates)
    partners = _partners(asked, candidates, own) if wanted.paired else np.full(len(asked), -1)
    (frozen, adapted), (other_frozen, others) = asked.vectors(SIDE), candidates.vectors(SIDE)
    if wanted.index == "faiss":
        neighbours = _approximately(adapted, others, k, own)
    else:
        neighbours = search_others(adapted, others, k, similarity.device, own)
    _warn_of_changed(candidates, neighbours)
    ranks = ranks_among_others(frozen, other_frozen, neighbours.indices, similarity.device, own)
    return Search(asked, candidates, neighbours, ranks, own, partners)


def _embedded(
    similarity: Similarity, queries: Dataset, gallery: Dataset | Embedded, folder: Path, options: Options
) -> tuple[Embedded, Embedded]:
    """The queries and the gallery, each in a folder of its own; where they are the same images, in that of the
    gallery."""
    if isinstance(gallery, Dataset) and gallery.items == queries.items:
        both = embed_dataset(similarity, gallery, folder / "gallery", options)
        return both, both
    asked = embed_dataset(similarity, queries, folder / "queries", options)
    if isinstance(gallery, Embedded):
        return asked, gallery
    return asked, embed_dataset(similarity, gallery, folder / "gallery", options)


def _partners(asked: Embedded, candidates: Embedded, own: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row of the partner of each query, which is another image of its name; InputError where no query has one."""
    partners = np.full(len(asked), -1)
    for query, row in match(asked.names(SIDE), candidates.names(SIDE)).pairs:
        partners[query] = row if row != own[query] else -1
    if not (partners >= 0).any():
        raise InputError("--partners: no other image of the gallery has the name of a query")
    return partners


def _approximately(queries: Vectors, gallery: Vectors, k: int, own: NDArray[np.int64]) -> Neighbours:
    from adaptation.similarity.index import EXACT, search_faiss

    found = search_faiss(queries, gallery, k, own)
    if found.name != EXACT:
        measured = f"recall@{k} {found.recall:.4f} against exact search, measured on {found.sample:,} queries"
        logger.info(f"{found.name}: {measured}")
    return found.neighbours


def own_rows(asked: Embedded, candidates: Embedded) -> NDArray[np.int64]:
    """Return for each query (Q,) its row in the gallery, where it is the very same file, also behind a link; -1 where
    it is not there."""
    files, others = _files(asked), _files(candidates)
    return np.full(len(asked), -1) if files is None or others is None else _same_files(files, others)


def _is_among(queries: Dataset, gallery: Dataset | Embedded) -> bool:
    """Whether a query is in the gallery itself."""
    files, others = _files(queries), _files(gallery)
    return files is not None and others is not None and bool((_same_files(files, others) >= 0).any())


@dataclass(frozen=True)
class Files:
    """N image files: their states (N, 1), of type STATE, and the paths of those in some rows."""

    states: NDArray[Any]
    paths: Callable[[NDArray[np.int64]], Sequence[Path]]


def _files(images: Dataset | Embedded) -> Files | None:
    """The files of images; None where they were embedded from a features file."""
    if isinstance(images, Dataset):
        return Files(states_of(images.states, 1), lambda rows: [images.items[row][0] for row in rows.tolist()])
    states = read_states(images)
    return None if states is None or images.root is None else Files(states, partial(images.paths, SIDE))


def _same_files(queries: Files, gallery: Files) -> NDArray[np.int64]:
    """For each query (Q,) the row of the gallery that is the same file; -1 where there is none."""
    own = np.full(len(queries.states), -1)
    alike = np.flatnonzero(_shared(gallery.states, queries.states))  # a look at all files would take minutes
    rows = dict(zip(map(os.path.realpath, gallery.paths(alike)), alike.tolist(), strict=True))
    own[:] = [rows.get(os.path.realpath(path), -1) for path in queries.paths(np.arange(len(own)))]
    return own


def _warn_of_changed(gallery: Embedded, found: Neighbours) -> None:
    """Warn of images that were found and are no longer those that were embedded."""
    if gallery.root is None or (states := read_states(gallery)) is None:
        return
    rows = np.unique(found.indices)
    paths = gallery.paths(SIDE, rows)
    changed = [not is_unchanged(path, states[row, 0]) for row, path in zip(rows.tolist(), paths, strict=True)]
    if count := sum(changed):
        folder = printable(str(gallery.embeddings.path.parent))
        logger.warning(
            f"warning: {count:,} of the {len(rows):,} images found have changed or are gone since they were embedded; "
            f"embed them into {folder} again"
        )


def _shared(states: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the images with these states (N, 1) have size and time in common with some of the others (M, 1)."""
    shared: NDArray[np.bool_] = np.all([np.isin(states[field], others[field]) for field in ("size", "changed")], axis=0)
    return shared[:, 0]


def rows(similarity: Similarity, found: Search) -> Iterator[Sequence[object]]:
    """Yield the rows of `results.csv` under `HEADER`: a row for each query and rank, with the percentages of strangers
    and of partners that have a lower cosine, and with cosine and rank by the frozen features."""
    (frozen, _), (others, _) = found.queries.vectors(SIDE), found.gallery.vectors(SIDE)
    percentiles = similarity.percentiles(found.neighbours.scores)
    for query, name in enumerate(found.queries.names(SIDE)):
        indices, scores = found.neighbours.indices[query], found.neighbours.scores[query]
        frozen_cosines = others[indices] @ frozen[query]
        for place, candidate in enumerate(found.gallery.names(SIDE, indices)):
            yield (
                *(name, place + 1, candidate, cosine(scores[place])),
                *(percentage(percentiles[kind][query, place]) for kind in ("strangers", "partners")),
                *(cosine(frozen_cosines[place]), int(found.frozen_ranks[query, place])),
            )
