"""Run the demonstration: draw sample pairs, extract features, train a head, and compare before and after in a table.

    python -m demo [FOLDER]

FOLDER (default demo-output) is made anew each time.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.console import guarded, table
from demo.pairs import draw_pairs
from demo.steps import make_anew, run_commands

KS = (1, 3, 5)
EXTRACT = "extract.py -d {pairs} -s {features} -b 64 --data-aug -p adapt-pca 256 --model efficientnet_lite0"
TRAIN = (
    "train.py -d {features}/efficientnet_lite0/features_pca256.npy -s {run} "
    f"-e 150 -r 5 -t 15 --test-split 0.25 -k {' '.join(map(str, KS))} --final --html"
)
SEARCH = "similarity.py search -m {run}/run1 -q {queries} -g {pairs}/right -k 10 -s {search} --partners --html"
QUERIES = 24  # left images that are searched for: test pairs of the first run, which has not learned from them


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
    places = {name: folder / name for name in ("pairs", "features", "run", "queries", "search")}
    print(f"{draw_pairs(places['pairs']):,} sample pairs drawn in {places['pairs']}")
    if code := _run(places, EXTRACT, TRAIN):
        return code
    _choose_queries(places["run"] / "run1", places["pairs"], places["queries"])
    if code := _run(places, SEARCH):
        return code
    _report(places["run"])
    print(f"search page:     {places['search'] / 'page.html'}: {QUERIES} images, and what is found for them")
    return 0


def _run(places: Mapping[str, Path], *commands: str) -> int:
    """Run commands in which the places are named."""
    return run_commands([[word.format(**places) for word in command.split()] for command in commands])


def _choose_queries(run: Path, pairs: Path, queries: Path) -> None:
    """Copy the left images of a few test pairs of a run, evenly spread, to a folder of their own."""
    queries.mkdir()
    with (run / "split.csv").open(newline="", encoding="utf-8") as file:
        tested = [row["left_name"] for row in csv.DictReader(file) if row["set"] == "test"]
    for number in range(QUERIES):
        name = tested[number * len(tested) // QUERIES]
        shutil.copyfile(pairs / "left" / name, queries / name)


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
    print(f"test pairs:      {run / 'page.html'}: those of the first run, failures first")


if __name__ == "__main__":
    sys.exit(main())
