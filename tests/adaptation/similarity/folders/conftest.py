"""Folders of images, and a command line that is run as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import similarity
from adaptation import Similarity
from featuresExtractor.backbones import inference

Run = Callable[..., int]


@pytest.fixture
def loaded(learned: Path) -> Similarity:
    """The final similarity."""
    return Similarity.load(learned)


@pytest.fixture
def run(learned: Path) -> Run:
    """`run("embed", ...)` runs similarity.py with the final similarity."""

    def command(name: str, *words: object) -> int:
        model = [] if "-m" in words else ["-m", str(learned)]
        return similarity.main([name, *model, "--cpu", *map(str, words)])

    return command


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the network, batch by batch."""
    counts: list[int] = []
    whole = inference.Forward._all

    def counting(self: inference.Forward, pixels: object) -> object:
        counts.append(len(pixels))  # type: ignore[arg-type]
        return whole(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(inference.Forward, "_all", counting)
    return counts
