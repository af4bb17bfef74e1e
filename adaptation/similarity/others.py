"""Search among other images: where a query is in the gallery itself, it does not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from adaptation.similarity.search import Neighbours, ranks_of, search
from common.errors import InputError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from adaptation.similarity.search import Vectors

    Rows = NDArray[np.int64]
    Find = Callable[[Vectors, Vectors, int], Neighbours]


def check_k(k: int, size: int, among: bool) -> None:
    """InputError for a k above what can be found in a gallery of this size, where a query may be `among` it."""
    if k > (most := size - among):
        itself = " beside the query" if among else ""
        raise InputError(f"-k {k:,}: the gallery has {most:,} images{itself}; k from 1 to {most:,} is possible")


def search_others(
    queries: Vectors, gallery: Vectors, k: int, device: torch.device, own: Rows, find: Find | None = None
) -> Neighbours:
    """As `search`, without the row `own` (Q,) of each query, -1 where it is not in the gallery. `find` may be another
    search. InputError for a k above what is left of the gallery."""
    among = bool(own.max(initial=-1) >= 0)
    check_k(k, len(gallery), among)
    wanted = k + among
    found = find(queries, gallery, wanted) if find else search(queries, gallery, wanted, device)
    if not among:
        return found
    order = np.argsort(found.indices == own[:, None], axis=1, kind="stable")[:, :k]  # its own row goes to the end
    return Neighbours(np.take_along_axis(found.indices, order, 1), np.take_along_axis(found.scores, order, 1))


def ranks_among_others(queries: Vectors, gallery: Vectors, targets: Rows, device: torch.device, own: Rows) -> Rows:
    """As `ranks_of`, where the row `own` (Q,) of each query does not count."""
    ranks = ranks_of(queries, gallery, np.hstack([targets, own.clip(0)[:, None]]), device)
    behind: NDArray[np.bool_] = (own[:, None] >= 0) & (ranks[:, :-1] > ranks[:, -1:])
    others: Rows = ranks[:, :-1] - behind
    return others
