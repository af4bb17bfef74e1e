"""The demonstration: sample pairs drawn, features extracted, a head trained, and one table of what it brought.

    python -m demo [FOLDER]

FOLDER (default demo-output) is made anew each time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.console import guarded, table
from common.errors import InputError
from demo.pairs import draw_pairs

PROJECT = Path(__file__).resolve().parent.parent
MARK = "sample.txt"
KS = (1, 3, 5)
EXTRACT = "extract.py -d {pairs} -s {features} -b 64 --data-aug -p adapt-pca 256 --model efficientnet_lite0"
TRAIN = (
    "train.py -d {features}/efficientnet_lite0/features_pca256.npy -s {run} "
    f"-e 150 -r 5 -t 15 --test-split 0.25 -k {' '.join(map(str, KS))}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration; returns 0, or 2 after wrong input, or the exit code of the command that failed."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Draw sample pairs, extract, train, tell.")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("demo-output"), help="made anew (default demo-output)"
    )
    args = parser.parse_args(argv)
    return guarded("demo", lambda: demonstrate(args.folder))


def demonstrate(folder: Path) -> int:
    """Draws, extracts, trains and prints the table; each command is shown before it runs."""
    _make_anew(folder)
    places = {"pairs": folder / "pairs", "features": folder / "features", "run": folder / "run"}
    print(f"{draw_pairs(places['pairs']):,} sample pairs drawn in {places['pairs']}")
    for command in (EXTRACT, TRAIN):
        words = [word.format(**places) for word in command.split()]
        print(f"\n$ python {shlex.join(words)}", flush=True)
        if code := subprocess.run([sys.executable, *words], cwd=PROJECT, check=False).returncode:
            return code
    _report(places["run"])
    return 0


def _make_anew(folder: Path) -> None:
    """Empties a folder that an earlier demonstration made; any other that is not empty is left alone."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise InputError(f"{folder}: not empty and not made by the demonstration; give another folder")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder could be made here ({error.strerror})") from error
    (folder / MARK).write_text("made by `make demo`, which makes it anew each time\n", encoding="utf-8")


def _report(run: Path) -> None:
    """The table: frozen features and the trained head, on the same test pairs."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))

    def row(label: str, kind: str) -> list[str]:
        values: list[dict[str, Any]] = [summary["metrics"][f"top {k}"][kind] for k in KS]
        return [label, *(f"{value['mean']:.3f} (sd {value['sd']:.3f})" for value in values)]

    runs, pairs = summary["settings"]["runs"], summary["pairs"]
    print(f"\nsample pairs: {pairs['train']:,} to learn from, {pairs['test']:,} to test on, mean of {runs} splits")
    rows = [row("frozen features", "frozen"), row("after adaptation", "last_epoch")]
    print(table(["", *(f"aR@{k}" for k in KS)], rows))
    print(f"\nresults:         {run / 'summary.json'}")
    print(f"learning curves: {run / 'curves.png'}, or: .venv/bin/tensorboard --logdir {run}")


if __name__ == "__main__":
    sys.exit(main())
