"""Recognise second views of pairs by their names, in files that have no field `view`.

A flipped view that counts as a pair of its own is a leak: its original may be trained on while it is tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from common.names.matching import stem
from featuresExtractor.features.fields import HOW
from featuresExtractor.features.table import row_label

Pair = tuple[str, str]
PREFIX = "augmented_"  # of a flipped view in files of the paper's code
SAY_VIEW = f"Add a field view with a number for each row (0 original, 1 flipped; all 0 if each is its own pair): {HOW}"


def repeated(names: Sequence[Pair]) -> NDArray[np.uint8] | None:
    """Return for each row how many rows before it have the same names: its view.

    None unless all names have the same number of rows, and more than one.
    """
    counts = Counter(names)
    times = set(counts.values())
    if len(times) != 1 or not 1 < max(times) <= 256:
        return None
    seen: Counter[Pair] = Counter()
    views = np.empty(len(names), np.uint8)
    for row, name in enumerate(names):
        views[row] = seen[name]
        seen[name] += 1
    return views


def crossed(names: Sequence[Pair]) -> str | None:
    """Return what is ambiguous where each name appears several times on both sides, beside different names, else None.

    The rows may be views whose sides were listed in different orders, or pairs of each image with each.
    """
    if all(left == right for left, right in names):
        return None
    sides = [Counter(stem(name[side]) for name in names) for side in (0, 1)]
    if sides[0] != sides[1] or min(sides[0].values()) < 2:
        return None
    times, examples = min(sides[0].values()), ", ".join(map(row_label, names[:2]))
    return f"each name appears {times} times or more on both sides, beside different names ({examples})"


def augmented(names: Sequence[Pair], path: Path) -> tuple[NDArray[np.uint8], list[Pair]]:
    """Return the view of each row and its pair: those called `augmented_NAME` are view 1 of the pair `NAME`.

    InputError where some originals have such a view and others have none.
    """
    bases = [(_base(left), _base(right)) for left, right in names]
    flags = [base != name for base, name in zip(bases, names, strict=True)]
    if not any(flags) or all(flags):  # without a single original they are the names of the images
        return np.zeros(len(names), np.uint8), list(names)
    originals = [name for name, flag in zip(names, flags, strict=True) if not flag]
    full, by_stem = set(originals), _by_stem(originals)
    pairs = [base if base in full else by_stem.get(_stems(base), base) for base in bases]
    views = np.array(flags, np.uint8)
    seconds = {pair for pair, flag in zip(pairs, flags, strict=True) if flag}
    if lacking := sorted(full ^ seconds):
        reason = f"{len(lacking):,} pairs have only one of the two, such as {row_label(lacking[0])}"
        raise InputError(f"{path}: rows called {PREFIX}NAME are the second views of NAME, but {reason}. {SAY_VIEW}")
    return views, pairs


def _base(name: str) -> str:
    """`left/augmented_a.jpg` -> `left/a.jpg`; any other name as it is."""
    folder = 1 + max(name.rfind("/"), name.rfind("\\"))
    return name[:folder] + name[folder:].removeprefix(PREFIX)


def _by_stem(names: Sequence[Pair]) -> dict[Pair, Pair]:
    """Return the names by their stems, as far as these are distinct."""
    counts = Counter(map(_stems, names))
    return {key: name for name in names if counts[key := _stems(name)] == 1}


def _stems(name: Pair) -> Pair:
    return stem(name[0]), stem(name[1])
