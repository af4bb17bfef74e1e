"""JPEG files: their pixels are Pillow's to the bit, what is corrupt is refused, what is only odd is not."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featuresExtractor.images.decode import decode_image
from featuresExtractor.images.formats.jpeg import Jpeg
from featuresExtractor.transforms import Preprocessing
from tests.featuresExtractor.images.made import by_pillow, oriented, photograph, saved, segment, with_segment

SMALL = Preprocessing(12, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WHOLE = saved(photograph(3, 320, 240), "JPEG", quality=90)
PROGRESSIVE = saved(photograph(3, 320, 240), "JPEG", quality=90, progressive=True)
CORRUPT = r"corrupt JPEG data \(libjpeg: .+\)"
RARE = {
    "arithmetic": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8
        ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/yQAR
        CAALABMDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD+7hSYTIHJ3GR3cWMHJjxaeqcdyGYITryP9rgeDyBHRGAg2lq1sP/Z""",
    "arithmetic, progressive": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8
        ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/ygAR
        CAALABMDASIAAhEBAxEB/8wABgAQARD/2gAMAwEAAhADEAAAAf3cXVmQ9Og1jcD/zAAEEAX/2gAIAQEAAQUCEzKkwtv/zAAEEQX/2gAIAQMB
        AT8BF7e6oP/MAAQRBf/aAAgBAgEBPwEOB2D/zAAEEAX/2gAIAQEABj8CwP/MAAQQBf/aAAgBAQABPyEPNlax/9oADAMBAAIAAwAAABBQ/8wA
        BBEF/9oACAEDAQE/ELb/zAAEEQX/2gAIAQIBAT8QEED/zAAEEAX/2gAIAQEAAT8QH15an6gBYYD/2Q==""",
    "subsampling of 3 x 1": """
        /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8
        ybqmx5moq6T/2wBDARweHigjKE4rK06kbl1upKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKSkpKT/wAAR
        CAALABMDATEAAhEBAxEB/8QAFgABAQEAAAAAAAAAAAAAAAAABAMF/8QAHRAAAgEFAQEAAAAAAAAAAAAAAAIDAQQxUWERIf/EABcBAAMBAAAA
        AAAAAAAAAAAAAAIDBAX/xAAaEQABBQEAAAAAAAAAAAAAAAAAAQMEERIh/9oADAMBAAIRAxEAPwDJjtOCo7Phell8wIvRTGe4ViVdDIkXQiiL
        5gBsz46rR//Z""",
}
"""Images of 19 x 11 pixels, written by libjpeg-turbo's cjpeg, of kinds that Pillow does not write; in base 64."""


def rare(name: str) -> bytes:
    """One of `RARE` as a file."""
    return base64.b64decode(RARE[name])


