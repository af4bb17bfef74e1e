"""What a page of results shows, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """An image of the page: its name, and its file where there is one that can be shown."""

    name: str
    path: Path | None = None


@dataclass(frozen=True)
class Hit:
    """An image that was found: its rank and cosine by the measure that found it, its rank by the other measure, and
    whether it is the query's partner."""

    image: Image
    rank: int
    score: float
    other_rank: int
    partner: bool = False


@dataclass(frozen=True)
class Query:
    """A query: what the frozen features find and what the similarity finds, best first. `direction` is `left to right`,
    `right to left` or empty; where the partner is known, it is `partner`, with its rank by each measure."""

    image: Image
    frozen: Sequence[Hit]
    adapted: Sequence[Hit]
    direction: str = ""
    partner: Image | None = None
    frozen_rank: int | None = None
    adapted_rank: int | None = None


@dataclass(frozen=True)
class Page:
    """A page: its title, lines of text about what is shown (conditions, counts), the queries, and k: how many images
    each measure finds. `gallery` is how many images were searched."""

    title: str
    queries: Sequence[Query]
    k: int
    gallery: int
    notes: Sequence[str] = field(default_factory=tuple)
