"""Recognise names that differ only by an affix, such as `flip_a.jpg` beside `a.jpg`: likely second views."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from common.errors import InputError, printable
from common.names.matching import stem

LONGEST = 40  # characters of an affix
FEWEST = 2  # names that an affix must have
LONG = 3  # letters of an affix that can hardly be there by chance
WORD = re.compile(r"[hv]?flip(ped|lr|ud)?|mirror(ed)?|augment(ed|ation)", re.IGNORECASE)
BEHIND = re.compile(r"(?P<base>.+[\W_])(?P<word>[^\W_]+)")
BEFORE = re.compile(r"(?P<word>[^\W_]+)(?P<base>[\W_].+)")
TOKEN = re.compile(r"[^\W_]+")
FOLDER = re.compile(r"([^/\\]+)[/\\]")
NUMBER = re.compile(r"\d+[.,]\d+")

Marked = dict[tuple[str, str], dict[str, str]]
"""(affix, where it is) -> the names that have it, each with the name that lacks it."""


def suspects(names: Sequence[str]) -> str | None:
    """Return a warning where a few names look like those of second views of others; None where no name does.

    InputError where one affix marks at least half as many names as a complete second view would have. Affixes of digits
    alone (`IMG_1`, `IMG_10`) mean nothing.
    """
    marked = {affix: pairs for affix, pairs in _marked(names).items() if len(pairs) >= FEWEST}
    if not marked:
        return _in_twos(names)
    (affix, where), bases = max(marked.items(), key=lambda item: (len(item[1]), item[0]))
    with_long = {name for (text, _), pairs in marked.items() if _is_long(text) for name in pairs}
    originals = len(set(names) - with_long - bases.keys())
    examples = ", ".join(f"{printable(name)} and {printable(base)}" for name, base in list(bases.items())[:2])
    what = f"'{printable(affix)}'{where}" if where else affix
    message = f"{len(bases):,} of {len(names):,} names differ from another only by {what} ({examples})"
    if 2 * len(bases) >= originals:
        raise InputError(message)
    return message


def _in_twos(names: Sequence[str]) -> str | None:
    """Return a warning where every name occurs twice, with one of two words before its first or after its last
    separator: `im1_0` and `im1_1`, `orig/im1` and `rot/im1`. They may be two views of one image, or two images."""
    keys = list(dict.fromkeys(map(stem, names)))
    for pattern in (BEHIND, BEFORE):
        matches = [match for key in keys if (match := pattern.fullmatch(key))]
        words = {match["word"] for match in matches}
        bases = Counter(match["base"] for match in matches)
        if len(matches) == len(keys) >= 2 * FEWEST and len(words) == 2 and set(bases.values()) == {2}:
            what = " and ".join(f"'{printable(word)}'" for word in sorted(words))
            return f"{len(keys):,} of {len(names):,} names come in twos that differ by {what} alone"
    return None


def _is_long(affix: str) -> bool:
    return len(affix) >= LONG or not affix.isalnum()


def _marked(names: Sequence[str]) -> Marked:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(stem(name), name)
    marked: Marked = {}
    for key, name in first.items():
        for affix, where, base in _cut(key, first):
            marked.setdefault((affix, where), {})[name] = first[base]
    marked["the suffix of the image", ""] = {name: base for name in names if (base := first[stem(name)]) != name}
    marked["a word such as flip", ""] = dict(_replaced(first))
    return marked


def _cut(key: str, known: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield what `key` has in front, behind its folders or at the end, beyond a known name: (affix, where, name)."""
    start = 1 + max(key.rfind("/"), key.rfind("\\"))
    if NUMBER.fullmatch(key):
        return
    for size in range(1, min(LONGEST, len(key) - 1) + 1):
        if key[:-size] in known and not key[-size:].isdigit():
            yield key[-size:], " at the end", key[:-size]
        if key[size:] in known and not key[:size].isdigit():
            yield key[:size], " in front", key[size:]
        inner = key[start : start + size]
        if start and key[:start] + key[start + size :] in known and not inner.isdigit():
            yield inner, " in front", key[:start] + key[start + size :]
    for folder in FOLDER.finditer(key):
        if not folder[1].isdigit() and (base := key[: folder.start()] + key[folder.end() :]) in known:
            yield folder[0], " in front", base


def _replaced(first: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield names with a word such as `flip` where another name has another word: (`a_flip`, `a_orig`)."""
    marked = {key: ends for key in first if (ends := [_around(key, token) for token in _words(key)])}
    if not marked:
        return
    unmarked = {_around(key, token): key for key in first if key not in marked for token in TOKEN.finditer(key)}
    for key, ends in marked.items():
        if base := next((unmarked[end] for end in ends if end in unmarked), None):
            yield first[key], first[base]


def _words(key: str) -> list[re.Match[str]]:
    return [token for token in TOKEN.finditer(key) if WORD.fullmatch(token.group())]


def _around(key: str, token: re.Match[str]) -> tuple[str, str]:
    return key[: token.start()], key[token.end() :]
