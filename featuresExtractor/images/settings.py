"""The settings with which image files are decoded."""

from __future__ import annotations

from dataclasses import dataclass

MOST_PIXELS = 178_956_970  # of an image in a file; Pillow's own bound against files that grow beyond any memory


@dataclass(frozen=True)
class Decoding:
    """How the samples in image files become 8-bit RGB.

    `value_range` (low, high) are the values of black and white in samples of more than 8 bits; None: as the file says,
    or all of its bits. `color` is `stored`, the samples in the file, or `srgb`, converted by the file's colour profile.
    Images of more than `max_pixels` pixels are refused.
    """

    value_range: tuple[float, float] | None = None
    color: str = "stored"
    max_pixels: int = MOST_PIXELS


STORED = Decoding()
