"""Results as a page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from adaptation.pages.content import Image, Page
from adaptation.pages.page import MOST_QUERIES
from adaptation.pages.pairs import Side, pair_queries, search_queries
from adaptation.similarity.folders.scoring import LEARNED, Scored, has_learned_from
from adaptation.similarity.folders.searching import SIDE, Search
from adaptation.similarity.similarity import Similarity
from featuresExtractor.images.folders.dataset import Dataset

K = 10  # images that each measure finds


def search_page(similarity: Similarity, found: Search, queries: Dataset, gallery: Dataset | Path, k: int) -> Page:
    """Return the page of a search, of its first queries where there are many. The images of a gallery of which only
    the embeddings are known are shown by their names."""
    shown = slice(0, MOST_QUERIES)
    files = {} if isinstance(gallery, Path) else _files(gallery)
    asked = Side(_images(found.queries.names(SIDE)[shown], _files(queries)), *_part(found.queries.vectors(SIDE), shown))
    among = Side(_images(found.gallery.names(SIDE), files), *found.gallery.vectors(SIDE))
    partners = [None if row < 0 else row for row in found.partners[shown].tolist()]
    results = search_queries(asked, among, k, similarity.device, partners, own=found.own[shown])
    count = len(found.queries)
    notes = [*about(similarity), *[f"the first {MOST_QUERIES:,} of {count:,} queries"] * (count > MOST_QUERIES)]
    return Page("Search", results, k, len(found.gallery), notes)


def pairs_page(similarity: Similarity, scored: Scored) -> Page:
    """Return the page of scored pairs: both directions, and what is found worst comes first."""
    k = min(K, len(scored.names))
    queries = pair_queries(scored.left, scored.right, scored.names, scored.paths, k, similarity.device)
    notes = [*about(similarity), *[LEARNED] * has_learned_from(similarity, scored)]
    return Page("Pairs", queries, k, len(scored.names), notes)


def about(similarity: Similarity) -> list[str]:
    """Return lines that say what the similarity is."""
    told = similarity.about
    networks = " + ".join(str(each.get("model")) for each in told["backbones"]) or "an unknown network"
    reduced = f"PCA to {similarity.learned.reduced:,}, " if similarity.learned.components is not None else ""
    trained = f"head {told['head'].get('name')} trained on {told['pairs'].get('count'):,} pairs"
    return [f"{networks}, {reduced}{trained}"]


def _images(names: Sequence[str], files: Mapping[str, Path]) -> list[Image]:
    return [Image(name, files.get(name)) for name in names]


def _files(dataset: Dataset) -> dict[str, Path]:
    return {dataset.row_name(path): path for (path,) in dataset.items}


def _part(vectors: Sequence[np.ndarray], rows: slice) -> list[np.ndarray]:
    return [each[rows] for each in vectors]
