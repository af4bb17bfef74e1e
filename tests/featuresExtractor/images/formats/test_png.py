"""PNG files: their pixels are Pillow's, corrupt data is refused, and only the chunks that make the pixels matter."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from featuresExtractor.images.formats.png import MAGIC, Png
from tests.featuresExtractor.images.made import by_pillow, chunk, loaded, oriented, photograph, saved, with_chunk

PLAIN = saved(photograph(2, 80, 60), "PNG")
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7's seven images in one: first column and row, and the steps of each."""
DEPTHS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16)]
DEPTHS += [(6, 8), (6, 16)]


def read(file: bytes) -> Image.Image:
    """What is read of a file."""
    return loaded(Png(io.BytesIO(file)))


def by_hand(
    colors: int, bits: int, interlaced: bool, seed: int, transparent: bytes = b"", size: tuple[int, int] | None = None
) -> bytes:
    """A PNG of random rows with random filters, its data in several chunks."""
    generator = np.random.default_rng(seed)
    width, height = size or (int(generator.integers(1, 60)), int(generator.integers(1, 60)))
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colors]
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    data = b""
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0:
            length = (columns * samples * bits + 7) // 8
            data += b"".join(bytes([generator.integers(5)]) + generator.bytes(length) for _ in range(rows))
    packed = zlib.compress(data)
    parts = [packed[start : start + 700] for start in range(0, len(packed), 700)]
    header = struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, interlaced)
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", generator.bytes(3 * 2**bits))] if colors == 3 else []
    chunks += [(b"tRNS", transparent)] if transparent else []
    chunks += [*((b"IDAT", part) for part in parts), (b"IEND", b"")]
    return MAGIC + b"".join(chunk(*one) for one in chunks)


# --- the same pixels ---


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colors", "bits"), DEPTHS)
def test_pixels_are_those_of_pillow(colors: int, bits: int, interlaced: bool) -> None:
    transparent = {0: (b"", b"\0\1"), 2: (b"", b"\0\1\0\2\0\3"), 3: (b"", b"\xff\0\xff", b"\x10\x80")}
    for seed in range(8):
        for alpha in transparent.get(colors, (b"",)):
            file = by_hand(colors, bits, interlaced, seed, alpha)
            image, expected = read(file), by_pillow(file)
            assert (image.mode, image.size) == (expected.mode, expected.size)
            assert np.array_equal(np.asarray(image), np.asarray(expected))
            assert np.array_equal(np.asarray(image.convert("RGBA")), np.asarray(expected.convert("RGBA")))


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_first_image_of_an_animation_is_read(mode: str, default: bool) -> None:
    first, second = (Image.fromarray(photograph(seed, 40, 30)).convert(mode) for seed in (1, 2))
    file = saved(first, "PNG", save_all=True, append_images=[second], default_image=default)
    assert np.array_equal(np.asarray(read(file).convert("RGBA")), np.asarray(first.convert("RGBA")))


# --- corrupt data ---


@pytest.mark.parametrize("interlaced", [False, True])
def test_flipped_bit_is_refused_or_changes_no_pixel(interlaced: bool) -> None:
    refused = 0
    for seed in range(300):
        file = by_hand(2, 8, interlaced, seed, size=(9, 7))
        body, place = bytearray(file), int(np.random.default_rng(seed).integers(8, len(file)))
        body[place] ^= 1 << (seed % 8)
        try:
            image = read(bytes(body))
        except ValueError:
            refused += 1
        else:
            assert np.array_equal(np.asarray(image), np.asarray(read(file)))
    assert refused > 280


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"])
def test_checksum_of_every_chunk_that_makes_the_pixels_is_compared(kind: bytes) -> None:
    file = by_hand(3, 8, False, 1, b"\x10\x80")
    place = file.index(kind)
    place += 4 + int.from_bytes(file[place - 4 : place])
    broken = file[:place] + bytes([file[place] ^ 1]) + file[place + 1 :]
    with pytest.raises(ValueError, match=rf"corrupt PNG data \(the checksum of chunk {kind.decode()} does not match\)"):
        read(broken)


