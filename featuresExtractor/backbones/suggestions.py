"""What a name that leads nowhere may have meant: rows of the table, and addresses in the libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from featuresExtractor.backbones.libraries.table import LIBRARIES

LIKE, ALIKE = 0.6, 0.8  # of difflib: what may be meant, and what is a slip of the pen
MOST = 3  # addresses
SHORTEST = 6  # letters and digits of a name whose words are looked for one by one

Candidate = tuple[str, str, str]  # library, architecture, tag


def did_you_mean(name: str, rows: Sequence[str] = ()) -> str:
    """Return `; did you mean 'a', 'b' or 'c'?` with rows and addresses of networks that `name` may mean, else `;`.

    Imports the libraries, which takes seconds: of use for an error alone.
    """
    quoted = [f"'{candidate}'" for candidate in _meant(name, rows)]
    if not quoted:
        return ";"
    return f"; did you mean {' or '.join(filter(None, (', '.join(quoted[:-1]), quoted[-1])))}?"


def _meant(name: str, rows: Sequence[str]) -> list[str]:
    """The row that is `name` but for its letters' case; else rows that are near, and addresses: those first that have
    the very name."""
    if same := [row for row in rows if _plain(row) == _plain(name)]:
        return same
    near, other = _rows(name, rows)
    candidates = addresses(name)
    if candidates and _plain(name) == _plain(re.split(r"[/.]", candidates[0])[1]):
        return [*candidates, *near, *other]
    return [*near, *candidates, *other]


def _rows(name: str, rows: Sequence[str]) -> tuple[list[str], list[str]]:
    """The row that `name` is a slip of the pen of, or two that hold it; else one that is a little like it."""
    own = {row.lower(): row for row in rows}
    near = get_close_matches(name.lower(), own, 1, ALIKE) or [row for row in own if _plain(name) in _plain(row)][:2]
    other = [] if near else get_close_matches(name.lower(), own, 1, LIKE)
    return [own[row] for row in near if _plain(name)], [own[row] for row in other]


def addresses(name: str) -> list[str]:
    """Return at most `MOST` addresses of pretrained networks whose names hold `name` or its words, or are close to it;
    one for each architecture, the plain base model first."""
    plain = _plain(name)
    if not plain:
        return []
    candidates = list(_candidates())
    chosen = [each for each in candidates if plain in _plain(each[1] + each[2])] or _with_words(name, candidates)
    best: dict[tuple[str, str], Candidate] = {}
    for candidate in sorted(chosen, key=lambda candidate: _rank(candidate, plain)):
        best.setdefault(candidate[:2], candidate)
    return [_address(*candidate) for candidate in best.values()][:MOST] or _close(name, candidates)


def _plain(name: str) -> str:
    """A name without what people write differently: `ViT-B/16` and `vit_b_16` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _with_words(name: str, candidates: list[Candidate]) -> list[Candidate]:
    """Those that hold most of the words of `name`, and half of its letters: of `dinov2_vitb14`, `clip-vit-base-32`."""
    words = {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word}
    letters = {each: sum(len(word) for word in words if word in _plain(each[1] + each[2])) for each in candidates}
    most = max(letters.values(), default=0)
    enough = 2 * most >= max(len(_plain(name)), SHORTEST)
    return [candidate for candidate in candidates if letters[candidate] == most] if enough else []


def _rank(candidate: Candidate, plain: str) -> tuple[object, ...]:
    """The architecture of that very name first, then what holds the name itself and not only in its tag, then the base
    model, what begins so, and the shortest name; of one architecture its library's own choice of weights."""
    library, architecture, _ = candidate
    is_base = bool({"base", "b"} & set(re.split(r"[^a-z0-9]+", architecture.lower())))
    own = _plain(architecture)
    likeness = (own != plain, plain not in own, not is_base, not own.startswith(plain), len(architecture))
    return (*likeness, list(LIBRARIES).index(library), architecture)


def _close(name: str, candidates: list[Candidate]) -> list[str]:
    """Addresses of the architectures that are written nearly so."""
    own = {architecture.lower(): _address(*each) for each in reversed(candidates) for architecture in [each[1]]}
    close = get_close_matches(name.lower(), own, MOST, ALIKE)
    return [own[architecture] for architecture in close]


def _address(library: str, architecture: str, tag: str) -> str:
    separator = LIBRARIES[library].separator if tag else ""
    return f"{library}/{architecture}{separator}{tag}"


def _candidates() -> Iterator[Candidate]:
    """All networks with pretrained weights of the libraries that are installed; the first tag of an architecture is
    its library's choice."""
    for name, library in LIBRARIES.items():
        try:
            yield from ((name, architecture, tag) for architecture, tag in library.names())
        except ImportError:
            continue
