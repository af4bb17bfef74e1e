"""Preprocessing as data, the image made ready by it, and the views of an image.

Nothing here needs torch at import: the table of models is made of these data, and `--list-models` must answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

INTERPOLATION = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MOST_PIXELS = 2**25  # of a resized image, before its crop: 100 MB, some 400 times as long as wide


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images: short side to `resize` pixels (with `squash` both sides, whatever becomes of the
    image's proportions), centre crop of `crop` x `crop`, then (value / 255 - mean) / std for each of R, G, B.

    Without `antialias` an image is resized as torch resizes tensors, from the nearest 2 x 2 pixels alone (bilinear)."""

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False
    antialias: bool = True

    def recorded(self) -> dict[str, Any]:
        """Return what the `.json` beside features says of it; `antialias` only where there is none, since files of
        earlier versions do not record it."""
        fields = asdict(self)
        return fields if not self.antialias else {name: fields[name] for name in fields if name != "antialias"}


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER_224 = Preprocessing(224, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD, squash=True, antialias=False)
"""What the paper's code did to the images of every network but CLIP's; its torchvision 0.9.1 resized tensors, and those
without antialiasing."""


def prepare(rgb: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the resized and cropped pixels (3, crop, crop) of an RGB image, in 0..255.

    These are the numbers of torchvision's Resize and CenterCrop, also where the crop is larger than the resized image:
    it is padded with zeros. In memory the channels come last, as in the image and as convolutions like them best.
    Raises ValueError for an image that is too narrow.
    """
    size = resized_to(rgb.size, preprocessing)
    resample = INTERPOLATION[preprocessing.interpolation]
    resized = rgb.resize(size, resample) if preprocessing.antialias else _resize_as_tensor(rgb, size)
    left, top = (_crop_starts(side, preprocessing.crop) for side in size)
    cropped = resized.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    return np.asarray(cropped).transpose(2, 0, 1)


def _crop_starts(side: int, crop: int) -> int:
    """Return where torchvision's CenterCrop begins on a side; below zero where it pads, which it rounds differently."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def _resize_as_tensor(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an RGB image resized without antialiasing, rounded to 8 bits: before this last step the numbers of
    torch.nn.functional.interpolate(mode="bilinear", align_corners=False)."""
    pixels = np.asarray(rgb)
    (left, right, across), (top, bottom, down) = (_neighbours(*sides) for sides in zip(rgb.size, size, strict=True))
    rows = _between(pixels.take(top, axis=0), pixels.take(bottom, axis=0), down[:, None, None])
    mixed = _between(rows.take(left, axis=1), rows.take(right, axis=1), across[:, None])
    return Image.fromarray(np.rint(mixed, out=mixed).astype(np.uint8))


def _between(first: NDArray[Any], second: NDArray[Any], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `first` where `share` is 0, `second` where it is 1."""
    start = first.astype(np.float32)
    mixed: NDArray[np.float32] = second - start
    mixed *= share
    mixed += start
    return mixed


def _neighbours(side: int, wanted: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each of the `wanted` pixels its two neighbours among `side` pixels, and the weight of the second."""
    scale = np.float32(side / wanted)
    place = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    first = np.minimum(place.astype(np.intp), side - 1)
    return first, np.minimum(first + 1, side - 1), place - first.astype(np.float32)


def resized_to(pixels: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height that an image of so many `pixels` is resized to; ValueError when it is too narrow."""
    short, size = min(pixels), preprocessing.resize
    width, height = (size if side == short or preprocessing.squash else int(size * side / short) for side in pixels)
    if width * height > MOST_PIXELS:
        message = f"{pixels[0]} x {pixels[1]} pixels are too narrow"
        raise ValueError(f"{message}: resized they would be {width} x {height}")
    return width, height


def normalise(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return pixels (N, 3, H, W) uint8 as float32 as the network saw them in training, where and as `images` are in
    memory."""
    scaled = images.float().div(255)
    mean, std = (scaled.new_tensor(values).view(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return scaled.sub_(mean).div_(std)


def original(images: Tensor) -> Tensor:
    """Return the images (N, 3, H, W) themselves."""
    return images


def flipped(images: Tensor) -> Tensor:
    """Return the images (N, 3, H, W) with left and right exchanged."""
    return images.flip(-1)


VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (original, flipped)
"""The views of an image; the index of a view here is its number in the features file."""