def test_data_that_its_own_checksum_contradicts_is_refused() -> None:
    data = bytearray(zlib.compress(bytes(6 * 24)))
    data[-1] ^= 1
    header = struct.pack(">IIBBBBB", 23, 6, 8, 0, 0, 0, 0)
    file = MAGIC + b"".join(chunk(*one) for one in ((b"IHDR", header), (b"IDAT", bytes(data)), (b"IEND", b"")))
    with pytest.raises(ValueError, match=r"corrupt PNG data \(broken data stream"):
        read(file)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (PLAIN[:-12], "truncated PNG"),
        (PLAIN[: len(PLAIN) // 2], "truncated PNG"),
        (MAGIC, "truncated PNG"),
        (MAGIC + PLAIN[33:], r"corrupt PNG data \(its first chunk is not IHDR\)"),
        (PLAIN[:33] + chunk(b"IEND", b""), r"corrupt PNG data \(no pixels\)"),
        (MAGIC + chunk(b"IHDR", b"\0\0"), r"corrupt PNG data \(its header is too short\)"),
        (MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 5, 8, 2, 0, 0, 0)), r"corrupt PNG data \(0 x 5 pixels\)"),
        (MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 7, 2, 0, 0, 0)), r".*7 bits of colour type 2\)"),
        (PLAIN[:33] + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""), r"corrupt PNG data \(.*truncated.*"),
        (PLAIN[:33] + chunk(b"IDAT", bytes(2**21)) + chunk(b"IEND", b""), r"corrupt PNG data \(far more data.*"),
    ],
)
def test_what_is_wrong_is_named(file: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        read(file)


# --- metadata ---


def packed(length: int) -> bytes:
    """Text of a length, compressed."""
    return zlib.compress(b"prompt words " * (length // 13 + 1))


METADATA: dict[str, bytes] = {
    "compressed text of 2 MB": with_chunk(PLAIN, b"zTXt", b"parameters\0\0" + packed(2 * 10**6)),
    "compressed text of 200 MB": with_chunk(PLAIN, b"zTXt", b"parameters\0\0" + packed(2 * 10**8)),
    "text of 2 MB": with_chunk(PLAIN, b"tEXt", b"parameters\0" + b"words" * 400_000),
    "XMP of 2 MB": with_chunk(PLAIN, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed(2 * 10**6)),
    "text of 2 MB behind the pixels": with_chunk(PLAIN, b"zTXt", b"a\0\0" + packed(2 * 10**6), b"IEND"),
    "text of an unknown compression": with_chunk(PLAIN, b"zTXt", b"parameters\0\7abc"),
    "profile of 1.5 MB": with_chunk(PLAIN, b"iCCP", b"icc\0\0" + zlib.compress(bytes(1_500_000))),
    "profile of an unknown compression": with_chunk(PLAIN, b"iCCP", b"icc\0\7abc"),
    "profile that is none": with_chunk(PLAIN, b"iCCP", b"icc"),
    "short gamma": with_chunk(PLAIN, b"gAMA", b"\0"),
    "short chromaticity": with_chunk(PLAIN, b"cHRM", b"\0" * 7),
    "empty intent": with_chunk(PLAIN, b"sRGB", b""),
    "short resolution": with_chunk(PLAIN, b"pHYs", b"\0"),
    "broken animation": with_chunk(PLAIN, b"acTL", b"\0\0"),
    "frame of an animation out of order": with_chunk(PLAIN, b"fcTL", struct.pack(">I22s", 7, b"")),
    "frame behind the pixels": with_chunk(PLAIN, b"fdAT", b"\0", b"IEND"),
    "EXIF that is none": with_chunk(PLAIN, b"eXIf", b"\0\x08\0\2"),
    "transparency behind the pixels": with_chunk(PLAIN, b"tRNS", b"\0" * 6, b"IEND"),
    "old EXIF that is none": with_chunk(PLAIN, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\nxyz")),
    "unknown chunk": with_chunk(PLAIN, b"prVt", b"anything"),
}


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("name", METADATA)
def test_metadata_stops_no_image(name: str, broken: bool) -> None:
    file = METADATA[name]
    if broken:  # the checksum of the chunk that is not in the plain file
        place = next(at for at in range(len(PLAIN)) if file[at] != PLAIN[at]) // 4 * 4
        place = next(at for at in range(max(8, place - 8), place + 12) if file[at : at + 4] in _added(file)) - 4
        end = place + 8 + int.from_bytes(file[place : place + 4])
        file = file[:end] + bytes([file[end] ^ 1]) + file[end + 1 :]
    image = read(file)
    assert (image.mode, image.has_transparency_data) == ("RGB", False)
    assert np.array_equal(np.asarray(image), np.asarray(by_pillow(PLAIN)))


def _added(file: bytes) -> set[bytes]:
    kinds = (b"zTXt", b"tEXt", b"iTXt", b"iCCP", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL", b"fdAT", b"eXIf")
    return {kind for kind in (*kinds, b"tRNS", b"prVt") if kind in file}


def test_what_the_numbers_mean_is_passed_on() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = with_chunk(saved(photograph(1, 9, 9), "PNG", icc_profile=profile), b"sBIT", b"\5\6\5")
    info: dict[Any, Any] = read(with_chunk(file, b"gAMA", struct.pack(">I", 45455))).info
    assert (info["icc_profile"], info["gamma"]) == (profile, 0.45455)


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_orientation_is_read_before_and_behind_the_pixels(before: bytes) -> None:
    old = oriented(6).hex().encode()
    for kind, body in (
        (b"eXIf", oriented(6)[6:]),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      32\n" + old[:40] + b"\n" + old[40:])),
        (b"tEXt", b"Raw profile type exif\0\nexif\n      32\n" + old),
    ):
        png = Png(io.BytesIO(with_chunk(PLAIN, kind, body, before)))
        png.image()
        assert png.orientation == 6
