"""Put the rows of a features file in order: pairs by name, their views under one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError, listed
from featuresExtractor.features.pairing.affixes import suspects
from featuresExtractor.features.pairing.partners import Partners, find_partners
from featuresExtractor.features.pairing.views import SAY_VIEW, Pair, augmented, crossed, repeated
from featuresExtractor.features.table import Embeddings, Table


@dataclass(frozen=True)
class Layout:
    """The sorted `names` of N pairs, the rows `left` and `right` (V, N) that hold each of V views of them, and `notes`
    on how these were recognised."""

    names: list[Pair]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    notes: tuple[str, ...]


def lay_out(given: Table, path: Path) -> Layout:
    """Return the rows of each pair's views: within a view the rows of one name are partners.

    In a table without views rows called `augmented_NAME` are second views of `NAME`, and rows of the same names views
    of one pair. InputError where views hold different pairs, a pair is in a view twice, or names look like those of
    second views.
    """
    if not given.left.size:
        raise InputError(f"{path}: holds no pairs, or no numbers for them; extract it again")
    view, notes = given.view, []
    if view is None and (view := repeated(given.names)) is not None:
        times = int(view.max()) + 1
        notes.append(f"note: {path}: each pair's names appear {times} times; taken as {times} views of one pair")
    if view is None:
        view = np.zeros(len(given.names), np.uint8)
    views = _views(given.names, view)
    notes += _notes([of_view.partners for of_view in views], path)
    if given.view is None:
        views = _recognised(views, notes, path)
    return _joined(views, notes, path)


@dataclass(frozen=True)
class _View:
    """The rows of one view: the names of each pair, the rows of its sides, and how partners were paired."""

    names: list[Pair]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    partners: Partners

    def only(self, rows: NDArray[np.int64], names: Sequence[Pair]) -> _View:
        """Return only these rows, with the names of their pairs."""
        return _View([names[row] for row in rows.tolist()], self.left[rows], self.right[rows], self.partners)


def _views(names: list[Pair], view: NDArray[np.uint8]) -> list[_View]:
    """Return the rows of each view, with their partners among them. Views with the same names share their list."""
    views: list[tuple[list[Pair], _View]] = []
    for number in sorted({0, *np.unique(view).tolist()}):
        rows = np.flatnonzero(view == number)
        given = _names_of(names, rows)
        same = next((earlier for earlier_names, earlier in views if earlier_names == given), None)
        left, right = [name for name, _ in given], [name for _, name in given]
        partners = same.partners if same else find_partners(left, right)
        pairs = [(name, right[row]) for name, row in zip(left, partners.rows, strict=True)] if partners.moved else given
        views.append((given, _View(same.names if same else pairs, rows, rows[partners.rows], partners)))
    return [of_view for _, of_view in views]


def _names_of(names: list[Pair], rows: NDArray[np.int64]) -> list[Pair]:
    """Return the names of some rows, which often follow one another."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return names[rows[0] : rows[-1] + 1]
    return [names[row] for row in rows.tolist()]


def _notes(views: Sequence[Partners], path: Path) -> list[str]:
    """Return what to print about the partners of all views."""
    notes = []
    if moved := sum(partners.moved for partners in views):
        total = sum(len(partners.rows) for partners in views)
        notes.append(f"note: {path}: {moved:,} of {total:,} rows are in another order on the right; paired by name")
    warnings = dict.fromkeys(partners.warning for partners in views if partners.warning)
    return notes + [f"warning: {path}: {warning}" for warning in warnings]


def _recognised(views: list[_View], notes: list[str], path: Path) -> list[_View]:
    """Return the views that names show, in a file without a field `view`."""
    if len(views) == 1:
        (only,) = views
        if only.partners.warning and (reason := crossed(only.names)):
            raise InputError(f"{path}: {reason}: are these views, or pairs? {SAY_VIEW}")
        view, pairs = augmented(only.names, path)
        if view.any():
            views = [only.only(np.flatnonzero(view == number), pairs) for number in (0, 1)]
            count = int(view.sum())
            notes.append(f"note: {path}: {count:,} rows called augmented_NAME are taken as second views of NAME")
    notes += _suspects(views[0].names, path)
    return views


def _suspects(names: list[Pair], path: Path) -> list[str]:
    """Return a warning about names that look like those of second views; InputError where they are many."""
    left, right = [name for name, _ in names], [name for _, name in names]
    try:
        warnings = [suspects(side) for side in ([left] if left == right else [left, right])]
    except InputError as error:
        raise InputError(f"{path}: {error}: are these second views of the same pairs? {SAY_VIEW}") from error
    first = next((warning for warning in warnings if warning), None)
    return [f"warning: {path}: {first}; they count as pairs of their own. {SAY_VIEW}"] if first else []


def _joined(views: list[_View], notes: Sequence[str], path: Path) -> Layout:
    """Return the pairs sorted by name, each with its views."""
    first = _places(views[0], path)
    names = sorted(first)
    order = [first[name] for name in names]
    orders = [order if view.names is views[0].names else _order(view, names, first, path) for view in views]
    left = np.stack([view.left[order] for view, order in zip(views, orders, strict=True)])
    right = np.stack([view.right[order] for view, order in zip(views, orders, strict=True)])
    return Layout(names, left, right, tuple(notes))


def _order(view: _View, names: list[Pair], first: dict[Pair, int], path: Path) -> list[int]:
    """Return the places of the pairs in a further view; InputError where it holds other pairs than the first."""
    places = _places(view, path)
    if lacking := sorted(places.keys() ^ first.keys()):
        reason = f"its views do not hold the same pairs (not in all of them: {listed(map(' / '.join, lacking), 2)})"
        raise InputError(f"{path}: {reason}; extract it again, or give a pair the same name in all its views")
    return [places[name] for name in names]


def _places(view: _View, path: Path) -> dict[Pair, int]:
    """Return the place of each pair within its view; InputError for a pair that is in it twice."""
    places = dict(zip(view.names, range(len(view.names)), strict=True))
    if len(places) < len(view.names):
        twice = listed(" / ".join(name) for name, count in Counter(view.names).items() if count > 1)
        advice = "give each pair a name of its own, and second views of a pair a number in the field view"
        raise InputError(f"{path}: pairs that are in it twice: {twice}; {advice}")
    return places


def in_memory(given: Table, path: Path) -> Embeddings:
    """Return the same pairs as float32 arrays of their own, paired by name: all of view 0, in the order of its rows on
    the left, then of view 1."""
    layout = lay_out(given, path)
    order = np.argsort(layout.left[0])
    names = [layout.names[place] for place in order.tolist()] * len(layout.left)
    view = np.repeat(np.arange(len(layout.left), dtype=np.uint8), len(order))
    left, right = _float32(given.left, layout.left[:, order]), _float32(given.right, layout.right[:, order])
    return Embeddings(left, right, names, view, (*given.notes, *layout.notes))


def _float32(side: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the `rows` (V, N) of a side as (V N, D)."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(side[rows.ravel()], np.float32)
