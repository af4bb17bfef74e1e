"""Read what a JPEG 2000 says about its samples: how many bits they have, and whether a channel is opacity."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featuresExtractor.images.pixels.meaning import UNSTATED, Alpha, Coarse, Deep, Meaning
from featuresExtractor.images.pixels.ranges import fixed, full

CODESTREAM = b"\xff\x4f\xff\x51"
OPACITY = {1: Alpha.STRAIGHT, 2: Alpha.PREMULTIPLIED}


def meaning(image: ImageFile.ImageFile) -> Meaning:
    """Return what an opened JPEG 2000 says. Pillow takes a fourth channel for opacity, and scales all numbers: grey
    ones to 16 bits where they have more than 8, colours to 8."""
    assert image.fp is not None
    bits, alpha = _header(image.fp)
    remarks = (UNSTATED,) * (alpha is Alpha.NONE and image.mode in ("LA", "PA", "RGBA"))
    if image.mode == "I;16":
        range_of = full if bits == 16 else fixed(0, (1 << bits) - 1)
        return Meaning(Deep(partial(_unscaled, image, 16 - bits), range_of=range_of))
    coarse = Coarse("JPEG 2000 with several channels", bits == 16) if bits > 8 else None
    return Meaning(None, alpha, coarse, remarks)


def _unscaled(image: Image.Image, bits: int) -> NDArray[np.uint16]:
    values: NDArray[np.uint16] = np.asarray(image, np.uint16) >> np.uint16(max(0, bits))
    return values


def _header(file: IO[bytes]) -> tuple[int, Alpha]:
    """Return the bits of a sample, and what the channel behind the colours is by the channel definition box (cdef)."""
    file.seek(0)
    if file.read(4) == CODESTREAM:
        return _bits(file), Alpha.NONE
    alpha = Alpha.NONE
    file.seek(0)
    for kind, size in _boxes(file):
        if kind == b"jp2h":
            alpha = _defined(file.read(size))
        elif kind == b"jp2c" and file.read(4) == CODESTREAM:
            return _bits(file), alpha
    return 8, alpha


def _bits(file: IO[bytes]) -> int:
    """Return the bits of a sample by the SIZ segment, whose marker was just read."""
    return ((file.read(39).ljust(39, b"\7")[38]) & 127) + 1


def _boxes(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each box and the bytes that it holds; the file stands at the first of them."""
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        size = struct.unpack(">Q", file.read(8).rjust(8, b"\0"))[0] - 16 if size == 1 else size - 8
        start = file.tell()
        yield kind, max(0, size)
        if size < 0:
            return
        file.seek(start + size)


def _defined(header: bytes) -> Alpha:
    """Return what the channel definitions in a header box call opacity; a palette's opacity is in the palette."""
    file = BytesIO(header)
    for kind, size in _boxes(file):
        if kind == b"cdef":
            data = file.read(size)
            kinds = [struct.unpack_from(">HHH", data, at)[1] for at in range(2, len(data) - 5, 6)]
            return next((OPACITY[kind] for kind in kinds if kind in OPACITY), Alpha.NONE)
    return Alpha.NONE
