"""A hundred thousand pairs on a small machine: memory stays flat, and no file stays open."""

from __future__ import annotations

import io
import os
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from tests.slow.processes import ended, start

pytestmark = pytest.mark.slow

PAIRS = 100_000
FLAT = 200 * 2**20  # bytes that a process may grow by between the first and the last tenth
EXTRACT = ["extract.py", "-d", "pairs", "-s", "out", "-b", "256", "--cpu", "-p", "adapt", "--no-data-aug"]
EXTRACT += ["--model", "tiny", "--weights", "random"]
TRAIN = ["train.py", "-d", "x.npy", "-s", "out", "-e", "2", "--cpu", "--model", "peterson", "--batch-size", "5000"]
MEMORY = 3  # GiB


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of a hundred thousand pairs of small JPEG files, of 64 different contents."""
    place, generator, bodies = tmp_path_factory.mktemp("load"), np.random.default_rng(0), []
    for _ in range(64):
        target = io.BytesIO()
        colours = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        colours.resize((32, 32)).save(target, "JPEG")
        bodies.append(target.getvalue())
    for side in ("left", "right"):
        (place / "pairs" / side).mkdir(parents=True)
        for number in range(PAIRS):
            (place / "pairs" / side / f"{number:06d}.jpg").write_bytes(bodies[number % 64])
    return place


def resident(process: BaseProcess) -> int:
    """Bytes that a process has in memory now, but for files that it maps."""
    lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    return 1024 * int(lines["RssAnon"].split()[0])


def test_extraction_stays_flat(pairs: Path) -> None:
    process, begun, checked = start(EXTRACT, pairs, tiny=True), time.monotonic(), 0.0
    journal, seen = pairs / "out/tiny/.unfinished/features/units.jsonl", []
    while process.is_alive():
        try:
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            checked = checked or (time.monotonic() - begun if lines else 0.0)
            share = lines * 128 / PAIRS
            seen.append((share, resident(process), len(os.listdir(f"/proc/{process.pid}/fd"))))
        except (OSError, KeyError, ValueError):
            continue  # it ended meanwhile
        time.sleep(0.2)
    assert ended(process) == 0, (pairs / "log.txt").read_text()
    assert 0 < checked < 60  # seconds for the list and the check by headers, and the first batch
    first, last = ([entry for entry in seen if low < entry[0] <= high] for low, high in ((0, 0.1), (0.9, 0.99)))
    assert max(memory for _, memory, _ in last) - max(memory for _, memory, _ in first) < FLAT
    assert max(files for _, _, files in last) <= max(files for _, _, files in first)


def test_training_keeps_to_its_memory(tmp_path: Path) -> None:
    row, generator = row_type(("left", "right"), 64, 10), np.random.default_rng(0)
    with FeaturesWriter(tmp_path / "x.npy", row, PAIRS) as writer:
        for first in range(0, PAIRS, 10_000):
            names = [(f"{number:06d}.jpg",) * 2 for number in range(first, first + 10_000)]
            numbers = generator.standard_normal((len(names), 2, 64)).astype(np.float32)
            writer.put(first, [make_rows(row, names, numbers, 0)])
    process = start([*TRAIN, "--memory", str(MEMORY)], tmp_path)
    assert ended(process, 400) == 0, (tmp_path / "log.txt").read_text()
    assert int((tmp_path / "memory.txt").read_text()) < MEMORY * 2**30
