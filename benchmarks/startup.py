"""Measure the seconds that a user waits before anything happens."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.pca import Sizes, write_features
from benchmarks.table import Row, median_seconds

ROOT = Path(__file__).resolve().parents[1]
HELP, FIRST_EPOCH = 0.3, 6.0  # seconds that are allowed
ONE_EPOCH = """
import os, train
from adaptation import trainer
first = trainer.train_epoch
trainer.train_epoch = lambda *given: (first(*given), os._exit(0))
train.main()
"""


def measure(pairs: int, repeats: int) -> list[Row]:
    """Return rows for the help of both scripts, and for `train.py` from its call to the end of its first epoch."""
    with tempfile.TemporaryDirectory() as name:
        features = Path(name) / "features.npy"
        write_features(features, Sizes(2 * pairs, 256))
        once = ["-c", ONE_EPOCH, "-d", str(features), "-s", str(Path(name) / "runs"), "--cpu"]
        ways = {"extract.py -h": ["extract.py", "-h"], "train.py -h": ["train.py", "-h"], "train.py, first epoch": once}
        seconds = median_seconds({way: partial(_run, call) for way, call in ways.items()}, max(3, repeats))
    allowed = (HELP, HELP, FIRST_EPOCH)
    return [Row(way, "s", None, seconds[way], bound, None, 1.0) for way, bound in zip(ways, allowed, strict=True)]


def _run(call: list[str]) -> None:
    subprocess.run([sys.executable, *call], cwd=ROOT, check=True, capture_output=True)
