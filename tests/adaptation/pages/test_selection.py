"""Which queries are shown, and what is counted over all."""

from __future__ import annotations

import random

from adaptation.pages.content import Image, Page, Query
from adaptation.pages.selection import Counts, Recall, chosen, count, never_found


def query(frozen: int | None, adapted: int | None) -> Query:
    partner = None if frozen is None else Image("partner")
    return Query(Image(f"{frozen} {adapted}"), [], [], "", partner, frozen, adapted)


def test_counts_are_over_all_queries_with_a_partner() -> None:
    queries = [query(*ranks) for ranks in [(1, 1), (5, 1), (1, 3), (4, 9), (30, 20), (10, 10), (None, None)]]
    counts = count(Page("", queries, k=3, gallery=40))
    assert counts == Counts(6, improved=2, worse=2, never=3, recalls=(Recall(1, 2, 2), Recall(3, 2, 3)))


def test_recall_at_one_is_counted_once() -> None:
    assert count(Page("", [query(2, 1)], k=1, gallery=2)).recalls == (Recall(1, 0, 1),)


def test_search_without_partners_counts_nothing() -> None:
    assert count(Page("", [query(None, None)], 3, 9)) == Counts(0, 0, 0, 0, (Recall(1, 0, 0), Recall(3, 0, 0)))


def test_partner_within_k_by_one_measure_is_found() -> None:
    assert [never_found(query(*ranks), 3) for ranks in [(3, 9), (9, 3), (4, 4), (3, 3)]] == [False, False, True, False]
    assert not never_found(query(None, None), 3)


def test_few_queries_are_all_shown() -> None:
    queries = [query(2, 1), query(1, 2)]
    assert chosen(queries, 2) == chosen(queries, 10) == queries


def test_each_filter_keeps_its_first_queries_where_there_are_more() -> None:
    pairs = [(frozen, adapted) for frozen in range(1, 31) for adapted in range(1, 31)]
    random.Random(0).shuffle(pairs)
    queries = [query(*pair) for pair in pairs]
    shown = chosen(queries, 90)
    assert len(shown) == len({one.image for one in shown}) == 90
    assert shown == [one for one in queries if one in shown]  # in their order
    names = {one.image.name for one in shown}
    gains = sorted(frozen - adapted for frozen, adapted in pairs)
    kept = sorted((one.frozen_rank or 0) - (one.adapted_rank or 0) for one in shown)
    assert kept[:25] == gains[:25]
    assert kept[-25:] == gains[-25:]
    assert {one.image.name for one in queries[:30]} <= names


def test_queries_that_fit_no_filter_fill_the_page() -> None:
    queries = [query(None, None)] * 5 + [query(1, 1)] * 5
    assert chosen(queries, 7) == queries[:7]
