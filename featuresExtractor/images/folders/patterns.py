"""Recognise how the names of two sides differ where they should be the same: `a_left.jpg`, `a_right.jpg`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterator, Sequence
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
    """The parts in which the names of partners differ, where these are in the names, and the names of some partners."""

    left: str
    right: str
    where: str
    examples: list[tuple[str, str]]


def difference(left: Sequence[str], right: Sequence[str], root: Path) -> str:
    """Return in one sentence how most names of images without a partner differ from those of the other side, and how to
    rename them; empty where there is no pattern."""
    pattern = _pattern(left, right)
    if not pattern:
        return shared_reason(left, right) if left and right else ""
    pairs = ", ".join(f"{printable(name)} and {printable(partner)}" for name, partner in pattern.examples[:2])
    parts = f"left names {pattern.where} '{pattern.left}' and right names {pattern.where} '{pattern.right}'"
    if not (pattern.left and pattern.right):
        side, part = ("left", pattern.left) if pattern.left else ("right", pattern.right)
        parts = f"{side} names {pattern.where} '{part}', and the others do not"
    return f"{printable(parts)} ({pairs}); rename them so that partners share a name{_command(pattern, root)}"


def _command(pattern: Pattern, root: Path) -> str:
    """Return commands for bash that take the parts out of the names, where that is simple."""
    if not SAFE.fullmatch(pattern.left + pattern.right) or pattern.where == "hold":
        return ""
    commands = []
    for side, part in (("left", pattern.left), ("right", pattern.right)):
        files, short = (f"*{part}.*", f"/{part}./.") if pattern.where == "end in" else (f"{part}*", f"#{part}")
        loop = f'for f in {files}; do mv -n -- "$f" "${{f{short}}}"; done'
        commands += [f"(cd {shlex.quote(str(root / side))} && {loop})"] if part else []
    return f", for example with bash: {'; '.join(commands)}"


def _pattern(left: Sequence[str], right: Sequence[str]) -> Pattern | None:
    """Return the difference that makes partners of most names."""
    by_stem = {stem(name): name for name in right}
    left = left[:MOST_COMPARED]
    stems = [stem(name) for name in left]
    rights = list(by_stem)[:MOST_COMPARED]
    best: list[tuple[str, str]] = []
    best_parts = ("", "")
    for parts in _candidates(stems, rights):
        partners = [(name, _partner(name, *parts, by_stem)) for name in stems]
        pairs = [(name, partner) for name, partner in partners if partner]
        if (len(pairs), len("".join(parts))) > (len(best), len("".join(best_parts))):
            best, best_parts = pairs, parts
    if len(best) < 2 or 2 * len(best) < min(len(left), len(rights)):
        return None
    names = dict(zip(stems, left, strict=True))
    return _described(*best_parts, *best[0], [(names[name], by_stem[partner]) for name, partner in best])


def _candidates(left: Sequence[str], right: Sequence[str]) -> dict[tuple[str, str], None]:
    """Return the differences between some names and those most like them, each once, in order."""
    candidates: dict[tuple[str, str], None] = {}
    for name in left[:: max(1, len(left) // TRIED)][:TRIED]:
        for near in get_close_matches(name, right, 1, 0.3):
            candidates |= dict.fromkeys(parts for parts in _differences(name, near) if _is_telling(*parts))
    return candidates


def _is_telling(left: str, right: str) -> bool:
    """Return whether parts of names are more than numbers, folders, or the same word in upper and lower case."""
    return not (left + right).isdigit() and "/" not in left + right and left.casefold() != right.casefold()


def _differences(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Yield the parts in which two names differ, between what they have in common; as they are, and as whole words."""
    start = _shared(left, right)
    same_end = _shared(left[start:][::-1], right[start:][::-1])
    left_end, right_end = len(left) - same_end, len(right) - same_end
    yield left[start:left_end], right[start:right_end]
    if start < left_end and start < right_end:
        while start and left[start - 1].isalpha():
            start -= 1
        while left_end < len(left) and left[left_end].isalpha():
            left_end, right_end = left_end + 1, right_end + 1
        yield left[start:left_end], right[start:right_end]


def _shared(left: str, right: str) -> int:
    """Return how many characters two names have in common at their start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _partner(name: str, part: str, partner_part: str, candidates: Container[str]) -> str | None:
    """Return the candidate that has `partner_part` in the place of `part`."""
    places = [match.start() for match in re.finditer(re.escape(part), name)] if part else [0, len(name)]
    swapped = (name[:place] + partner_part + name[place + len(part) :] for place in places)
    return next((partner for partner in swapped if partner in candidates), None)


def _described(left_part: str, right_part: str, left: str, right: str, examples: list[tuple[str, str]]) -> Pattern:
    """Return a pattern in words: with the sign before or behind its parts where these end or begin the names."""
    both = bool(left_part and right_part)
    if left.endswith(left_part) and right.endswith(right_part):
        before = left[: len(left) - len(left_part)][-1:] * both
        sign = "" if before.isalnum() else before
        return Pattern(sign + left_part, sign + right_part, "end in", examples)
    if left.startswith(left_part) and right.startswith(right_part):
        behind = left[len(left_part) :][:1] * both
        sign = "" if behind.isalnum() else behind
        return Pattern(left_part + sign, right_part + sign, "begin with", examples)
    return Pattern(left_part, right_part, "hold", examples)


def sides_in_names(names: Sequence[str]) -> tuple[int, str, str]:
    """Return how many pairs a single folder seems to hold, such as `img1_left.jpg` and `img1_right.jpg`, and the first
    of them."""
    by_stem = {stem(name): name for name in names}
    for left, right in WORDS:
        token = re.compile(rf"(?<![A-Za-z]){left}(?![A-Za-z])(?!.*/)")
        swapped = {key: token.sub(right, key) for key in by_stem}
        pairs = [(by_stem[key], by_stem[new]) for key, new in swapped.items() if new != key and new in by_stem]
        if pairs:
            return len(pairs), *pairs[0]
    return 0, "", ""
