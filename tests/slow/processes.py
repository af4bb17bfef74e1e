"""The commands in processes of their own, which can be killed: at any moment, or before or after a certain call."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from featuresExtractor import models
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "extract",
    "train",
    "similarity",
    "featuresExtractor.pipeline",
    "adaptation.experiment",
    "skops.io",
    "timm",
)

_context = multiprocessing.get_context("forkserver")  # the imports, which take seconds, are done once
_context.set_forkserver_preload(list(PRELOADED))


def start(argv: Sequence[str], folder: Path, point: str = "", call: int = 1, tiny: bool = False) -> BaseProcess:
    """Run a script (`extract.py`, `train.py`, `similarity.py`) in `folder`, where its output goes to a log. It kills
    itself at the given `call` of a `point`: `before NAME`, `after NAME` or `half NAME` (with half a line), all dotted;
    or it finds the disk full: `full NAME`. With `tiny` there is a network of that name, for images of 32 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    process = _context.Process(target=_run, args=(list(argv), str(folder), point, call, tiny))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 120) -> int:
    """The exit code: negative for a signal. A process that does not end is a hang."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {seconds} s")
    return process.exitcode


def _run(argv: list[str], folder: str, point: str, call: int, tiny: bool) -> None:
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    script, *words = argv
    sys.stderr.write(f"--- {script} {' '.join(words)}\n")
    if point:
        _arm(point, call)
    if tiny:
        setattr(models, "BACKBONES", (*models.BACKBONES, TINY))  # noqa: B010  # a tuple of another length to mypy
    before = peak()
    code = importlib.import_module(script.removesuffix(".py")).main(words)
    Path("memory.txt").write_text(str(peak() - before))
    sys.exit(code)


def peak() -> int:
    """The most bytes that this process has had."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


def _arm(point: str, call: int) -> None:
    """Puts a mine at the given call of a function."""
    when, name = point.split()
    owner, attribute = _resolve(name)
    original: Callable[..., Any] = getattr(owner, attribute)
    calls = 0

    def mined(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            _die()
        if calls == call and when == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if calls == call and when == "half":
            _write_half(args[0].path / "units.jsonl")
        found = original(*args, **given)
        if calls == call and when == "after":
            _die()
        return found

    setattr(owner, attribute, mined)


def _resolve(name: str) -> tuple[Any, str]:
    """The module or class, and the attribute in it, of a dotted name."""
    *parents, attribute = name.split(".")
    for length in range(len(parents), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parents[:length]))
        except ModuleNotFoundError:
            continue
        for part in parents[length:]:
            owner = getattr(owner, part)
        return owner, attribute
    raise ValueError(name)


def _write_half(units: Path) -> None:
    """Half a line of a list of units, and the end."""
    with units.open("ab") as file:
        file.write(b'{"unit": "0-')
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its name, but for TensorBoard's, which hold the time, and what a process notes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if "tfevents" not in path.name and path.name not in ("log.txt", "memory.txt")
    }
