"""Run the demonstration: draw sample pairs, extract features, train a head, and compare before and after in a table.

    python -m demo [FOLDER]

FOLDER (default demo-output) is made anew each time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.console import guarded, table
from demo.pairs import draw_pairs
from demo.steps import make_anew, run_commands

KS = (1, 3, 5)
EXTRACT = "extract.py -d {pairs} -s {features} -b 64 --data-aug -p adapt-pca 256 --model efficientnet_lite0"
TRAIN = (
    "train.py -d {features}/efficientnet_lite0/features_pca256.npy -s {run} "
    f"-e 150 -r 5 -t 15 --test-split 0.25 -k {' '.join(map(str, KS))}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0, or 2 after wrong input, or the exit code of the command that failed."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Draw sample pairs, extract, train, tell.")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("demo-output"), help="made anew (default demo-output)"
    )
    args = parser.parse_args(argv)
    return guarded("demo", lambda: demonstrate(args.folder))


def demonstrate(folder: Path) -> int:
    """Draw, extract, train and print the table; each command is shown before it runs."""
    make_anew(folder)
    places = {"pairs": folder / "pairs", "features": folder / "features", "run": folder / "run"}
    print(f"{draw_pairs(places['pairs']):,} sample pairs drawn in {places['pairs']}")
    code = run_commands([[word.format(**places) for word in command.split()] for command in (EXTRACT, TRAIN)])
    if not code:
        _report(places["run"])
    return code


def _report(run: Path) -> None:
    """Print the table: frozen features and the trained head, on the same test pairs."""
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
