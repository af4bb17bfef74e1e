"""The orientation of every format against numpy, and that nothing else of EXIF is looked at."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from featuresExtractor.images.decode import check_image, decode_image
from featuresExtractor.images.formats.orientation import orientation_of, upright
from featuresExtractor.transforms import Preprocessing
from tests.featuresExtractor.images.made import (
    ORIENTED,
    chunk,
    exif,
    oriented,
    photograph,
    saved,
    with_chunk,
    with_segment,
)

AS_IT_IS = Preprocessing(48, 48, "bilinear", (0.5,) * 3, (0.5,) * 3)  # of an image of 48 x 48: neither scaled nor cut
IMAGE = photograph(4, 48, 48)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
SIX = struct.pack("<H", 6)


def read(file: bytes, tmp_path: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The pixels (48, 48, 3) that the network would see."""
    (tmp_path / "a.file").write_bytes(file)
    check_image(tmp_path / "a.file", AS_IT_IS)
    return decode_image(tmp_path / "a.file", AS_IT_IS).pixels.transpose(1, 2, 0).astype(int)


def closest(pixels: np.ndarray[Any, np.dtype[np.int64]], image: Any) -> int:
    """Which orientation of `image` the pixels are."""
    return min(ORIENTED, key=lambda number: float(np.abs(pixels - ORIENTED[number](image)).mean()))


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("size", [(5, 3), (1, 4), (2, 2)])
def test_turning_is_what_the_standard_says(size: tuple[int, int], orientation: int) -> None:
    image = photograph(1, *size)
    turned = upright(Image.fromarray(image), orientation)
    assert np.array_equal(np.asarray(turned), ORIENTED[orientation](image))


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"big_tiff": True}),
    ],
)
def test_image_stands_upright(kind: str, options: dict[str, Any], orientation: int, tmp_path: Path) -> None:
    data = Image.Exif()
    data[0x0112] = orientation
    file = saved(IMAGE, kind, exif=data, **options)
    assert np.array_equal(read(file, tmp_path), ORIENTED[orientation](IMAGE))


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 98}),
        ("MPO", {"quality": 98}),
        ("WEBP", {"quality": 98}),
        ("TIFF", {"compression": "jpeg", "quality": 98}),
        ("AVIF", {"quality": 98}),
    ],
)
def test_image_of_a_lossy_format_stands_upright(
    kind: str, options: dict[str, Any], orientation: int, tmp_path: Path
) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    data = Image.Exif()
    data[0x0112] = orientation
    assert closest(read(saved(IMAGE, kind, exif=data, **options), tmp_path), IMAGE) == orientation


# --- what EXIF may hold beside it ---


