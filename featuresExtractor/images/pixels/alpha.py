"""Lay images with opacity over white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images.pixels.meaning import Alpha

WHITE = (255, 255, 255, 255)
INVISIBLE = "fully transparent, so all of it is white"
UNSET = "an opacity of zero everywhere is taken as never set, so all of it is opaque"


def split(image: Image.Image, alpha: Alpha) -> tuple[Image.Image, Image.Image | None, tuple[str, ...]]:
    """Return the colours of an 8-bit image, its opacity (mode L) where it has one, and remarks."""
    if not image.has_transparency_data:
        return image, None, ()
    whole = image if image.mode in ("LA", "La", "RGBa") else image.convert("RGBA")
    *bands, opacity = whole.split()
    colors = Image.merge(whole.mode[:-1], bands)
    if alpha is Alpha.NONE:
        return colors, None, ()
    if alpha is Alpha.DOUBTFUL and opacity.getextrema()[1] == 0:
        return colors, None, (UNSET,)
    if alpha is Alpha.PREMULTIPLIED or whole.mode in ("La", "RGBa"):
        straight = divided(np.asarray(colors), np.asarray(opacity) / 255)
        colors = Image.fromarray(np.rint(straight.clip(0, 255)).astype(np.uint8))
    return colors, opacity, ()


def divided(colors: NDArray[Any], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return colours (H, W, C) or (H, W) as they were before they were multiplied by the opacity (H, W) of 0..1."""
    shares = np.where(shares > 0, shares, 1)
    return colors / (shares if colors.ndim == 2 else shares[..., None])


def over_white(rgb: Image.Image, opacity: Image.Image | None) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an RGB image over white by Porter and Duff's `over`, and a remark where nothing of it can be seen."""
    if opacity is None:
        return rgb, ()
    rgba = rgb.copy()
    rgba.putalpha(opacity)
    over = Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return over, (INVISIBLE,) * (opacity.getextrema()[1] == 0)
