"""Read the orientation of an image from EXIF, and nothing else of its metadata."""

from __future__ import annotations

import re
import struct

from PIL import Image

ORIENTATION = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # the types of EXIF that can hold 1 to 8
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
AS_STORED = 1


def orientation_of(exif: bytes) -> int:
    """Return the orientation (1 to 8) in an EXIF block, with or without `Exif` before it; 1 where it cannot be read.

    Only the entries of the first directory are searched, and only this value is read: nothing else in the block
    matters, broken or of many megabytes. Numbers as in EXIF 2.32, section 4.6.4 (tag 274).
    """
    block = re.sub(rb"\A(Exif\0\0)+", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    try:
        return _in_directory(block, order) if order else AS_STORED
    except struct.error:  # the block ends before its directory does
        return AS_STORED


def _in_directory(block: bytes, order: str) -> int:
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (entries,) = struct.unpack_from(f"{order}H", block, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", block, place)
        if tag == ORIENTATION:
            legible = kind in INTEGERS and count == 1
            return known(struct.unpack_from(order + INTEGERS[kind], block, place + 8)[0]) if legible else AS_STORED
    return AS_STORED


def known(value: object) -> int:
    """Return `value` where it is one of the eight orientations, else 1."""
    return value if isinstance(value, int) and value in TURNS else AS_STORED


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the stored image turned upright, by its EXIF `orientation` of 1 to 8."""
    return image if orientation == AS_STORED else image.transpose(TURNS[orientation])
