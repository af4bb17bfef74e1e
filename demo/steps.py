"""Make a folder anew, and run commands that are shown before they run, for the demonstration and the comparison."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import InputError

# private, for the API pages would show it
_PROJECT = Path(__file__).resolve().parent.parent
MARK = "sample.txt"


def make_anew(folder: Path) -> None:
    """Empty a folder that an earlier demonstration made; InputError for any other folder that is not empty."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise InputError(f"{folder}: not empty and not made by the demonstration; give another folder")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder could be made here ({error.strerror})") from error
    (folder / MARK).write_text("made by the demonstration, which makes it anew each time\n", encoding="utf-8")


def run_commands(commands: Sequence[Sequence[str]]) -> int:
    """Show and run one command of this project after the other; return the exit code of the first that fails, or 0."""
    for words in commands:
        print(f"\n$ python {shlex.join(words)}", flush=True)
        if code := subprocess.run([sys.executable, *words], cwd=_PROJECT, check=False).returncode:
            return code
    return 0