BLOCKS: dict[str, tuple[bytes, int]] = {
    "good": (oriented(6), 6),
    "the other order of bytes": (oriented(6, ">"), 6),
    "without its name": (oriented(6)[6:], 6),
    "its name twice": (b"Exif\0\0" + oriented(6), 6),
    "as a long number": (exif((0x0112, 4, 1, struct.pack("<I", 6))), 6),
    "as a byte": (exif((0x0112, 1, 1, b"\6")), 6),
    "the first of two": (exif((0x0112, 3, 1, SIX), (0x0112, 3, 1, struct.pack("<H", 8))), 6),
    "behind a rational of -1/0": (exif((0x011A, 10, 1, struct.pack("<I", 38)), (0x0112, 3, 1, SIX)), 6),
    "behind a resolution as a number": (exif((0x011A, 3, 1, b"\x48"), (0x0112, 3, 1, SIX)), 6),
    "behind software as a number": (exif((0x0131, 3, 1, b"\1"), (0x0112, 3, 1, SIX)), 6),
    "behind text that ends in nothing": (exif((0x010F, 2, 5000, b"\xff\0\0\0"), (0x0112, 3, 1, SIX)), 6),
    "behind an unknown type": (exif((0x010F, 99, 2**32 - 1, b"\xff\xff\xff\xff"), (0x0112, 3, 1, SIX)), 6),
    "before a directory that is nowhere": (exif((0x0112, 3, 1, SIX), (0x8769, 4, 1, b"\xff\xff\1\0")), 6),
    "before a directory that holds itself": (exif((0x0112, 3, 1, SIX), (0x8769, 4, 1, b"\x08\0\0\0")), 6),
    "before a place on earth that is none": (exif((0x0112, 3, 1, SIX), (0x8825, 2, 9999, b"gps!")), 6),
    "cut behind it": (oriented(6)[:-4], 6),
    "blank": (b"Exif\0\0", 1),
    "nothing": (b"", 1),
    "no TIFF": (b"Exif\0\0garbage garbage", 1),
    "a directory behind the end": (exif(start=5000), 1),
    "cut within it": (oriented(6)[:-8], 1),
    "0": (oriented(0), 1),
    "9": (oriented(9), 1),
    "65535": (oriented(65535), 1),
    "as text": (exif((0x0112, 2, 2, b"6\0")), 1),
    "two numbers": (exif((0x0112, 3, 2, struct.pack("<HH", 6, 6))), 1),
    "none": (exif((0x0131, 2, 4, b"abc\0")), 1),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_orientation_is_read_alone(name: str, tmp_path: Path) -> None:
    """Warnings are errors here: those of Pillow about odd EXIF would be seen."""
    block, orientation = BLOCKS[name]
    assert orientation_of(block) == orientation
    jpeg = saved(IMAGE, "JPEG", quality=98)
    jpeg = with_segment(jpeg, 0xE1, block if block[:6] == b"Exif\0\0" else b"Exif\0\0" + block)
    assert closest(read(jpeg, tmp_path), IMAGE) == orientation
    assert closest(read(with_chunk(saved(IMAGE, "PNG"), b"eXIf", block), tmp_path), IMAGE) == orientation
    assert closest(read(saved(IMAGE, "WEBP", lossless=True, exif=block or b"Exif\0\0"), tmp_path), IMAGE) == orientation


def test_exif_in_several_segments_is_one(tmp_path: Path) -> None:
    block = oriented(6)
    jpeg = with_segment(saved(IMAGE, "JPEG", quality=98), 0xE1, b"Exif\0\0" + block[20:])
    assert closest(read(with_segment(jpeg, 0xE1, block[:20]), tmp_path), IMAGE) == 6


@pytest.mark.parametrize("body", [b"XXXX", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_avif_is_turned_as_it_says_itself_whatever_its_exif_is(body: bytes, tmp_path: Path) -> None:
    for orientation in ORIENTED:
        data = Image.Exif()
        data[0x0131], data[0x0112] = "software", orientation
        file = saved(IMAGE, "AVIF", quality=98, exif=data)
        place = file.index(b"MM\0*")
        broken = file[:place] + body + file[place + len(body) :]
        assert closest(read(broken, tmp_path), IMAGE) == orientation


def test_orientation_of_xmp_alone_is_not_used(tmp_path: Path) -> None:
    """Viewers differ about it, and it is text that programs copy without turning the image."""
    jpeg = with_segment(saved(IMAGE, "JPEG", quality=98), 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    png = with_chunk(saved(IMAGE, "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    tiff = saved(IMAGE, "TIFF", tiffinfo={700: XMP})
    for file in (jpeg, png, tiff, saved(IMAGE, "WEBP", lossless=True, xmp=XMP)):
        assert closest(read(file, tmp_path), IMAGE) == 1


def test_large_blocks_cost_no_time(tmp_path: Path) -> None:
    many = exif(*[(0x0100, 4, 2**20, struct.pack("<I", 8))] * 65_000) + bytes(8 * 2**20)
    start = time.perf_counter()
    assert orientation_of(many) == 1
    assert closest(read(with_chunk(saved(IMAGE, "PNG"), b"eXIf", many), tmp_path), IMAGE) == 1
    assert time.perf_counter() - start < 5
    assert chunk(b"eXIf", many)[4:8] == b"eXIf"
