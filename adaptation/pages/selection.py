"""Which queries of a page are shown where there are too many, and what is counted over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from adaptation.pages.content import Page, Query


@dataclass(frozen=True)
class Recall:
    """In how many of the queries with a known partner it is among the first `k` that a measure finds."""

    k: int
    frozen: int
    adapted: int


@dataclass(frozen=True)
class Counts:
    """What happened to the partners of all queries of a page: `known` have one, whose rank got better in `improved`,
    worse in `worse`, and is beyond k by both measures in `never`; and recalls at 1 and at k."""

    known: int
    improved: int
    worse: int
    never: int
    recalls: tuple[Recall, ...]


def gain(query: Query) -> int:
    """Return by how many ranks the partner moved up: negative where it moved down, 0 where it is unknown."""
    return (query.frozen_rank or 0) - (query.adapted_rank or 0)


def never_found(query: Query, k: int) -> bool:
    """Return whether the partner is known and neither measure has it among the first `k`."""
    return min(query.frozen_rank or 0, query.adapted_rank or 0) > k


def count(page: Page) -> Counts:
    """Return the counts over all queries of a page, also those that are not shown."""
    known = [query for query in page.queries if query.partner is not None]
    gains = [gain(query) for query in known]
    return Counts(
        len(known),
        sum(change > 0 for change in gains),
        sum(change < 0 for change in gains),
        sum(never_found(query, page.k) for query in known),
        tuple(_recall(known, k) for k in sorted({1, page.k})),
    )


def _recall(known: Sequence[Query], k: int) -> Recall:
    frozen = sum((query.frozen_rank or 0) <= k for query in known)
    return Recall(k, frozen, sum((query.adapted_rank or 0) <= k for query in known))


def chosen(queries: Sequence[Query], most: int) -> list[Query]:
    """Return at most `most` queries in their order. Where there are more, every filter keeps those that it shows first:
    in turn the next one in order, the most improved and the one made worse most."""
    if len(queries) <= most:
        return list(queries)
    numbers = range(len(queries))
    improved = sorted((i for i in numbers if gain(queries[i]) > 0), key=lambda i: -gain(queries[i]))
    worse = sorted((i for i in numbers if gain(queries[i]) < 0), key=lambda i: gain(queries[i]))
    in_turn = _distinct(chain.from_iterable(zip_longest(numbers, improved, worse)))
    return [queries[i] for i in sorted(in_turn[:most])]


def _distinct(numbers: Iterable[int | None]) -> list[int]:
    return list(dict.fromkeys(number for number in numbers if number is not None))
