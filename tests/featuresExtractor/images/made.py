"""Image files that the tests of this folder make: photographs of a kind, and parts of PNG, JPEG and EXIF."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images.decode import Opened, faults_named

ORIENTED: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
"""What each orientation of the EXIF standard asks for, in numpy."""


def photograph(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Waves, a disc and noise (height, width, 3): smooth and sharp places, as in a photograph, always the same."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    waves = [128 + 100 * np.sin(generator.uniform(-0.1, 0.1) * x + generator.uniform(-0.1, 0.1) * y) for _ in range(3)]
    image = np.stack(waves, -1) + generator.normal(0, 6, (height, width, 3))
    image[(x - width / 3) ** 2 + (y - height / 2) ** 2 < min(width, height) ** 2 / 16] = generator.integers(0, 256, 3)
    return image.clip(0, 255).astype(np.uint8)


def saved(image: Image.Image | NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    """The image as a file."""
    target = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(target, kind, **options)
    return target.getvalue()


def by_pillow(file: bytes) -> Image.Image:
    """The whole image as Pillow alone reads it."""
    with Image.open(io.BytesIO(file)) as image:
        image.load()
    return image


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return b"\xff%c%b%b" % (marker, struct.pack(">H", len(body) + 2), body)


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """The JPEG with a segment before all others."""
    return jpeg[:2] + segment(marker, body) + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    """The PNG with a chunk before the first one of another kind."""
    place = png.index(before) - 4
    return png[:place] + chunk(kind, body) + png[place:]


def exif(*entries: tuple[int, int, int, bytes], order: str = "<", start: int = 8) -> bytes:
    """An EXIF block of entries (tag, type, count, the four bytes of its value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    body = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + body + bytes(4)


def oriented(orientation: int, order: str = "<") -> bytes:
    """An EXIF block that says this orientation."""
    return exif((0x0112, 3, 1, struct.pack(f"{order}H", orientation)), order=order)


def loaded(opened: Opened) -> Image.Image:
    """The image with its pixels, read as the commands read it."""
    with faults_named(opened.format):
        image = opened.image()
        image.load()
    return image
