"""How far features are from those that are expected: of another precision, or of a device that nobody has tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]

CLOSE = 0.9999  # the lowest cosine of features that count as the same


@dataclass(frozen=True)
class Drift:
    """How far features of a precision are from those of fp32: the cosines of `images` images, each view for
    itself."""

    precision: str
    images: int
    lowest: float
    mean: float

    def __str__(self) -> str:
        cosines = f"lowest {self.lowest:.6f}, mean {self.mean:.6f}"
        return f"{self.precision} beside fp32, cosine of the first {self.images:,} images' features: {cosines}"


def not_finite(precision: str) -> str:
    """Return what is wrong with features of a precision that are not finite numbers, and what to do."""
    fault = "the network gives values that are not finite numbers"
    if precision == "fp16":
        return f"{fault} in fp16, whose range is small; give --precision bf16 or fp32"
    return f"{fault}; are these its weights?"


def are_finite(outputs: list[Features]) -> bool:
    """Return whether all features are numbers."""
    return all(np.isfinite(output).all() for output in outputs)


def check_same(expected: list[Features], features: list[Features]) -> None:
    """InputError where features of a device are not those of the CPU, both (views, n, ...) for each output."""
    drift = drift_of("fp32", expected, features)
    if not drift.lowest >= CLOSE:
        raise InputError(
            f"this GPU gives other features than the CPU: cosines of the first {drift.images:,} images down to "
            f"{drift.lowest:.6f}, {CLOSE} is allowed; use --cpu"
        )


def drift_of(precision: str, exact: list[Features], outputs: list[Features]) -> Drift:
    """Return the cosines between features of fp32 and those of a precision, both (views, n, ...) for each output."""
    cosines = [_cosines(a, b) for a, b in zip(exact, outputs, strict=True)]
    return Drift(precision, exact[0].shape[1], float(np.min(cosines)), float(np.mean(cosines)))


def _cosines(exact: Features, output: Features) -> NDArray[np.float64]:
    """Of each image's features in one view: (views * n,)."""
    a, b = (
        features.reshape(features.shape[0] * features.shape[1], -1).astype(np.float64) for features in (exact, output)
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines
