"""The one exception that a user is meant to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class InputError(Exception):
    """Wrong input, told in one line: what was found, what is allowed, where, and what to do.

    The scripts print it without a traceback and end with exit code 2; every other exception is a fault of the program.
    """


class OutOfMemory(InputError):
    """Too little memory, with what to do about it. An InputError, since a smaller input or a larger machine is the way
    out."""


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for an error line: the first `most`, then how many more there are."""
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def printable(name: str) -> str:
    """A file name without the control characters that could rewrite a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)


def nearest(name: str, allowed: Sequence[str]) -> str:
    """`; did you mean 'x'?` when something allowed looks like `name`, else `;`: the rest of the line follows."""
    close = get_close_matches(name, allowed, n=1)
    return f"; did you mean '{close[0]}'?" if close else ";"
