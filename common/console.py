"""What the two scripts show: one line for an error, tables, progress."""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError, printable
from common.machine.system import BROKEN_PIPE, MOST_READERS
from common.stopping import Stopped, stoppable

PACKAGES = ("common", "featuresExtractor", "adaptation")


def guarded(program: str, command: Callable[[], int], how_to_go_on: str = "nothing is kept") -> int:
    """Runs `command` and returns its exit code; 2 and one line for wrong input, 130 or 143 when it was asked to end.

    A reader that has seen enough (`| head`) ends it without a word, with exit code 141.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to end
    try:
        with stoppable(), logged():
            code = command()
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain at its end
        return BROKEN_PIPE
    except Exception as error:
        if (line := _line(error)) is None:
            raise
        print(f"{program}: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"\n{program}: interrupted; {how_to_go_on}", file=sys.stderr)
        return error.exit_code if isinstance(error, Stopped) else 130


class _Terminal(logging.Handler):
    """Prints messages as they are, above a bar that is being drawn: warnings to stderr, the others to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        from tqdm import tqdm  # slow to import, for a help text that needs none of it

        tqdm.write(record.getMessage(), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout)


@contextmanager
def logged() -> Iterator[None]:
    """Show in here, once, what the packages of this project log."""
    terminal = _Terminal()
    silent = [logger for logger in map(logging.getLogger, PACKAGES) if logger.level != logging.INFO]
    for logger in silent:
        logger.addHandler(terminal)
        logger.setLevel(logging.INFO)
        logger.propagate = False  # or a library that sets logging up would show it a second time
    try:
        yield
    finally:
        for logger in silent:
            logger.removeHandler(terminal)
            logger.setLevel(logging.NOTSET)
            logger.propagate = True


def _line(error: Exception) -> str | None:
    """The line for wrong input, for what the system refuses and for a full memory; None for a fault of the program."""
    from common.machine.shortage import explained

    if line := explained(error):
        return printable(line)
    if isinstance(error, InputError):
        return printable(str(error))
    if isinstance(error, OSError) and error.errno is not None:
        return f"{printable(str(error.filename or 'writing'))}: {error.strerror}"
    return None


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with two spaces between them: numbers to the right (`-` where there is none), words to the left."""
    columns = [list(column) for column in zip(header, *rows, strict=True)]
    for column in columns:
        width = max(map(len, column))
        numbers = all(cell in ("", "-") or cell.lstrip("+-")[:1].isdigit() for cell in column[1:])
        column[:] = [cell.rjust(width) if numbers else cell.ljust(width) for cell in column]
        column.insert(1, "-" * width)
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def duration(seconds: float) -> str:
    """`75.2` -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def quoted(path: Path) -> str:
    """Return a path as it can be pasted into a command line of this system."""
    if os.name != "nt":
        return printable(shlex.quote(str(path)))
    from subprocess import list2cmdline  # slow to import, for a help text that needs none of it

    return printable(list2cmdline([str(path)]))


def positive(text: str) -> int:
    """An argument that counts something: 1, 2, 3, ..."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """An argument such as a seed: 0, 1, 2, ... below 2^63."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to 2^63 - 1")
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


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options of how images are read: `--workers`, and how large they may be."""
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help=f"threads that read images (default: one a core, at most {MOST_READERS})",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        help="admit images of up to N pixels (default 178,956,970, against files that grow beyond any memory)",
    )


def add_precision(parser: argparse.ArgumentParser, allowed: Sequence[str], note: str) -> None:
    """`--precision`, one of those `allowed`."""
    parser.add_argument(
        "--precision", choices=allowed, default="fp32", help=f"arithmetic (default fp32, as in the paper); {note}"
    )
