"""A similarity that was really learned: images, features of a tiny network, two runs, a final head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import extract
import train
from featuresExtractor.backbones.backbone import Backbone

PAIRS = 16
Learn = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path, image: Callable[..., Path]) -> Callable[[int], Path]:
    """`draw(n)` makes a folder of n pairs a0.png, a1.png, ... and returns it."""

    def make(count: int) -> Path:
        for number in range(count):
            image(tmp_path / "pairs" / "left" / f"a{number}.png", (41 + number, 33), 2 * number)
            image(tmp_path / "pairs" / "right" / f"a{number}.png", (35, 52 - number), 2 * number + 1)
        return tmp_path / "pairs"

    return make


@pytest.fixture
def learn(tmp_path: Path, draw: Callable[[int], Path], tiny_model: Backbone) -> Learn:
    """`learn(...)` extracts and trains with these more words of `train.py`, and returns the run folder; with
    `extracted` these words of `extract.py` come in the place of `-p adapt-pca 8`."""

    def command(*words: str, extracted: str = "-p adapt-pca 8", folder: str = "run", count: int = PAIRS) -> Path:
        images, features = draw(count), tmp_path / "features"
        arguments = ["-d", str(images), "-s", str(features), "--model", tiny_model.name, "--cpu", *extracted.split()]
        assert extract.main([*arguments, *([] if "--weights" in extracted else ["--weights", "random"])]) == 0
        places = ["-d", str(features / tiny_model.name), "-s", str(tmp_path / folder)]
        assert train.main([*places, *["--cpu", "-e", "6", "-r", "2", "-t", "10", "-k", "1", "3"], *words]) == 0
        return tmp_path / folder

    return command


@pytest.fixture
def learned(learn: Learn) -> Path:
    """The run folder of two runs and a final head."""
    return learn("--final")
