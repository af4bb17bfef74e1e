"""How many pixels an image may have: one bound, of the user; Pillow's own never acts."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featuresExtractor.images.decode import check_image, decode_image, reason_of
from featuresExtractor.images.formats.bounds import Bound, admit, bounded
from featuresExtractor.images.settings import Decoding
from featuresExtractor.transforms import Preprocessing
from tests.featuresExtractor.images.made import chunk, photograph, saved

SMALL = Preprocessing(12, 8, "bicubic", (0.5,) * 3, (0.5,) * 3)
FORMATS = ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "TGA", "JPEG2000", "ICO"]


@pytest.mark.parametrize("kind", FORMATS)
def test_refusal_names_the_size_the_bound_and_the_flag(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.image"
    path.write_bytes(saved(photograph(1, 40, 30), kind, **({"sizes": [(40, 30)]} if kind == "ICO" else {})))
    message = "40 x 30 pixels are more than the 1,199 that are read; --max-pixels 1200 admits this image"
    for look in (check_image, decode_image):
        with pytest.raises(ValueError, match=f"^{message}$"):
            look(path, SMALL, Decoding(max_pixels=1199))
    check_image(path, SMALL, Decoding(max_pixels=1200))
    assert decode_image(path, SMALL, Decoding(max_pixels=1200)).pixels.shape == (3, 8, 8)


@pytest.mark.parametrize("kind", FORMATS)
def test_bound_of_pillow_never_acts(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pillow would warn (an error here) of more than 100 pixels, and refuse more than 200."""
    for number, size in enumerate(((15, 10), (40, 30))):
        path = tmp_path / f"{number}.image"
        path.write_bytes(saved(photograph(1, *size), kind, **({"sizes": [size]} if kind == "ICO" else {})))
        expected = decode_image(path, SMALL).pixels
        with monkeypatch.context() as patch:
            patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
            check_image(path, SMALL)
            assert np.array_equal(decode_image(path, SMALL).pixels, expected)
            assert Image.MAX_IMAGE_PIXELS == 100


def test_large_file_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    """20,000 x 10,000 pixels of which there are none."""
    jpeg = saved(photograph(1, 40, 30), "JPEG")
    place = jpeg.index(b"\xff\xc0") + 5
    (tmp_path / "a.jpg").write_bytes(jpeg[:place] + struct.pack(">HH", 10_000, 20_000) + jpeg[place + 4 :])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    sides = (20_000 - 1).to_bytes(3, "little") + (10_000 - 1).to_bytes(3, "little")
    (tmp_path / "a.webp").write_bytes(b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + bytes(20))
    for name in ("a.jpg", "a.png", "a.webp"):
        with pytest.raises(ValueError, match="20000 x 10000 pixels are more than the 178,956,970 that are read"):
            check_image(tmp_path / name, SMALL)
        with pytest.raises(ValueError, match="20000 x 10000 pixels are more than the 100 that are read"):
            check_image(tmp_path / name, SMALL, Decoding(max_pixels=100))


@pytest.mark.parametrize("size", [16_382, 300])
def test_webp_of_every_kind_is_refused_before_room_is_made_for_it(size: int, tmp_path: Path) -> None:
    for options in ({}, {"lossless": True}, {"exif": b"Exif\0\0"}):
        body = bytearray(saved(Image.new("RGB", (size, 2)), "WEBP", **options))
        (tmp_path / "a.webp").write_bytes(body)
        with pytest.raises(ValueError, match=f"{size} x 2 pixels are more than the 599 that are read"):
            check_image(tmp_path / "a.webp", SMALL, Decoding(max_pixels=599))


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_image_in_an_icon_is_bounded_too(tmp_path: Path) -> None:
    """An icon says 32 x 32 pixels, whatever is in it."""
    refusals = ("300 x 200 pixels are more than the 59,999", "an image in it has more than the 19,999,999 pixels")
    for size, most, refusal in (((300, 200), 59_999, refusals[0]), ((5000, 4000), 19_999_999, refusals[1])):
        inner = saved(Image.new("1", size), "PNG")
        head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 32, 32, 0, 0, 1, 32, len(inner), 22)
        (tmp_path / "a.ico").write_bytes(head + inner)
        with pytest.raises(ValueError, match=refusal):
            decode_image(tmp_path / "a.ico", SMALL, Decoding(max_pixels=most))
        decode_image(tmp_path / "a.ico", SMALL, Decoding(max_pixels=most + 1))


def test_refusal_of_pillow_is_in_our_words(tmp_path: Path) -> None:
    message = "an image in it has more than the 5 pixels that are read; see --max-pixels"
    with pytest.raises(ValueError, match=message), bounded(5):
        raise Image.DecompressionBombError("Image size exceeds")
    assert reason_of(ValueError(), tmp_path) == "ValueError"


def test_pillow_refuses_at_the_bound_and_never_warns() -> None:
    with bounded(2**24 + 10):
        Image._decompression_bomb_check((2**24 + 10, 1))
        with pytest.raises(Image.DecompressionBombError):
            Image._decompression_bomb_check((2**24 + 11, 1))
    assert 2 * Bound(7) == 7


def test_highest_of_several_bounds_holds_and_pillows_comes_back() -> None:
    before, inside, go_on = Image.MAX_IMAGE_PIXELS, threading.Barrier(2), threading.Event()

    def hold() -> None:
        with bounded(2**25):
            inside.wait(20)
            go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(hold)
        inside.wait(20)
        with bounded(2**30):
            assert Image.MAX_IMAGE_PIXELS == 2**30
        assert Image.MAX_IMAGE_PIXELS == 2**25
        go_on.set()
        future.result()
    assert before == Image.MAX_IMAGE_PIXELS


def test_admitted_is_what_is_not_more_than_the_bound() -> None:
    admit((3, 4), 12)
    with pytest.raises(ValueError, match="3 x 4 pixels"):
        admit((3, 4), 11)
