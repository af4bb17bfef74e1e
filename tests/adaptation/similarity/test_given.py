"""PIL images count as the files that they come from, or are refused by name."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_images_of_plain_modes_are_embedded_like_their_files(
    tmp_path: Path, learned: Path, colours: Image.Image, mode: str
) -> None:
    image = (colours if mode in ("LA", "RGBA") else colours.convert("RGB")).convert(mode)
    image.save(tmp_path / "a.png")
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
    found = Similarity.load(learned).search(colours, [colours.convert("L"), colours], k=2)
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
