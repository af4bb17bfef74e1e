"""TIFF files: what of their tags matters, which damage is found, and how one that is not read is described."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featuresExtractor.images.decode import check_image, decode_image
from featuresExtractor.images.formats import tiff
from featuresExtractor.images.formats.other import Other
from featuresExtractor.images.formats.tiff import Directory, description
from featuresExtractor.transforms import Preprocessing
from tests.featuresExtractor.images.made import by_pillow, loaded, photograph, saved

SMALL = Preprocessing(24, 24, "bicubic", (0.5,) * 3, (0.5,) * 3)
IMAGE = photograph(1, 60, 40)
KINDS: dict[str, dict[str, Any]] = {
    "raw": {},
    "big": {"big_tiff": True},
    "LZW": {"compression": "tiff_lzw"},
    "Deflate": {"compression": "tiff_adobe_deflate"},
    "JPEG": {"compression": "jpeg"},
    "PackBits": {"compression": "packbits"},
}
FIELDS = (bytes(4), struct.pack("<I", 8), struct.pack("<I", 999_999), b"\xff" * 4)


def read(file: bytes) -> Image.Image:
    """What is read of a file."""
    return loaded(Other(io.BytesIO(file), "a.tif"))


def with_entry(file: bytes, tag: int, kind: int, count: int, field: bytes) -> bytes:
    """The classic little-endian TIFF with one more entry in its directory, which is now at its end."""
    (start,) = struct.unpack_from("<I", file, 4)
    (number,) = struct.unpack_from("<H", file, start)
    entries = [file[place : place + 12] for place in range(start + 2, start + 2 + 12 * number, 12)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", tag)]
    entries.append(struct.pack("<HHI", tag, kind, count) + field)
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    end = len(file) + len(file) % 2
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return file[:4] + struct.pack("<I", end) + file[8:].ljust(end - 8, b"\0") + directory


@pytest.mark.parametrize(
    ("mode", "name"),
    [(mode, name) for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16") for name in KINDS if name != "JPEG"]
    + [(mode, "JPEG") for mode in ("RGB", "L", "CMYK")],
)
def test_pixels_are_those_of_pillow(mode: str, name: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(IMAGE).convert(mode)
    file = saved(image, "TIFF", **KINDS[name])
    actual, expected = read(file), by_pillow(file)
    assert (actual.mode, actual.size) == (expected.mode, expected.size)
    assert np.array_equal(np.asarray(actual.convert("RGBA")), np.asarray(expected.convert("RGBA")))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("kind", range(19))
def test_no_tag_of_metadata_stops_an_image(
    kind: int, compression: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Warnings are errors here; libtiff's own would be on the terminal."""
    whole = saved(IMAGE, "TIFF", compression=compression)
    tags = (254, 269, 270, 271, 272, 282, 296, 305, 306, 315, 333, 700, 33432, 33723, 34377, 34665, 34675, 34853, 65000)
    for tag in tags:
        for count in (0, 1, 2, 100, 2**32 - 1):
            for field in FIELDS:
                image = read(with_entry(whole, tag, kind, count, field))
                assert np.array_equal(np.asarray(image), IMAGE)
    assert capfd.readouterr() == ("", "")


def test_resolution_of_nothing_stops_no_image(tmp_path: Path) -> None:
    whole = saved(IMAGE, "TIFF")
    file = with_entry(with_entry(whole + bytes(8), 282, 5, 1, struct.pack("<I", len(whole))), 296, 3, 1, b"\2\0\0\0")
    (tmp_path / "a.tif").write_bytes(file)
    check_image(tmp_path / "a.tif", SMALL)
    assert decode_image(tmp_path / "a.tif", SMALL).pixels.shape == (3, 24, 24)


def test_colour_profile_is_passed_on() -> None:
    profile = bytes(range(256)) * 20
    assert read(saved(IMAGE, "TIFF", icc_profile=profile)).info["icc_profile"] == profile
    assert "icc_profile" not in read(saved(IMAGE, "TIFF")).info