def pixels(file: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What is read of a file."""
    return np.asarray(Jpeg(io.BytesIO(file)).image())


# --- the same pixels ---


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2}),
        ("RGB", {"subsampling": 2, "restart_marker_blocks": 3}),
        ("RGB", {"subsampling": 2, "optimize": True}),
        ("RGB", {"subsampling": 0, "keep_rgb": True}),
        ("L", {}),
        ("L", {"restart_marker_rows": 1}),
        ("CMYK", {}),
    ],
)
def test_pixels_are_those_of_pillow(mode: str, options: dict[str, Any], progressive: bool) -> None:
    generator = np.random.default_rng(0)
    for seed in range(20):  # in all 360 images of odd sizes and every quality
        width, height, quality = (int(generator.integers(low, high)) for low, high in ((9, 130), (9, 130), (1, 101)))
        image = by_pillow(saved(photograph(seed, width, height), "PNG")).convert(mode)
        file = saved(image, "JPEG", quality=quality, progressive=progressive, **options)
        read, expected = Jpeg(io.BytesIO(file)).image(), by_pillow(file)
        assert (read.mode, read.size) == (expected.mode, expected.size) == (mode, (width, height))
        assert np.array_equal(np.asarray(read), np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (8, 1), (2, 2), (17, 15)])
def test_pixels_of_the_smallest_images_are_those_of_pillow(width: int, height: int) -> None:
    for subsampling in range(3):
        file = saved(photograph(1, width, height), "JPEG", subsampling=subsampling)
        assert np.array_equal(pixels(file), np.asarray(by_pillow(file)))


@pytest.mark.parametrize("subsampling", ["440", "411", "422", "420", "444"])
def test_pixels_of_every_usual_subsampling_are_those_of_pillow(subsampling: str) -> None:
    import simplejpeg

    for seed in range(10):
        file = simplejpeg.encode_jpeg(photograph(seed, 61 + seed, 47), 80, "RGB", subsampling)
        assert np.array_equal(pixels(file), np.asarray(by_pillow(file)))


@pytest.mark.parametrize("name", RARE)
def test_pixels_of_rare_kinds_are_those_of_pillow(name: str) -> None:
    assert np.array_equal(pixels(rare(name)), np.asarray(by_pillow(rare(name))))


@pytest.mark.parametrize("transform", [0, 1, 2, 9])
@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
def test_colours_are_what_adobes_marker_says(mode: str, transform: int) -> None:
    image = by_pillow(saved(photograph(2, 50, 40), "PNG")).convert(mode)
    file = saved(image, "JPEG", quality=90)
    if mode == "RGB":
        file = with_segment(file, 0xEE, b"Adobe\0\x64\0\0\0\0\0").replace(b"JFIF\0", b"none\0")
    place = file.index(b"Adobe") + 11
    file = file[:place] + bytes([transform]) + file[place + 1 :]
    assert np.array_equal(pixels(file), np.asarray(by_pillow(file)))


def test_colour_profile_and_adobes_marker_are_passed_on() -> None:
    profile = bytes(range(256)) * 600  # of three segments
    read = Jpeg(io.BytesIO(saved(by_pillow(WHOLE).convert("CMYK"), "JPEG", icc_profile=profile))).image()
    assert (read.info["icc_profile"], read.info["adobe_transform"]) == (profile, 0)
    assert "icc_profile" not in Jpeg(io.BytesIO(WHOLE)).image().info


def test_first_image_of_several_is_read() -> None:
    first, second = (by_pillow(saved(photograph(seed, 64, 48), "PNG")) for seed in (1, 2))
    file = saved(first, "MPO", save_all=True, append_images=[second])
    alone = saved(first, "JPEG")
    assert np.array_equal(pixels(file), np.asarray(by_pillow(alone)))


# --- corrupt data ---


def overwritten(file: bytes, start: int, count: int) -> bytes:
    """The file with `count` zeros in it."""
    return file[:start] + bytes(count) + file[start + count :]


def flipped(file: bytes, count: int) -> bytes:
    """The file with `count` single bits changed, in its last three quarters."""
    body, generator = bytearray(file), np.random.default_rng(0)
    for place in generator.integers(len(file) // 4, len(file) - 10, count):
        body[place] ^= 1 << int(generator.integers(8))
    return bytes(body)


THIRD = len(WHOLE) // 3
CORRUPTED: dict[str, bytes] = {
    "a lost block of a disk": overwritten(WHOLE, THIRD, 4096),
    "zeros to the end, then the end marker": overwritten(WHOLE, THIRD, len(WHOLE) - THIRD - 2),
    "cut, then the end marker": WHOLE[:THIRD] + WHOLE[-2:],
    "a part missing": WHOLE[:THIRD] + WHOLE[len(WHOLE) // 2 :],
    "a part twice": WHOLE[:THIRD] + WHOLE[THIRD - 700 :],
    "progressive, cut, then the end marker": PROGRESSIVE[: len(PROGRESSIVE) // 3] + PROGRESSIVE[-2:],
    "progressive, a lost block": overwritten(PROGRESSIVE, len(PROGRESSIVE) // 2, 4096),
    "20 flipped bits": flipped(WHOLE, 20),
    "letters before the end": WHOLE[:-2] + b"letters " * 40 + WHOLE[-2:],
}


@pytest.mark.parametrize("name", CORRUPTED)
def test_corrupt_data_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=CORRUPT):
        pixels(CORRUPTED[name])


@pytest.mark.parametrize("name", CORRUPTED)
def test_corrupt_data_is_refused_behind_an_odd_header_and_before_padding(name: str) -> None:
    """libjpeg words its first warning alone: what is only odd must not hide what is corrupt."""
    odd = with_segment(CORRUPTED[name], 0xEE, b"Adobe\0\x64\0\0\0\0\x09").replace(b"JFIF\0\1", b"JFIF\0\7")
    with pytest.raises(ValueError, match=CORRUPT):
        pixels(odd)
    with pytest.raises(ValueError, match=CORRUPT):
        pixels(odd[:-2] + bytes(5000) + odd[-2:])


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_corrupt_data_of_other_colours_is_refused(mode: str) -> None:
    file = saved(by_pillow(WHOLE).convert(mode), "JPEG")
    with pytest.raises(ValueError, match=CORRUPT):
        pixels(overwritten(file, len(file) // 3, 4096))


def test_lost_blocks_of_512_bytes_are_found_most_times() -> None:
    """Zeros are valid codes: where they stand for as many blocks as were there, no decoder can see them."""
    actual = 0
    for place in np.random.default_rng(1).integers(1000, len(WHOLE) - 600, 100):
        try:
            pixels(overwritten(WHOLE, int(place), 512))
        except ValueError:
            actual += 1
    assert actual >= 80


@pytest.mark.parametrize(
    "file", [WHOLE[:-2], WHOLE[:THIRD], WHOLE[:THIRD] + bytes(9000), WHOLE[:200], WHOLE[:3], rare("arithmetic")[:-2]]
)
def test_file_that_ends_too_early_is_truncated(file: bytes) -> None:
    with pytest.raises(ValueError, match=r"^truncated JPEG$"):
        pixels(file)


# --- odd, and whole ---


ODD: dict[str, bytes] = {
    **{f"{count} zeros before the end": WHOLE[:-2] + bytes(count) + WHOLE[-2:] for count in (1, 5, 100, 5000, 200_000)},
    "fill bytes before the end": WHOLE[:-2] + b"\xff" * 3000 + WHOLE[-2:],
    "letters behind the end": WHOLE + b"letters" * 1000,
    "another image behind the end": WHOLE + saved(photograph(9, 40, 30), "JPEG"),
    "zeros between two segments": WHOLE[:20] + bytes(100) + WHOLE[20:],
    "fill bytes between two segments": WHOLE[:20] + b"\xff" * 5 + WHOLE[20:],
    "unknown version of JFIF": WHOLE.replace(b"JFIF\0\1\1", b"JFIF\0\7\1"),
    "unknown colours of Adobe": with_segment(WHOLE, 0xEE, b"Adobe\0\x64\0\0\0\0\x09"),
    "short JFIF": WHOLE[:20] + segment(0xE0, b"JFIF\0") + WHOLE[20:],
    "short Adobe": with_segment(WHOLE, 0xEE, b"Adobe"),
    "part of a profile": with_segment(WHOLE, 0xE2, b"ICC_PROFILE\0\5\2some"),
    "empty profile": with_segment(WHOLE, 0xE2, b"ICC_PROFILE\0"),
    "broken index of several images": with_segment(WHOLE, 0xE2, b"MPF\0broken"),
    "broken Photoshop block": with_segment(WHOLE, 0xED, b"Photoshop 3.0\08BIM\3\xed\0\0\xff\xff\xff\xff"),
    "broken XMP": with_segment(WHOLE, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmp\xff"),
    "thumbnail in EXIF": with_segment(WHOLE, 0xE1, oriented(1) + saved(photograph(8, 20, 20), "JPEG")),
    "a segment of no length": WHOLE[:20] + b"\xff\xfe\0\0" + WHOLE[20:],
    "two of all": with_segment(WHOLE, 0xE0, b"JFIF\0\7\1\0\0\1\0\1\0\0")[:-2] + bytes(77) + WHOLE[-2:],
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_only_odd_is_read(name: str) -> None:
    assert np.array_equal(pixels(ODD[name]), np.asarray(by_pillow(WHOLE)))


def test_padding_of_a_progressive_file_is_no_damage() -> None:
    expected = np.asarray(by_pillow(PROGRESSIVE))
    assert np.array_equal(pixels(PROGRESSIVE[:-2] + bytes(4000) + PROGRESSIVE[-2:]), expected)


def test_no_more_is_read_than_an_image_can_take(image: Callable[..., Path], tmp_path: Path) -> None:
    path = image(tmp_path / "a.jpg")
    expected = decode_image(path, SMALL).pixels
    with path.open("r+b") as file:
        file.truncate(2**36)  # a hole of 64 GB behind the image
    assert np.array_equal(decode_image(path, SMALL).pixels, expected)


# --- what is not read ---


def framed(bits: int, height: int, components: int) -> bytes:
    """The file with another frame header."""
    place = WHOLE.index(b"\xff\xc0") + 4
    return WHOLE[:place] + bytes([bits, height >> 8, height & 255, 1, 64, components]) + WHOLE[place + 6 :]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (framed(12, 240, 3), "JPEG with 12 bits per sample is not read here; save it with 8 bits, or as PNG"),
        (framed(8, 240, 2), "JPEG with 2 components is not read here; 1, 3 and 4 are"),
        (framed(8, 0, 3), r"corrupt JPEG data \(320 x 0 pixels\)"),
        (
            b"\xff\xd8" + segment(0xC0, b"\x08\0") + segment(0xDA, b""),
            r"corrupt JPEG data \(its frame header is too short\)",
        ),
        (b"\xff\xd8\xff\xd9", r"corrupt JPEG data \(it ends before its pixels\)"),
        (b"\xff\xd8" + segment(0xDA, b""), r"corrupt JPEG data \(no frame header before the pixels\)"),
        (b"\xff\xd8\xff" + b"\xff" * 10, "truncated JPEG"),
        (b"\xff\xd8\xff\xe0\0\2" + bytes(2**17), r"corrupt JPEG data \(no segment where one must be\)"),
    ],
)
def test_what_is_not_read_is_named(file: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}$"):
        Jpeg(io.BytesIO(file))


def test_headers_that_contradict_each_other_take_no_memory() -> None:
    """Of two frame headers libjpeg might believe the larger one; it gets the room of the first."""
    place = WHOLE.index(b"\xff\xc0")
    larger = WHOLE[:place] + segment(0xC0, b"\x08\xff\xff\xff\xff\x03\1\x22\0\2\x11\1\3\x11\1") + WHOLE[place:]
    smaller = WHOLE[:place] + segment(0xC0, b"\x08\0\x10\0\x10\x03\1\x22\0\2\x11\1\3\x11\1") + WHOLE[place:]
    assert Jpeg(io.BytesIO(larger)).size == (65535, 65535)  # which the check refuses
    with pytest.raises(ValueError, match="corrupt JPEG data"):
        pixels(smaller)
