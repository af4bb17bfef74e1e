"""Kinds of image files, by files that Pillow, tifffile and pillow-heif write, and by headers of cameras and phones."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from featuresExtractor.images.decode import open_image
from featuresExtractor.images.kinds import HEAD, kind_of, reason_not_read, suffixes

PROJECT = Path(__file__).resolve().parents[3]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100)
CR2 = b"II*\0\x10\0\0\0CR\2\0" + bytes(100)
TIFF = b"II*\0" + bytes(100)
NO_HEIF = "HEIC is not read here (pip install pillow-heif)"
NO_RAW = "camera raw is not read; convert it to TIFF or JPEG"
PIXELS = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def written(kind: str) -> bytes:
    """The bytes that Pillow writes for a small image."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind)
    return file.getvalue()


def tiff(bigtiff: bool = False, byteorder: Literal["<", ">"] = "<", subifds: int = 0, **tags: Any) -> bytes:
    """The bytes that tifffile writes for a small image with these tags, and for `subifds` images below it."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=bigtiff, byteorder=byteorder) as writer:
        writer.write(PIXELS, photometric="rgb", subifds=subifds, **tags)
        for _ in range(subifds):
            writer.write(np.repeat(PIXELS, 2, 0), photometric="rgb")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI"])
@pytest.mark.parametrize("name", ["000000042", "photo.jpg?w=640", "a.heic", "a.jxl"])
def test_an_image_is_known_by_its_first_bytes_whatever_its_name(kind: str, name: str) -> None:
    head = written(kind)[:HEAD]
    assert kind_of(head) == kind
    assert reason_not_read(name, head) is None


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("scan.jxl", JXL, "JPEG XL is not read; convert it to PNG"),
        ("scan.png", b"\xff\x0a" + bytes(9), "JPEG XL is not read; convert it to PNG"),
        ("a.CR2", CR2, NO_RAW),
        ("a.tif", CR2, NO_RAW),
        ("a.dng", TIFF, NO_RAW),
        ("a.NEF", TIFF, NO_RAW),
        ("a.cr3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", NO_RAW),
        ("a.raf", b"FUJIFILMCCD-RAW 0201", NO_RAW),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not read; convert it to PNG"),
        ("a", b'<?xml version="1.0"?>\n<!-- x -->\n<svg >', "SVG is not read; convert it to PNG"),
        ("a.pdf", b"%PDF-1.7", "PDF is not read; convert it to PNG"),
        ("a.jpg", b"%!PS-Adobe", "EPS is not read; convert it to PNG"),
        ("film.MOV", b"\0\0\0\x14ftypqt  ", "video is not read; save its frames as images"),
        ("a.jpg", b"\0\0\0\x20ftypisom\0\0\2\0isommp41", "video is not read; save its frames as images"),
        ("a.mp4", b"", "video is not read; save its frames as images"),
        ("a.xcf", b"gimp xcf", "XCF is not read; convert it to PNG"),
    ],
)
def test_what_is_not_read_has_its_reason(name: str, head: bytes, reason: str) -> None:
    assert reason_not_read(name, head) == reason


@pytest.mark.parametrize("head", [b"", b"the free text of a note", b"BMW and Audi, a list of cars, and more", b"P3 is"])
def test_text_is_no_image_by_its_contents(head: bytes) -> None:
    assert kind_of(head) is None
    assert reason_not_read("notes.txt", head) is None


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    "settings",
    [
        {"extratags": [(50706, 1, 4, bytes([1, 4, 0, 0]), True)]},  # DNGVersion
        {"subfiletype": 1, "subifds": 1},  # a small copy before the image itself, as in NEF and ARW
    ],
)
def test_raw_files_that_are_called_tif_are_known_by_their_tags(
    byteorder: Literal["<", ">"], settings: dict[str, Any]
) -> None:
    assert reason_not_read("a.tif", tiff(byteorder=byteorder, **settings)[:HEAD]) == NO_RAW


@pytest.mark.parametrize("settings", [{}, {"subfiletype": 1}, {"subifds": 1}, {"bigtiff": True}, {"byteorder": ">"}])
def test_ordinary_tiffs_are_no_raw_files(settings: dict[str, Any]) -> None:
    assert reason_not_read("a.tif", tiff(**settings)[:HEAD]) is None


def test_mpo_has_the_suffix_of_an_image() -> None:
    assert ".mpo" in suffixes()


# --- HEIC, with pillow-heif and without it ---


def without_heif(code: str) -> str:
    """What `code` prints in a process that cannot import pillow-heif."""
    hide = "import sys; sys.modules['pillow_heif'] = None\n"
    command = [sys.executable, "-c", hide + "from featuresExtractor.images.kinds import *\n" + code]
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "IMG_0001.heif", "IMG_0001.jpg", "42"])
def test_heic_is_not_read_without_its_package(name: str) -> None:
    assert without_heif(f"print(reason_not_read({name!r}, {HEIC!r}))") == NO_HEIF
    assert without_heif("print('.heic' in suffixes(), 'HEIF' in formats())") == "False False"


@pytest.mark.parametrize("name", ["IMG_0001.HEIC", "IMG_0001.jpg", "42"])
def test_heic_is_read_with_its_package(name: str, tmp_path: Path, heif: Any) -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    heif.from_pillow(Image.fromarray(smooth)).save(tmp_path / name, quality=100)
    head = (tmp_path / name).read_bytes()[:HEAD]
    assert (kind_of(head), reason_not_read(name, head)) == ("HEIC", None)
    with open_image(tmp_path / name) as opened:
        assert np.abs(np.asarray(opened.image().convert("RGB"), int) - smooth).mean() < 4


def test_avif_under_a_general_brand_is_avif() -> None:
    assert kind_of(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + bytes(50)) == "AVIF"
