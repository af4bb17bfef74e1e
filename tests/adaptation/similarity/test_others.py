"""Where a query is in the gallery itself, neither a search nor a rank counts it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.similarity.others import ranks_among_others, search_others
from adaptation.similarity.search import search
from common.errors import InputError

CPU = torch.device("cpu")


def drawn(rows: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_the_own_row_is_taken_out_of_every_search() -> None:
    gallery = drawn(12, 0)
    queries = np.concatenate([gallery[[3, 7]], drawn(1, 1)])
    own = np.array([3, 7, -1])
    found = search_others(queries, gallery, 5, CPU, own)
    ranks = ranks_among_others(queries, gallery, found.indices, CPU, own)
    for query, row in enumerate(own):
        rows = [index for index in range(12) if index != row]
        order = sorted(rows, key=lambda index: -float(queries[query] @ gallery[index]))
        assert found.indices[query].tolist() == order[:5]
        assert ranks[query].tolist() == [1, 2, 3, 4, 5]
        assert np.allclose(found.scores[query], gallery[order[:5]] @ queries[query], atol=1e-6)


def test_ranks_of_any_targets_among_others() -> None:
    gallery = drawn(9, 2)
    targets = np.tile(np.arange(9), (2, 1))
    ranks = ranks_among_others(gallery[:2], gallery, targets, CPU, np.array([0, -1]))
    scores = gallery[0] @ gallery.T
    assert ranks[0, 1:].tolist() == [1 + int((np.delete(scores, 0) > scores[index]).sum()) for index in range(1, 9)]
    assert sorted(ranks[1].tolist()) == list(range(1, 10))


def test_an_own_row_that_an_index_did_not_find_does_no_harm() -> None:
    gallery = drawn(6, 3)

    def find(queries: NDArray[np.float32], gallery: NDArray[np.float32], k: int) -> object:
        found = search(queries, gallery, 6, CPU)
        kept = found.indices[0] != 2
        return type(found)(found.indices[:, kept][:, :k], found.scores[:, kept][:, :k])

    found = search_others(gallery[2:3], gallery, 3, CPU, np.array([2]), find)  # type: ignore[arg-type]
    assert found.indices.shape == (1, 3)
    assert 2 not in found.indices


def test_k_that_the_others_lack_is_refused() -> None:
    gallery = drawn(4, 4)
    with pytest.raises(InputError, match=r"-k 4: the gallery has 3 images beside the query; k from 1 to 3 is possible"):
        search_others(gallery[:1], gallery, 4, CPU, np.array([0]))
