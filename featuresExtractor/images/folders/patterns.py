"""How the names of two sides differ where they should be the same: `img1_left.jpg` and `img1_right.jpg`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from common.errors import printable
from common.names.finding import MOST_COMPARED, shared_reason
from common.names.matching import stem

TRIED = 20  # names from which a pattern is guessed
SAFE = re.compile(r"[\w.-]*", re.ASCII)  # what a shell takes as it is
WORDS = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("l", "r"), ("L", "R"))


@dataclass(frozen=True)
class Pattern:
    """The parts in which the names of partners differ, how they stand in them, and the names of some partners."""

    left: str
    right: str
    where: str
    examples: list[tuple[str, str]]


def difference(left: Sequence[str], right: Sequence[str], root: Path) -> str:
    """Return in one sentence how most names of images without a partner differ from those of the other side, and how to
    rename them; empty where no pattern is seen."""
    found = _pattern(left, right)
    if not found:
        return shared_reason(left, right) if left and right else ""
    pairs = ", ".join(f"{printable(one)} and {printable(other)}" for one, other in found.examples[:2])
    parts = f"left names {found.where} '{found.left}' and right names {found.where} '{found.right}'"
    if not (found.left and found.right):
        side, part = ("left", found.left) if found.left else ("right", found.right)
        parts = f"{side} names {found.where} '{part}', and the others do not"
    return f"{printable(parts)} ({pairs}); rename them so that partners share a name{_command(found, root)}"


def _command(found: Pattern, root: Path) -> str:
    """Commands for bash that take the parts out of the names, where that is simple."""
    if not SAFE.fullmatch(found.left + found.right) or found.where == "hold":
        return ""
    commands = []
    for side, part in (("left", found.left), ("right", found.right)):
        files, short = (f"*{part}.*", f"/{part}./.") if found.where == "end in" else (f"{part}*", f"#{part}")
        loop = f'for f in {files}; do mv -n -- "$f" "${{f{short}}}"; done'
        commands += [f"(cd {shlex.quote(str(root / side))} && {loop})"] if part else []
    return f", for example with bash: {'; '.join(commands)}"


def _pattern(left: Sequence[str], right: Sequence[str]) -> Pattern | None:
    """The difference that makes partners of most names."""
    by_stem = {stem(name): name for name in right}
    left = left[:MOST_COMPARED]
    stems = [stem(name) for name in left]
    rights = list(by_stem)[:MOST_COMPARED]
    candidates: dict[tuple[str, str], None] = {}
    for one in stems[:: max(1, len(stems) // TRIED)][:TRIED]:
        for other in get_close_matches(one, rights, 1, 0.3):
            candidates |= dict.fromkeys(parts for parts in _differences(one, other) if _tells(*parts))
    best: list[tuple[str, str]] = []
    parts = ("", "")
    for own in candidates:
        partners = [(one, _partner(one, *own, by_stem)) for one in stems]
        pairs = [(one, other) for one, other in partners if other]
        if (len(pairs), len("".join(own))) > (len(best), len("".join(parts))):
            best, parts = pairs, own
    if len(best) < 2 or 2 * len(best) < min(len(left), len(rights)):
        return None
    names = dict(zip(stems, left, strict=True))
    return _described(*parts, *best[0], [(names[one], by_stem[other]) for one, other in best])


def _tells(part: str, other: str) -> bool:
    """Whether parts of names are more than numbers, folders, or the same word in upper and lower case."""
    return not (part + other).isdigit() and "/" not in part + other and part.casefold() != other.casefold()


def _differences(one: str, other: str) -> Iterator[tuple[str, str]]:
    """The parts in which two names differ, between what they have in common; as they are, and as whole words."""
    first = _shared(one, other)
    last = _shared(one[first:][::-1], other[first:][::-1])
    end, other_end = len(one) - last, len(other) - last
    yield one[first:end], other[first:other_end]
    if first < end and first < other_end:
        while first and one[first - 1].isalpha():
            first -= 1
        while end < len(one) and one[end].isalpha():
            end, other_end = end + 1, other_end + 1
        yield one[first:end], other[first:other_end]


def _shared(one: str, other: str) -> int:
    """How many characters two names have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _partner(one: str, part: str, other_part: str, others: dict[str, str]) -> str | None:
    """The name among `others` that has `other_part` in the place of `part`."""
    places = [match.start() for match in re.finditer(re.escape(part), one)] if part else [0, len(one)]
    swapped = (one[:place] + other_part + one[place + len(part) :] for place in places)
    return next((name for name in swapped if name in others), None)


def _described(part: str, other: str, left: str, right: str, examples: list[tuple[str, str]]) -> Pattern:
    """A pattern in words: with the sign before or behind its parts where these end or begin the names."""
    if left.endswith(part) and right.endswith(other):
        before = left[: len(left) - len(part)][-1:] if part and other else ""
        sign = "" if before.isalnum() else before
        return Pattern(sign + part, sign + other, "end in", examples)
    if left.startswith(part) and right.startswith(other):
        behind = left[len(part) :][:1] if part and other else ""
        sign = "" if behind.isalnum() else behind
        return Pattern(part + sign, other + sign, "begin with", examples)
    return Pattern(part, other, "hold", examples)


def sides_in_names(names: Sequence[str]) -> tuple[int, str, str]:
    """Return how many pairs a single folder seems to hold, such as `img1_left.jpg` and `img1_right.jpg`, and the first
    of them."""
    by_stem = {stem(name): name for name in names}
    for word, other in WORDS:
        token = re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])(?!.*/)")
        swapped = {key: token.sub(other, key) for key in by_stem}
        found = [(by_stem[key], by_stem[own]) for key, own in swapped.items() if own != key and own in by_stem]
        if found:
            return len(found), *found[0]
    return 0, "", ""
