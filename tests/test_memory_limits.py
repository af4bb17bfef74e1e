"""Both commands where there is little memory: they end well, or with exit code 2 and one line; never with a traceback,
a signal, or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type

ROOT = Path(__file__).resolve().parents[1]
LIMITED = "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]) * 2**20,) * 2)\n"
LOADED = """
import extract, train, featuresExtractor.pipeline, adaptation.experiment, timm, skops.io, matplotlib.pyplot
import resource, sys
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (1024 * size + int(sys.argv[1]) * 2**20,) * 2)
"""
CALLS = "import {0}\nsys.exit({0}.main(sys.argv[2:]))"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, image: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for number in range(8):
        for seed, side in enumerate(("left", "right")):
            image(folder / side / f"a{number}.png", (90, 80 + number), 2 * number + seed)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,000 pairs of 256 numbers: similarities of 20 MB, embeddings of 9."""
    path, count = tmp_path_factory.mktemp("features") / "features.npy", 3000
    values = np.random.default_rng(0).standard_normal((count, 2, 256)).astype(np.float32)
    row = row_type(("left", "right"), 256, 8)
    with FeaturesWriter(path, row, count) as writer:
        writer.put(0, [make_rows(row, [(f"{n}.png", f"{n}.png") for n in range(count)], values, 0)])
    return path


def run(prelude: str, megabytes: int, program: str, *words: object) -> int:
    """The exit code of a command with so much address space, or so much more than it has when it begins."""
    code = prelude + CALLS.format(program)
    command = [sys.executable, "-c", code, str(megabytes), *map(str, words), "--cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if "error" in line.lower()]
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2), (done.returncode, done.stderr)
    assert len(lines) == (done.returncode == 2), done.stderr
    assert all((line.startswith(f"{program}.py: error: ") and "memory" in line) or "space" in line for line in lines)
    return done.returncode


def extract_words(pairs: Path, save: Path) -> list[object]:
    return ["-d", pairs, "-s", save, "-p", "adapt-pca", 4, "--model", "efficientnet_lite0"]


def train_words(features: Path, save: Path) -> list[object]:
    return ["-d", features, "-s", save, "-e", 2, "--memory", 100]


@pytest.mark.parametrize("megabytes", [50, 1200])
def test_little_address_space_is_refused_before_the_libraries_are_loaded(
    megabytes: int, pairs: Path, features: Path, tmp_path: Path
) -> None:
    assert run(LIMITED, megabytes, "extract", *extract_words(pairs, tmp_path / "f")) == 2
    assert run(LIMITED, megabytes, "train", *train_words(features, tmp_path / "r")) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a process is read in Linux' /proc")
def test_memory_that_fills_up_is_told_in_one_line(pairs: Path, features: Path, tmp_path: Path) -> None:
    codes = [run(LOADED, more, "extract", *extract_words(pairs, tmp_path / str(more))) for more in (270, 4000)]
    assert codes == [2, 0]
    codes = [run(LOADED, more, "train", *train_words(features, tmp_path / f"t{more}")) for more in (270, 4000)]
    assert codes == [2, 0]


STEPS = [20, 250, 1500, 3000, 3250, 3500, 4000, 4500, 8000]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["extract", "train"])
def test_any_amount_of_address_space(program: str, pairs: Path, features: Path, tmp_path: Path) -> None:
    words = {"extract": (extract_words, pairs), "train": (train_words, features)}
    make, source = words[program]
    codes = [run(LIMITED, step, program, *make(source, tmp_path / str(step))) for step in STEPS]
    assert (codes[0], codes[-1]) == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["extract", "train"])
def test_any_amount_of_memory_while_it_works(program: str, pairs: Path, features: Path, tmp_path: Path) -> None:
    words = {"extract": (extract_words, pairs), "train": (train_words, features)}
    make, source = words[program]
    steps = range(260, 900, 90)
    codes = {run(LOADED, step, program, *make(source, tmp_path / str(step))) for step in steps}
    assert 2 in codes
