"""Turn the samples of an image file into 8-bit RGB; what is not known about them is an error, never assumed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images.pixels.alpha import divided, over_white, split
from featuresExtractor.images.pixels.color import to_rgb_colors
from featuresExtractor.images.pixels.meaning import Alpha, Coarse, Deep
from featuresExtractor.images.pixels.modes import meaning_of
from featuresExtractor.images.pixels.ranges import FULL, Span, given, levels, small
from featuresExtractor.images.settings import STORED, Decoding

Remarks = tuple[str, ...]


def to_rgb(image: Image.Image, decoding: Decoding = STORED) -> tuple[Image.Image, Remarks]:
    """Return an opened image as 8-bit RGB, over white where transparent, and remarks: what a person should know.

    Samples of more than 8 bits are scaled from their range: `decoding.value_range`, or what the file states, or all of
    its bits; 8-bit samples are not scaled. The image should not be loaded yet, since Pillow drops bits when it loads;
    afterwards it is. Its EXIF orientation is ignored. Raises ValueError for samples of unknown meaning or range.
    """
    meaning = meaning_of(image)
    if meaning.deep:
        colors, opacity, remarks = _to_eight_bits(meaning.deep, meaning.alpha, decoding)
        image.load()
    else:
        _load(image)
        colors, opacity, remarks = split(image, meaning.alpha)
        remarks += _of_coarse(colors, meaning.coarse, decoding) if meaning.coarse else ()
    rgb, of_color = to_rgb_colors(colors, _profile(image), decoding.color == "srgb")
    over, of_opacity = over_white(rgb, opacity)
    return over, (*meaning.remarks, *remarks, *of_color, *of_opacity)


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except ValueError as error:
        if "raw mode" not in str(error):
            raise
        raise ValueError(f"{image.format} of a kind that is not read; save it as PNG") from error


def _profile(image: Image.Image) -> bytes | None:
    """Return the colour profile of an image; empty for one that cannot be unpacked, None where there is none."""
    return (image.info["icc_profile"] or b"") if "icc_profile" in image.info else None


def _of_coarse(colors: Image.Image, coarse: Coarse, decoding: Decoding) -> Remarks:
    """Return remarks about colours of which only the high 8 bits were read; ValueError where all are needed."""
    if decoding.value_range not in (None, FULL):
        raise ValueError(
            f"{coarse.kind} of more than 8 bits: only the high 8 are read, so --value-range cannot be applied; save it "
            "as PNG or as interleaved TIFF"
        )
    return small(256 * int(np.asarray(colors).max())) if coarse.assumed else ()


def _to_eight_bits(deep: Deep, alpha: Alpha, decoding: Decoding) -> tuple[Image.Image, Image.Image | None, Remarks]:
    """Return deep samples as an 8-bit image without opacity, the opacity where there is one, and remarks."""
    values = deep.read()
    colors, opacity = (values[..., :-1], values[..., -1]) if deep.mode in ("LA", "RGBA") else (values, None)
    known = given(colors, decoding.value_range) if decoding.value_range else deep.range_of(colors)
    span = known.span
    if span is None:
        raise ValueError(f"{deep.kind} of unknown range: pass --value-range LOW HIGH, or save it as 8 or 16 bits")
    share = None
    if deep.key is not None:
        share = np.where(_is_key(colors, deep.key), 0.0, 1.0)
    elif opacity is not None and alpha is not Alpha.NONE:
        share = opacity / (span[1] if opacity.max() <= span[1] else FULL[1])
        colors = divided(colors, share) if alpha is Alpha.PREMULTIPLIED else colors
    return _image(colors, span, deep), None if share is None else Image.fromarray(levels(share, (0, 1))), known.remarks


def _is_key(colors: NDArray[Any], key: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels (H, W) have exactly the values of the transparent colour."""
    keyed: NDArray[np.bool_] = (colors.reshape(*colors.shape[:2], -1) == np.array(key)).all(axis=-1)
    return keyed


def _image(colors: NDArray[Any], span: Span, deep: Deep) -> Image.Image:
    """Return colours as an 8-bit image of mode L, RGB or CMYK."""
    eight = levels(colors, span).reshape(*colors.shape[:2], -1)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[eight.shape[2]]
    data = (255 - eight if deep.inverted else eight).tobytes()
    return Image.frombytes(mode, (eight.shape[1], eight.shape[0]), data)
