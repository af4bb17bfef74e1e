"""Pairs made of numbers, for all tests of the package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from adaptation.data.pairs import Pairs

PAIRS, NUMBERS, NOISY = 40, 8, 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over so few numbers take ten times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pairs() -> Pairs:
    """Two views of 40 pairs: six numbers that partners share, and two louder ones that say nothing."""
    generator = torch.Generator().manual_seed(7)

    def noise(scale: float, numbers: int) -> torch.Tensor:
        return scale * torch.randn(2, PAIRS, numbers, generator=generator)

    meaning = torch.randn(1, PAIRS, NUMBERS - NOISY, generator=generator)
    left, right = (torch.cat([meaning + noise(0.1, NUMBERS - NOISY), noise(3.0, NOISY)], dim=-1) for _ in range(2))
    return Pairs(left, right, [(f"{number:02d}.jpg", f"{number:02d}.png") for number in range(PAIRS)])
