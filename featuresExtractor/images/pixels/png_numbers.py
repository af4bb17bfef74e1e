"""Read what a PNG says about its samples: 16 bits, significant bits (sBIT), a transparent colour (tRNS)."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featuresExtractor.images.pixels.again import rawmode_of, set_layout, sixteen_bits
from featuresExtractor.images.pixels.meaning import Deep, Meaning
from featuresExtractor.images.pixels.ranges import full, significant

STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""What Pillow multiplies grey values of fewer bits by, but not the transparent one."""


def meaning(image: ImageFile.ImageFile) -> Meaning:
    """Return what an opened PNG says; corrects a transparent colour that Pillow would compare in other units."""
    rawmode = rawmode_of(image.tile[0]) if image.tile else ""
    if rawmode.endswith(";16B"):
        return Meaning(_deep(image, rawmode))
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = (key * STEPS.get(rawmode, 1)) & 255
    elif isinstance(key, tuple):
        image.info["transparency"] = tuple(value & 255 for value in key)
    return Meaning()


def _deep(image: ImageFile.ImageFile, rawmode: str) -> Deep:
    bits, key = _significant_bits(image), image.info.pop("transparency", None)
    range_of = significant(bits) if bits else full
    if image.mode == "I;16":
        return Deep(partial(np.asarray, image), range_of=range_of, key=None if key is None else (key,))
    if rawmode == "LA;16B":
        return Deep(partial(_grey_and_alpha, image), mode="LA", range_of=range_of)
    read = partial(sixteen_bits, image, lambda _number, own: own)
    return Deep(read, mode=image.mode, range_of=range_of, key=key)


def _grey_and_alpha(image: Image.Image) -> NDArray[Any]:
    """Return grey and alpha (H, W, 2): Pillow is made to take the four bytes of a pixel for red, green, blue, alpha."""
    set_layout(image, lambda _number, _own: "RGBA")
    four = np.asarray(image).astype(np.uint16)
    return four[..., ::2] << 8 | four[..., 1::2]


def _significant_bits(image: ImageFile.ImageFile) -> int | None:
    """Return the bits that the sBIT chunk calls significant, in the colour that has most; None where all are."""
    assert image.fp is not None
    image.fp.seek(8)
    while len(head := image.fp.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT":
            break
        if kind == b"sBIT" and 0 < length <= 4:
            bits = max(image.fp.read(length)[: 1 if length <= 2 else 3])
            return bits if 0 < bits < 16 else None
        image.fp.seek(length + 4, 1)
    return None
