"""Search a gallery of images: both sides are embedded, as far as they are not yet; each query gets its k nearest."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adaptation.similarity.folders.embedded import Embedded, open_embedded
from adaptation.similarity.folders.embedding import Options, embed_dataset
from adaptation.similarity.others import ranks_among_others, search_others
from adaptation.similarity.search import Neighbours
from adaptation.similarity.similarity import Similarity
from common.errors import InputError, printable
from common.names.matching import match
from featuresExtractor.images.folders.dataset import FLAT_SIDES, Dataset, find_images

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


def images_at(path: Path, recursive: bool, links: bool, skip: bool) -> Dataset:
    """Return the images of a folder, or the one image that a file is; InputError for pairs, and where none are."""
    if path.is_file():
        return Dataset(path.parent, FLAT_SIDES, [(path,)])
    dataset = images_or_pairs(path, recursive, links, skip)
    if dataset.sides != FLAT_SIDES:
        raise InputError(f"{printable(str(path))}: holds pairs; give its left/ or right/")
    return dataset


def images_or_pairs(path: Path, recursive: bool, links: bool, skip: bool) -> Dataset:
    """Return the images or the pairs of a folder; what is odd about it is logged."""
    dataset = find_images(path, skip, recursive, links)
    for line in dataset.warnings():
        logger.warning(printable(line))
    return dataset


def search_images(
    similarity: Similarity,
    queries: Dataset,
    gallery: Dataset | Path,
    k: int,
    folder: Path,
    options: Options,
    index: str = "exact",
    paired: bool = False,
) -> Search:
    """Embed the queries and the gallery into `folder`, as far as that is not done (a `gallery` that is a path is what
    `embed_dataset` wrote), and search exactly, or with `index` faiss approximately. `paired` says that images of
    the same name are partners. InputError for a k above the
    gallery's size, and as `embed_dataset`."""
    if isinstance(gallery, Dataset) and k > len(gallery):
        raise InputError(f"-k {k:,}: the gallery has {len(gallery):,} images; k from 1 to {len(gallery):,} is possible")
    candidates = (
        embed_dataset(similarity, gallery, folder / "gallery", options)
        if isinstance(gallery, Dataset)
        else open_embedded(gallery, similarity)
    )
    if candidates.embeddings.sides != FLAT_SIDES:
        raise InputError(f"{printable(str(gallery))}: holds pairs; embed its left/ or right/ alone to search there")
    asked = embed_dataset(similarity, queries, folder / "queries", options)
    own = _own_rows(queries, asked, gallery, candidates)
    (frozen, adapted), (other_frozen, others) = asked.vectors(SIDE), candidates.vectors(SIDE)
    find = _approximately if index == "faiss" else None
    neighbours = search_others(adapted, others, k, similarity.device, own, find)
    ranks = ranks_among_others(frozen, other_frozen, neighbours.indices, similarity.device, own)
    return Search(asked, candidates, neighbours, ranks, own, _partners(asked, candidates, paired))


def _partners(asked: Embedded, candidates: Embedded, paired: bool) -> NDArray[np.int64]:
    """The row of the partner of each query; InputError where partners are wanted and no query has one."""
    partners = np.full(len(asked), -1)
    if paired:
        for query, row in match(asked.names(SIDE), candidates.names(SIDE)).pairs:
            partners[query] = row
        if not (partners >= 0).any():
            raise InputError("--partners: no image of the gallery has the name of a query")
    return partners


def _approximately(queries: Vectors, gallery: Vectors, k: int) -> Neighbours:
    from adaptation.similarity.index import search_faiss

    found = search_faiss(queries, gallery, k)
    measured = f"recall@{k} {found.recall:.4f} against exact search, measured on {found.sample:,} queries"
    logger.info(f"{found.name}: {measured}")
    return found.neighbours


def _own_rows(queries: Dataset, asked: Embedded, gallery: Dataset | Path, candidates: Embedded) -> NDArray[np.int64]:
    """For each query its row in the gallery, where it is the very same file; -1 where it is not there, and for a
    gallery of which only the embeddings are known."""
    if isinstance(gallery, Path):
        return np.full(asked.embeddings.count, -1)
    rows = {name: row for row, name in enumerate(candidates.names(SIDE))}
    files = {path.resolve(): rows.get(gallery.row_name(path), -1) for (path,) in gallery.items}
    paths = {queries.row_name(path): path.resolve() for (path,) in queries.items}
    return np.array([files.get(paths[name], -1) for name in asked.names(SIDE)])


def rows(similarity: Similarity, found: Search) -> Iterator[Sequence[object]]:
    """Yield the rows of `results.csv` under `HEADER`: a row for each query and rank, with the percentages of strangers
    and of partners that have a lower cosine, and with cosine and rank by the frozen features."""
    (frozen, _), (others, _) = found.queries.vectors(SIDE), found.gallery.vectors(SIDE)
    names, candidates = found.queries.names(SIDE), found.gallery.names(SIDE)
    percentiles = similarity.percentiles(found.neighbours.scores)
    for query, indices in enumerate(found.neighbours.indices):
        frozen_cosines = others[indices] @ frozen[query]
        for place, index in enumerate(indices):
            yield (
                *(names[query], place + 1, candidates[index], cosine(found.neighbours.scores[query, place])),
                *(percentage(percentiles[kind][query, place]) for kind in ("strangers", "partners")),
                *(cosine(frozen_cosines[place]), int(found.frozen_ranks[query, place])),
            )


def cosine(value: float) -> str:
    """Return a cosine as it is written to a CSV."""
    return f"{value:.6f}"


def percentage(value: float) -> str:
    """Return a percentage as it is written to a CSV: empty where nothing was counted."""
    return "" if np.isnan(value) else f"{value:.2f}"
