"""What the two scripts show: one line for an error, tables, progress."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence

from common.errors import InputError


def guarded(program: str, command: Callable[[], int]) -> int:
    """Runs `command` and returns its exit code; 2 and one line for wrong input, 130 when interrupted."""
    try:
        return command()
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with two spaces between them: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def duration(seconds: float) -> str:
    """`75.2` -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def positive(text: str) -> int:
    """An argument that counts something: 1, 2, 3, ..."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """An argument such as a seed: 0, 1, 2, ..."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number, 0 or above")
    return int(text)


def positive_float(text: str) -> float:
    """An argument that scales something: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--gpu | --cpu`, kept in `gpu` as True, False or None when nothing is said."""
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--gpu", dest="gpu", action="store_true", default=None, help="use the GPU (default where there is one)"
    )
    either.add_argument("--cpu", dest="gpu", action="store_false", help="use the CPU")
