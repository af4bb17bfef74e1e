"""Bring vectors to unit length, also where a float32 cannot hold their squares."""

from __future__ import annotations

import torch
from torch import Tensor

EXPONENT = 0x7F800000  # the bits of a float32 that hold its power of two
SMALLEST, LARGEST = 2.0**-126, 2.0**127  # powers of two that a float32 holds with all of its bits


def power_of_two(values: Tensor) -> Tensor:
    """Return for positive float32 `values` the largest powers of two that are no larger. Division by a power of two
    loses no digit."""
    return (values.view(torch.int32) & EXPONENT).view(torch.float32).clamp_(SMALLEST, LARGEST)


def to_unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (..., D) of float32 brought to unit L2 length, and their lengths (..., 1); zero vectors stay zero.

    Each vector is first divided by the power of two of its largest entry: that changes no digit, and squares of entries
    above 1e19 or below 1e-19 neither overflow nor vanish. (A length beyond the largest float32 becomes infinite.)
    """
    largest = torch.maximum(vectors.amax(-1, keepdim=True), -vectors.amin(-1, keepdim=True)).float()
    scale = power_of_two(largest)
    units = vectors / scale
    lengths = torch.linalg.vector_norm(units, dim=-1, keepdim=True)
    return units / lengths.clamp(min=SMALLEST), lengths * scale
