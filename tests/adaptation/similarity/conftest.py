"""A similarity that was really learned: images, features of a tiny network, two runs, a final head."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import extract
import train
from common.console import logged
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from tests.conftest import TINY

PAIRS, PCA = 16, "-p adapt-pca 8"
Learn = Callable[..., Path]


def draw_pairs(root: Path, image: Callable[..., Path], count: int) -> Path:
    """Draw n pairs a0.png, a1.png, ... into `root`/pairs and return it."""
    for number in range(count):
        image(root / "pairs" / "left" / f"a{number}.png", (41 + number, 33), 2 * number)
        image(root / "pairs" / "right" / f"a{number}.png", (35, 52 - number), 2 * number + 1)
    return root / "pairs"


def learn_in(root: Path, images: Path, words: Sequence[str], extracted: str, folder: str) -> Path:
    """Extract features of `images` with the tiny network and train on them, both into `root`; return the run folder."""
    arguments = ["-d", str(images), "-s", str(root / "features"), "--model", TINY.name, "--cpu", *extracted.split()]
    assert extract.main([*arguments, *([] if "--weights" in extracted else ["--weights", "random"])]) == 0
    places = ["-d", str(root / "features" / TINY.name), "-s", str(root / folder)]
    assert train.main([*places, *["--cpu", "-e", "6", "-r", "2", "-t", "10", "-k", "1", "3"], *words]) == 0
    return root / folder


@pytest.fixture
def draw(tmp_path: Path, image: Callable[..., Path]) -> Callable[[int], Path]:
    """`draw(n)` makes a folder of n pairs a0.png, a1.png, ... and returns it."""
    return lambda count: draw_pairs(tmp_path, image, count)


@pytest.fixture
def learn(tmp_path: Path, draw: Callable[[int], Path], tiny_model: Backbone) -> Learn:
    """`learn(...)` extracts and trains with these more words of `train.py`, and returns the run folder; with
    `extracted` these words of `extract.py` come in the place of `-p adapt-pca 8`."""

    def command(*words: str, extracted: str = PCA, folder: str = "run", count: int = PAIRS) -> Path:
        return learn_in(tmp_path, draw(count), words, extracted, folder)

    return command


@pytest.fixture(scope="session")
def learned_once(tmp_path_factory: pytest.TempPathFactory, image: Callable[..., Path]) -> Path:
    """The folder of pairs, features and a run of two runs and a final head. Not to be changed."""
    root, threads = tmp_path_factory.mktemp("learned"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, logged():
        patch.setattr(models, "BACKBONES", (*models.BACKBONES, TINY))
        learn_in(root, draw_pairs(root, image, PAIRS), ["--final"], PCA, "run")
    torch.set_num_threads(threads)
    return root


@pytest.fixture
def learned(tmp_path: Path, learned_once: Path, tiny_model: Backbone) -> Path:
    """The run folder of two runs and a final head; features/ and pairs/ are beside it."""
    shutil.copytree(learned_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"
