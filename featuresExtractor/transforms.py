"""Preprocessing as data, the picture made ready by it, and the views of a picture.

Nothing here needs torch at import: the table of models is made of these data, and `--list-models` must answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE = (255, 255, 255, 255)
MOST_PIXELS = 2**25  # of a resized picture, before its crop: 100 MB, some 400 times as long as wide


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its pictures: short side to `resize` pixels (with `squash` both sides, whatever becomes of
    the picture's proportions), centre crop of `crop` x `crop`, then (value / 255 - mean) / std for each of R, G, B."""

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in 8-bit RGB, as stored: over white where transparent, 16 bits scaled to 8.

    Raises ValueError for a mode whose range of values is not known (32-bit integers beyond 16 bits, floats).
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_16_bits(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Greyscale of 16 bits (0..65535) to 8 bits (0..255), rounded; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it as an 8- or 16-bit picture")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def prepare(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resized and cropped pixels, (3, crop, crop) in 0..255: the numbers of torchvision's Resize and CenterCrop. In
    memory the channels come last, as in the picture and as convolutions like them best."""
    rgb = to_rgb(image)
    width, height = resized_to(rgb.size, preprocessing)
    resized = rgb.resize((width, height), INTERPOLATION[preprocessing.interpolation])
    left, top = round((width - preprocessing.crop) / 2), round((height - preprocessing.crop) / 2)
    cropped = resized.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    return np.asarray(cropped).transpose(2, 0, 1)


def resized_to(pixels: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height that a picture of so many `pixels` is resized to; ValueError when it is too narrow."""
    short, size = min(pixels), preprocessing.resize
    width, height = (size if side == short or preprocessing.squash else int(size * side / short) for side in pixels)
    if width * height > MOST_PIXELS:
        told = f"{pixels[0]} x {pixels[1]} pixels are too narrow"
        raise ValueError(f"{told}: resized they would be {width} x {height}")
    return width, height


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixels (N, 3, H, W) uint8 -> float32 as the network saw them in training, where and as `images` are in memory."""
    scaled = images.float().div(255)
    mean, std = (scaled.new_tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return scaled.sub_(mean).div_(std)


def original(images: Tensor) -> Tensor:
    """The pictures (N, 3, H, W) themselves."""
    return images


def flipped(images: Tensor) -> Tensor:
    """The pictures (N, 3, H, W) with left and right exchanged."""
    return images.flip(-1)


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (original, flipped)
"""The views of a picture; the index of a view here is its number in the features file."""
