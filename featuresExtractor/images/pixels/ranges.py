"""Decide the range of samples of more than 8 bits: known, stated by the file, or unknown; never assumed.

A function of this kind takes the colours of an image and returns the values of black and of white, and remarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Span = tuple[float, float]
FULL = (0.0, 65535.0)
SMALL = {
    4096: "values use less than 1/16 of the 16-bit range; if they are 8, 10 or 12-bit data, pass --value-range 0 255, "
    "0 1023 or 0 4095",
    16384: "values use less than 1/4 of the 16-bit range; if they are 14-bit data, pass --value-range 0 16383",
}
NARROW = "values span less than 1/16 of the 16-bit range and look like one grey; --value-range LOW HIGH spreads them"
CLIPPED = "values beyond --value-range are clipped"
FAINT = "values use less than 1/16 of --value-range"
EXCEEDED = "the range of values that the file states is not used, since its values exceed it"
OWN_EXTREMES = (
    "the range that the file states ends at its own highest value, so each image is stretched by itself; --value-range "
    "gives all of them one range"
)
STATISTICS = "the file states its highest value but no range, so all 16 bits are taken; --value-range sets the range"


@dataclass(frozen=True)
class Range:
    """The values of black and of white, None where they are unknown, and remarks about them."""

    span: Span | None
    remarks: tuple[str, ...] = ()


RangeOf = Callable[[NDArray[Any]], Range]


def full(values: NDArray[Any]) -> Range:
    """Return all 16 bits; a remark where the values use so few that they may have been made of fewer bits."""
    return Range(FULL, small(int(values.max())) or narrow(int(values.max()) - int(values.min())))


def small(highest: int) -> tuple[str, ...]:
    """Return a remark about 16-bit values up to `highest` where that is suspiciously low; not where all are black."""
    remark = next((text for bound, text in SMALL.items() if 0 < highest < bound), None)
    return (remark,) if remark else ()


def narrow(spread: int) -> tuple[str, ...]:
    """Return a remark about 16-bit values that lie close together and far from black, as those of thermal images do."""
    return (NARROW,) if 0 < spread < min(SMALL) else ()


def fixed(low: float, high: float) -> RangeOf:
    """Return the function for a range that is known, whatever the values."""
    return lambda _values: Range((low, high))


def unknown(_values: NDArray[Any]) -> Range:
    """Return no range: integers of 32 bits, signed ones and floats have none of their own."""
    return Range(None)


def stated(span: Span, statistics: bool, otherwise: RangeOf) -> RangeOf:
    """Return the function for a range that a file states, if its values keep to it.

    As `statistics` a range is used only where it cannot be mistaken for the extremes of the image's own values.
    """

    def range_of(values: NDArray[Any]) -> Range:
        own = float(values.min()), float(values.max())
        if not (span[0] <= own[0] and own[1] <= span[1]):
            known = otherwise(values)
            return Range(known.span, (EXCEEDED, *known.remarks))
        if own[1] != span[1] or (span[0] == 0 and _is_of_bits(span[1])):
            return Range(span)
        if statistics:
            known = otherwise(values)
            return Range(known.span, (STATISTICS, *known.remarks) if known.span else ())
        return Range(span, (OWN_EXTREMES,))

    return range_of


def _is_of_bits(high: float) -> bool:
    """Return whether `high` is the highest number of some bits: 1023, 4095; or 1, that of floats."""
    return high == 1 or (high > 1 and np.log2(high + 1) % 1 == 0)


def given(values: NDArray[Any], span: Span) -> Range:
    """Return the range that the user gave, with remarks about values that do not look as if they had it."""
    lowest, highest = float(values.min()), float(values.max())
    beyond = lowest < span[0] or highest > span[1]
    faint = not beyond and highest - lowest > 0 and highest - span[0] < (span[1] - span[0]) / 16
    return Range(span, (CLIPPED,) * beyond + (FAINT,) * faint)


def significant(bits: int) -> RangeOf:
    """Return the function for 16-bit samples of which `bits` are significant.

    A PNG has them scaled up to all 16 bits, and then the range is all of it; where a program stored the bits as they
    were, the range is theirs.
    """

    highest = (1 << bits) - 1

    def range_of(values: NDArray[Any]) -> Range:
        high = values.astype(np.uint32) >> (16 - bits)
        shifted = high << (16 - bits)
        if (values == shifted).all():
            return Range((0.0, float(highest << (16 - bits))))
        repeated = shifted | high >> max(0, 2 * bits - 16)
        linear = (high * 65535 + highest // 2) // highest
        scaled_up = any(bool((values == way).all()) for way in (repeated, linear))
        return Range(FULL if scaled_up or values.max() > highest else (0.0, float(highest)))

    return range_of


def levels(values: NDArray[Any], span: Span) -> NDArray[np.uint8]:
    """Return values as 0..255: `span` becomes black and white, what lies beyond is clipped, the rest rounded.

    Raises ValueError for values that are not finite.
    """
    if values.dtype.itemsize <= 2 and values.dtype.kind in "iu":
        table: NDArray[np.uint8] = _table(span, values.dtype.kind)[values.astype(values.dtype.newbyteorder("="))]
        return table
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite (NaN or infinity)")
    return _scaled(values, span)


def _scaled(values: NDArray[Any], span: Span) -> NDArray[np.uint8]:
    parts = (values.astype(np.float64) - span[0]) * 255 / (span[1] - span[0])
    return np.rint(np.clip(parts, 0, 255)).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(span: Span, kind: str) -> NDArray[np.uint8]:
    """Return the level of each 16-bit number, also of negative ones, which are looked up from the end."""
    numbers = np.arange(65536)
    return _scaled(numbers.astype(np.int16) if kind == "i" else numbers, span)
