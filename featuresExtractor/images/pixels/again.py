"""Let Pillow decode a file by another layout of its bytes, so that no bits are lost or misplaced.

Pillow keeps the high byte of 16-bit colours alone; here such a file is decoded twice, the low bytes as if high.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

TileLayout = Callable[[int, str], str]
"""(number of a tile, its rawmode as Pillow has it) -> the rawmode to decode it by, of as many bits a pixel; an empty
rawmode skips the tile."""

SWAPPED = {"16L": "16B", "16B": "16L"}
NATIVE = "16L" if sys.byteorder == "little" else "16B"


def rawmode_of(tile: Any) -> str:
    """Return how the bytes of a tile are laid out, in Pillow's terms: `RGB;16B`."""
    return str(tile[3] if isinstance(tile[3], str) else tile[3][0])


def set_layout(image: Image.Image, layout: TileLayout) -> None:
    """Let an opened image, not loaded yet, be decoded by `layout`."""
    assert isinstance(image, ImageFile.ImageFile)
    rawmodes = [layout(number, rawmode_of(tile)) for number, tile in enumerate(image.tile)]
    image.tile = [_relaid(tile, rawmode) for tile, rawmode in zip(image.tile, rawmodes, strict=True) if rawmode]


def _relaid(tile: Any, rawmode: str) -> Any:
    return tile._replace(args=rawmode if isinstance(tile[3], str) else (rawmode, *tile[3][1:]))


def sixteen_bits(image: Image.Image, layout: TileLayout) -> NDArray[np.uint16]:
    """Return all 16 bits of each sample, (H, W, C), of an opened image that is not loaded yet, and load it.

    `layout` gives rawmodes that end in 16L or 16B, by which Pillow keeps the high bytes."""
    low = np.asarray(_second(image, lambda number, own: _swapped(layout(number, own))))
    set_layout(image, layout)
    values: NDArray[np.uint16] = np.asarray(image).astype(np.uint16) << 8 | low
    return values


def _second(image: Image.Image, layout: TileLayout) -> Image.Image:
    """Return the file of `image` opened once more, and loaded by `layout`."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    image.fp.seek(0)
    second = type(image)(image.fp)
    set_layout(second, layout)
    second.load()
    return second


def _swapped(rawmode: str) -> str:
    return rawmode[:-3] + SWAPPED[rawmode[-3:]] if rawmode else ""