def test_file_too_large_for_the_memory_is_read_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.tif").write_bytes(saved(IMAGE, "TIFF", compression="tiff_lzw", exif=exif))
    expected = decode_image(tmp_path / "a.tif", SMALL).pixels
    monkeypatch.setattr(tiff, "MOST_IN_MEMORY", 100)
    assert np.array_equal(decode_image(tmp_path / "a.tif", SMALL).pixels, expected)


# --- corrupt data ---


@pytest.mark.parametrize("name", ["JPEG", "Deflate"])
def test_corrupt_data_is_refused(name: str) -> None:
    whole = saved(photograph(1, 200, 150), "TIFF", **KINDS[name])
    directory = Directory(io.BytesIO(whole))
    start, length = directory.numbers(273)[0], directory.numbers(279)[0]
    place = start + length // 2
    for body in (bytes(600), np.random.default_rng(0).bytes(600)):
        with pytest.raises(ValueError, match=r"corrupt (JPEG|TIFF) data"):
            read(whole[:place] + body + whole[place + 600 :])


def test_checksum_of_a_strip_is_compared() -> None:
    whole = saved(IMAGE, "TIFF", compression="tiff_adobe_deflate")
    directory = Directory(io.BytesIO(whole))
    last = directory.numbers(273)[0] + directory.numbers(279)[0] - 1
    with pytest.raises(ValueError, match=r"corrupt TIFF data \(.*incorrect data check\)"):
        read(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])


def test_directory_that_is_nowhere_is_named() -> None:
    for file in (b"II*\0\xff\xff\xff\xff", b"II*\0", b"MM\0*" + bytes(4), b"II+\0\x08\0\0\0" + b"\xff" * 8):
        with pytest.raises(ValueError, match="corrupt TIFF"):
            read(file)


# --- what is not read ---


def by_hand(bits: tuple[int, ...], sample: int = 1, photometric: int = 1, big: bool = False) -> bytes:
    """A TIFF of 4 x 3 pixels with a band for each of `bits`."""
    entries = [(256, 3, (4,)), (257, 3, (3,)), (258, 3, bits), (259, 3, (1,)), (262, 3, (photometric,))]
    data = bytes(sum(bits) // 8 * 12)
    entries += [(273, 4, (8,)), (277, 3, (len(bits),)), (278, 3, (3,)), (279, 4, (len(data),)), (339, 3, (sample,))]
    at = 8 + len(data)
    extra, body = b"", b""
    for tag, kind, values in entries:
        packed = struct.pack(f">{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(">I", at + 6 + 12 * len(entries) + len(extra))
        body += struct.pack(">HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return b"MM\0*" + struct.pack(">I", at) + data + struct.pack(">H", len(entries)) + body + bytes(4) + extra


@pytest.mark.parametrize(
    ("bits", "sample", "said"),
    [
        ((16,) * 4, 1, "TIFF with 4 bands of 16 bits"),
        ((16, 16), 1, "TIFF with 2 bands of 16 bits"),
        ((8,) * 8, 1, "TIFF with 8 bands of 8 bits"),
        ((32,) * 3, 3, "TIFF with 3 bands of floating-point 32 bits"),
        ((64,), 3, "TIFF with 1 band of floating-point 64 bits"),
        ((16, 8, 8), 1, "TIFF with 3 bands of 16 and 8 bits"),
        ((32,) * 3, 2, "TIFF with 3 bands of signed 32 bits"),
    ],
)
def test_tiff_that_is_not_read_is_described(bits: tuple[int, ...], sample: int, said: str, tmp_path: Path) -> None:
    file = by_hand(bits, sample)
    assert description(Directory(io.BytesIO(file))) == said
    (tmp_path / "a.tif").write_bytes(file)
    for look in (check_image, decode_image):
        with pytest.raises(ValueError, match=f"^{re.escape(said)} is not read here; save it as PNG, or as TIFF with"):
            look(tmp_path / "a.tif", SMALL)
