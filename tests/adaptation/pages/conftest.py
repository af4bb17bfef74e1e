"""A page of twelve pairs in both directions, whose partners a similarity finds better, worse, or never."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.pages.content import Page
from adaptation.pages.pairs import pair_queries
from tests.conftest import draw_image

PAIRS, K = 12, 3


def _units(*parts: np.ndarray) -> np.ndarray:
    vectors = np.hstack(parts)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page as data. The images of pair 5 are missing."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(5)
    shared = generator.normal(size=(PAIRS, 6))
    sides = []
    for _ in range(2):
        noise = generator.normal(size=(PAIRS, 6))
        sides.append((_units(shared + 2 * noise), _units(shared + generator.normal(size=(PAIRS, 6)))))
    names = [(f"left/{number:02}_a.jpg", f"right/{number:02}_b.jpg") for number in range(PAIRS)]
    paths = [
        tuple(folder / name if pair == 5 else draw_image(folder / name, seed=2 * pair + side) for side, name in both)
        for pair, both in enumerate(map(enumerate, names))
    ]
    left, right = sides
    queries = pair_queries(left, right, names, [(Path(a), Path(b)) for a, b in paths], K, torch.device("cpu"))
    return Page("Twelve pairs", queries, K, PAIRS, ("Random vectors.",))
