"""Turn colours into RGB: the samples as they are stored, as the networks were trained, or converted by the profile.

Profiles are untrusted: LittleCMS reads them, and one that it refuses is a remark and never an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from common.errors import printable

BROKEN = "a colour profile that cannot be used is ignored"
PLAIN_CMYK = "CMYK without a colour profile that can be used is converted by the plain formula"
OTHER_PROFILE = "the colour profile"  # how the remark begins; its name follows
OTHER_PROFILES = "colour profiles other than sRGB are not applied (--color srgb converts); the .json names them"
LONGEST = 60  # characters of a profile's name
SAME = 2  # of 255 levels by which a profile may differ from sRGB and still be called that
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
FAULTS = (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError, RuntimeError)
SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
"""Colour spaces of profiles, and the modes of images that they are for."""


@dataclass(frozen=True)
class Profile:
    """A profile's name, the mode of the images that it is for, and whether it is sRGB by its numbers."""

    name: str
    mode: str
    is_srgb: bool


def to_rgb_colors(image: Image.Image, profile: bytes | None, convert: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """Return an 8-bit image without opacity as RGB, by its `profile` (None: it has none) where `convert` asks for
    it, and remarks. Without a profile RGB and grey stay as they are, and CMYK is converted by the plain formula."""
    if image.mode == "LAB":
        return _of_lab().apply(image), ()
    if profile is None:
        return image.convert("RGB"), (PLAIN_CMYK,) * (convert and image.mode == "CMYK")
    known = profile_of(profile)
    fitting = known and _in_mode(image, known.mode)
    if not (known and fitting):
        return image.convert("RGB"), (BROKEN, *(PLAIN_CMYK,) * (convert and image.mode == "CMYK"))
    if known.is_srgb:
        return image.convert("RGB"), ()
    if convert:
        return _converted(fitting, profile)
    return image.convert("RGB"), (f"{OTHER_PROFILE} '{known.name}' is not applied (--color srgb converts)",)


def _in_mode(image: Image.Image, mode: str) -> Image.Image | None:
    """Return the image in the mode that its profile is for; None where it is of other colours. Grey is RGB as well."""
    grey = image.mode in ("1", "L")
    if mode == "CMYK" or image.mode == "CMYK":
        return image if mode == image.mode else None
    return image.convert(mode) if mode == "RGB" or grey else None


def _converted(image: Image.Image, profile: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    transform = _to_srgb(profile, image.mode)
    if transform is None:
        return image.convert("RGB"), (BROKEN,)
    return transform.apply(image), ()


def summed_up(remarks: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return remarks, and the names of the images that they are about, with a single one about colour profiles."""
    shown: dict[str, list[str]] = {}
    for text, names in remarks.items():
        shown.setdefault(OTHER_PROFILES if text.startswith(OTHER_PROFILE) else text, []).extend(names)
    return shown


@lru_cache(maxsize=32)
def profile_of(data: bytes) -> Profile | None:
    """Return what an ICC profile says about itself; None for one that cannot be read or is for no colours."""
    try:
        profile = _read(data)
        mode = SPACES.get(profile.profile.xcolor_space.strip())
        name = printable(" ".join(ImageCms.getProfileDescription(profile).split()))
    except FAULTS:
        return None
    if mode is None or _to_srgb(data, mode) is None:
        return None
    return Profile(name[:LONGEST] or "without a name", mode, _is_srgb(data, mode))


@lru_cache(maxsize=32)
def _to_srgb(data: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion of images of `mode` to sRGB: relative colorimetric with black point compensation. One is
    made for each profile, and threads share it: LittleCMS changes nothing in it."""
    try:
        source, target = _read(data), _made("sRGB")
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB", INTENT, flags=FLAGS)
    except FAULTS:
        return None


def _is_srgb(data: bytes, mode: str) -> bool:
    """Return whether converting changes next to nothing in colours from all over the space."""
    transform = _to_srgb(data, mode)
    if mode == "CMYK" or transform is None:
        return False
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, -1, 3) if mode == "RGB" else steps[None]
    before = Image.fromarray(grid)
    after = np.asarray(transform.apply(before), np.int16)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= SAME)


def _read(data: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(BytesIO(data))


def _made(space: Literal["LAB", "sRGB"]) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space))


@lru_cache(maxsize=1)
def _of_lab() -> ImageCms.ImageCmsTransform:
    """Return the conversion of CIE L*a*b* (white D50) to sRGB; optimised it would be off by up to 40 of 255 levels."""
    return ImageCms.ImageCmsTransform(
        _made("LAB"), _made("sRGB"), "LAB", "RGB", INTENT, flags=ImageCms.Flags.NOOPTIMIZE
    )
