"""Thumbnails show the whole image, are small in pixels and bytes, and files that cannot be read have none."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptation.pages.thumbnails import FEWEST_BYTES, MOST_BYTES, thumbnail, thumbnails

PREFIX = "data:image/jpeg;base64,"


def contents(uri: str | None) -> bytes:
    assert uri is not None
    assert uri.startswith(PREFIX)
    return b64decode(uri.removeprefix(PREFIX), validate=True)


def opened(uri: str | None) -> Image.Image:
    image = Image.open(BytesIO(contents(uri)))
    image.load()
    return image


def noise(path: Path, size: tuple[int, int]) -> Path:
    """What a JPEG can compress least."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((800, 600), (160, 120)),
        ((300, 1200), (40, 160)),
        ((40, 30), (40, 30)),  # never enlarged
        ((3000, 2), (160, 1)),
    ],
)
def test_whole_image_fits_into_160_pixels(
    tmp_path: Path, image: Callable[..., Path], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    made = opened(thumbnail(image(tmp_path / "a.png", size)))
    assert (made.format, made.mode, made.size) == ("JPEG", "RGB", expected)


def test_thumbnail_looks_like_the_image(tmp_path: Path, image: Callable[..., Path]) -> None:
    path = image(tmp_path / "a.png", (640, 480))
    wanted = np.asarray(Image.open(path).resize((160, 120), Image.Resampling.BOX), dtype=float)
    assert np.abs(np.asarray(opened(thumbnail(path)), dtype=float) - wanted).mean() < 5


def test_image_stands_upright_and_brings_no_metadata(tmp_path: Path) -> None:
    left_half_red = Image.new("RGB", (200, 100), "blue")
    left_half_red.paste("red", (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a place that nobody should know"  # 6: to be turned clockwise
    left_half_red.save(tmp_path / "a.jpg", exif=exif, comment=b"nor this", icc_profile=b"nor that")
    uri = thumbnail(tmp_path / "a.jpg")
    made = opened(uri)
    assert made.size == (80, 160)
    top, bottom = made.getpixel((40, 10)), made.getpixel((40, 150))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]
    assert not any(word in contents(uri) for word in (b"nobody", b"nor this", b"nor that", b"Exif"))


@pytest.mark.parametrize("most", [MOST_BYTES, 3000, FEWEST_BYTES])
def test_bytes_are_bounded_also_for_noise(tmp_path: Path, most: int) -> None:
    path = noise(tmp_path / "a.png", (500, 500))
    assert len(contents(thumbnail(path, most))) <= most


def test_file_that_cannot_be_read_has_no_thumbnail(tmp_path: Path, image: Callable[..., Path]) -> None:
    whole = image(tmp_path / "a.png", (200, 200)).read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<script>", encoding="utf-8")
    (tmp_path / "folder.jpg").mkdir()
    names = ("short.png", "empty.jpg", "text.jpg", "folder.jpg", "missing.jpg")
    assert [thumbnail(tmp_path / name) for name in names] == [None] * len(names)


def test_each_file_is_made_once_in_the_order_of_its_first_place(tmp_path: Path, image: Callable[..., Path]) -> None:
    files = [image(tmp_path / f"{number}.png", (50, 40), number) for number in range(5)]
    missing = tmp_path / "missing.png"
    made = thumbnails([files[3], files[1], missing, files[3], *files], workers=3)
    assert list(made) == [files[3], files[1], files[0], files[2], files[4]]
    assert made == {path: thumbnail(path) for path in made}


def test_no_files_have_no_thumbnails() -> None:
    assert thumbnails([]) == {}


def test_many_images_share_what_a_page_may_have(
    tmp_path: Path, image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaptation.pages.thumbnails.MOST_TOGETHER", 8000)
    files = [noise(tmp_path / f"{number}.png", (200, 200)) for number in range(4)]
    sizes = [len(contents(uri)) for uri in thumbnails(files).values()]
    assert len(sizes) == 4
    assert 4000 < sum(sizes) <= 8000
