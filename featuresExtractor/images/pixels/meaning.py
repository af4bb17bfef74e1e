"""The types that say what the samples of an image mean: their range, opacity, and what Pillow does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from numpy.typing import NDArray

from featuresExtractor.images.pixels.ranges import Range, full

UNSTATED = "extra samples whose meaning the file does not state (infrared, for instance) are ignored"


class Alpha(Enum):
    """What a fourth channel (a second one beside grey) is."""

    STRAIGHT = "opacity"
    PREMULTIPLIED = "opacity, by which the colours are multiplied already"
    DOUBTFUL = "opacity, but where it is zero everywhere nobody has set it"
    NONE = "something else, which is ignored"


@dataclass(frozen=True)
class Deep:
    """Samples that are not unsigned 8-bit integers.

    `read` returns them as the file stores them: (H, W) or (H, W, C), the channels being the letters of `mode` (L, LA,
    RGB, RGBA or CMYK). `range_of` returns the values of black and white among the colours, and remarks. With
    `inverted`, the low end is white. Pixels of exactly the values `key` are transparent.
    """

    read: Callable[[], NDArray[Any]]
    kind: str = "16-bit integers"
    mode: str = "L"
    range_of: Callable[[NDArray[Any]], Range] = full
    inverted: bool = False
    key: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Coarse:
    """A file of more than 8 bits of which Pillow gives the high 8 alone; `assumed`: it may be of fewer bits than 16."""

    kind: str
    assumed: bool = True


@dataclass(frozen=True)
class Meaning:
    """What a file says about the samples of its image; the defaults are those of an ordinary 8-bit image."""

    deep: Deep | None = None
    alpha: Alpha = Alpha.STRAIGHT
    coarse: Coarse | None = None
    remarks: tuple[str, ...] = ()
