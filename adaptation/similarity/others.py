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


def search_others(
    queries: Vectors, gallery: Vectors, k: int, device: torch.device, own: Rows, find: Find | None = None
) -> Neighbours:
    """As `search`, without the row `own` (Q,) of each query, -1 where it is not in the gallery. `find` may be another
    search. InputError for a k above what is left of the gallery."""
    among = int(own.max(initial=-1) >= 0)
    if k + among > len(gallery):
        size = len(gallery) - among
        raise InputError(f"-k {k:,}: {size:,} images of the gallery can be found; k from 1 to {size:,} is possible")
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
