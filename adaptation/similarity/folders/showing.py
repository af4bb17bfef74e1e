"""Results as a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from adaptation.pages.content import Image, Page
from adaptation.pages.page import MOST_QUERIES
from adaptation.pages.pairs import Side, pair_queries, search_queries
from adaptation.similarity.folders.embedded import Embedded, is_unchanged, read_states
from adaptation.similarity.folders.scoring import LEARNED, Scored, has_learned_from
from adaptation.similarity.folders.searching import SIDE, Search
from adaptation.similarity.search import Neighbours
from adaptation.similarity.similarity import Similarity
from featuresExtractor.features.features_file import name_field

K = 10  # images that each measure finds


class Images(Sequence[Image]):
    """Embedded images for a page, each made when it is asked for: a gallery may have millions. One that is no longer
    the file that was embedded is shown by its name."""

    def __init__(self, embedded: Embedded) -> None:
        self.names, self.root = embedded.embeddings.all()[name_field(SIDE)], embedded.root
        self.states = read_states(embedded)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        """Return the image of a row, or those of some rows."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        name = str(self.names[index])
        if self.root is None or self.states is None:
            return Image(name)
        path = self.root / name
        return Image(name, path if is_unchanged(path, self.states[index, 0]) else None)


def search_page(similarity: Similarity, found: Search) -> Page:
    """Return the page of a search, of its first queries where there are many."""
    shown, k = slice(0, MOST_QUERIES), found.neighbours.indices.shape[1]
    frozen, adapted = found.queries.vectors(SIDE)
    asked = Side(Images(found.queries)[shown], frozen[shown], adapted[shown])
    among = Side(Images(found.gallery), *found.gallery.vectors(SIDE))
    partners = [None if row < 0 else row for row in found.partners[shown].tolist()]
    nearest = Neighbours(found.neighbours.indices[shown], found.neighbours.scores[shown])
    results = search_queries(asked, among, k, similarity.device, partners, own=found.own[shown], adapted=nearest)
    count = len(found.queries)
    notes = [*about(similarity), *[f"the first {MOST_QUERIES:,} of {count:,} queries"] * (count > MOST_QUERIES)]
    return Page("Search", results, k, len(found.gallery), notes)


def pairs_page(similarity: Similarity, scored: Scored) -> Page:
    """Return the page of scored pairs: both directions, and what is found worst comes first."""
    left, right = scored.vectors()
    numbers = scored.places if len(scored.embedded.embeddings.sides) == 1 else None  # of images in a list of pairs
    queries = pair_queries(left, right, scored.names, scored.paths, K, similarity.device, numbers=numbers)
    notes = [*about(similarity), *[LEARNED] * has_learned_from(similarity, scored)]
    gallery = max(len(np.unique(side)) for side in scored.places.T)
    return Page("Pairs", queries, min(len(query.adapted) for query in queries), gallery, notes)


def about(similarity: Similarity) -> list[str]:
    """Return lines that say what the similarity is."""
    told = similarity.about
    networks = " + ".join(str(each.get("model")) for each in told["backbones"]) or "an unknown network"
    reduced = f"PCA to {similarity.learned.reduced:,}, " if similarity.learned.components is not None else ""
    trained = f"head {told['head'].get('name')} trained on {told['pairs'].get('count'):,} pairs"
    return [f"{networks}, {reduced}{trained}"]
