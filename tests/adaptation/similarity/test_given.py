"""PIL images count as the files that they come from, or are refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from adaptation import Similarity
from common.errors import InputError


@pytest.fixture
def colours() -> Image.Image:
    """An image with opacity."""
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    return Image.fromarray(blocks).resize((48, 40), Image.Resampling.NEAREST)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA"])
def test_images_of_plain_modes_are_embedded_like_their_files(
    tmp_path: Path, learned: Path, colours: Image.Image, mode: str
) -> None:
    grey = colours.convert("L") if mode == "PA" else colours.convert("RGB")
    image = (colours if mode in ("LA", "RGBA") else grey).convert("P" if mode == "PA" else mode).convert(mode)
    (image.convert("LA") if mode == "PA" else image).save(tmp_path / "a.png")  # which has no such mode
    similarity = Similarity.load(learned)
    assert np.allclose(similarity.embed(image), similarity.embed(tmp_path / "a.png"), atol=1e-6)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "CMYK", "LAB"])
def test_images_whose_samples_only_a_file_explains_are_refused(learned: Path, mode: str) -> None:
    with pytest.raises(InputError, match=rf"image 1 \(mode {mode}: only a file says .*; give its path\)"):
        Similarity.load(learned).embed(Image.new(mode, (40, 30)))


def test_images_are_turned_as_their_exif_says(tmp_path: Path, learned: Path, colours: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    colours.convert("RGB").save(tmp_path / "turned.png", exif=exif)
    similarity = Similarity.load(learned)
    turned = similarity.embed(tmp_path / "turned.png")
    assert np.allclose(similarity.embed(Image.open(tmp_path / "turned.png")), turned, atol=1e-6)
    assert not np.allclose(similarity.embed(colours.convert("RGB")), turned, atol=1e-3)


def test_images_that_were_given_are_not_changed(learned: Path, colours: Image.Image) -> None:
    before = colours.tobytes()
    Similarity.load(learned).embed([colours, colours])
    assert colours.tobytes() == before
    assert colours.mode == "RGBA"


def test_results_name_images_without_a_file_by_their_number(learned: Path, colours: Image.Image) -> None:
    found = Similarity.load(learned).search(colours, [colours.convert("L"), colours.copy()], k=2)
    assert {each.name for each in found} == {"image 1", "image 2"}  # type: ignore[union-attr]
    assert found[0].name == "image 2"  # type: ignore[union-attr]


def test_one_image_given_many_times_is_read_by_many_threads(
    tmp_path: Path, learned: Path, colours: Image.Image
) -> None:
    colours.save(tmp_path / "a.png")
    similarity = Similarity.load(learned)
    expected = similarity.embed(tmp_path / "a.png")
    for _ in range(5):
        embeddings = similarity.embed([Image.open(tmp_path / "a.png")] * 16, workers=8)
        assert np.allclose(embeddings, expected, atol=1e-6)
        image = Image.open(tmp_path / "a.png")
        assert np.allclose(similarity.embed([image] * 16, workers=8), expected, atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_orientation_of_every_format_is_that_of_the_file(
    tmp_path: Path, learned: Path, colours: Image.Image, suffix: str, orientation: int
) -> None:
    exif, path = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[0x0112] = orientation
    colours.convert("RGB").save(path, exif=exif)
    similarity, image = Similarity.load(learned), Image.open(path)
    assert np.allclose(similarity.embed([image, image]), similarity.embed([path, path]), atol=1e-6)
    assert np.allclose(similarity.embed(image), similarity.embed(path), atol=1e-6)  # loaded by now


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_metadata_does_not_matter(tmp_path: Path, learned: Path, colours: Image.Image) -> None:
    path = tmp_path / "a.jpg"
    colours.convert("RGB").save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    similarity = Similarity.load(learned)
    assert np.allclose(similarity.embed(Image.open(path)), similarity.embed(path), atol=1e-6)


def embed_open(similarity: Similarity, path: Path, *before: Image.Image) -> None:
    """Embed images and then the one in a file, as Pillow opens it."""
    with Image.open(path) as image:
        similarity.embed([*before, image])


def test_bits_that_pillow_drops_are_not_dropped_in_silence(tmp_path: Path, learned: Path) -> None:
    """A PNG of 16 bits and three colours is to Pillow one of 8."""
    data = np.random.default_rng(0).integers(0, 2**16, (30, 40, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in data)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    checked = [(kind + body, len(body)) for kind, body in parts]
    chunks = (struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) for body, size in checked)
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    similarity = Similarity.load(learned)
    assert similarity.embed(path).shape == (1, 1024)
    with pytest.raises(InputError, match=r"image 1 \(mode RGB of 16 bits: only a file says .*; give its path\)"):
        embed_open(similarity, path)


def test_images_that_cannot_be_read_are_named_by_their_number(
    tmp_path: Path, learned: Path, colours: Image.Image
) -> None:
    path = tmp_path / "a.png"
    colours.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"unreadable: image 2 \(.*truncated.*\); replace these images"):
        embed_open(Similarity.load(learned), path, colours)


def test_an_iterator_of_images_is_taken(learned: Path, colours: Image.Image) -> None:
    similarity = Similarity.load(learned)
    turned = [colours.rotate(angle) for angle in (0, 90)]
    assert np.array_equal(similarity.embed(image for image in turned), similarity.embed(turned))
    assert np.array_equal(similarity.embed(tuple(turned)), similarity.embed(turned))


@pytest.mark.parametrize("given", [None, 3, 2.5, object(), [None], [[]], b"a.png", np.zeros((2, 3)), {"a": 1}])
def test_what_is_no_image_is_refused_by_its_type(learned: Path, given: Any) -> None:
    with pytest.raises(InputError, match=r"\w+: not an image; give paths|a: no such file or folder") as error:
        Similarity.load(learned).embed(given)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_named(tmp_path: Path, learned: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        Similarity.load(learned).embed(tmp_path / "empty")
