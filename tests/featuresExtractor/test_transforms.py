"""Preprocessing beside torchvision's, and pictures of every kind as a person sees them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as tv

from featuresExtractor.models import MODELS, as_in_the_paper, find_model
from featuresExtractor.transforms import VIEWS, Preprocessing, normalise, prepare, to_rgb

CLIP = find_model("clip_rn50x4").preprocessing
DISTINCT = {model.preprocessing for model in MODELS} | {as_in_the_paper(model).preprocessing for model in MODELS}
MODES = {"bilinear": tv.InterpolationMode.BILINEAR, "bicubic": tv.InterpolationMode.BICUBIC}
SIZES = [
    (200, 245),
    (245, 200),
    (288, 288),
    (1, 1),
    (3, 500),
    (500, 3),
    (287, 289),
    (577, 431),
    (2, 3),
    (640, 333),
    (333, 641),
]


def random_rgb(size: tuple[int, int], seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def torchvision_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """torchvision's Resize and CenterCrop on the Pillow picture, as (3, H, W)."""
    size = [preprocessing.resize] * 2 if preprocessing.squash else preprocessing.resize
    resize = tv.Resize(size, MODES[preprocessing.interpolation])
    cropped = tv.CenterCrop(preprocessing.crop)(resize(image))
    return np.asarray(cropped).transpose(2, 0, 1)


def pixel(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


def saved(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    """The picture after it has been written to a file of `kind` and opened again."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_torchvisions_to_the_last_bit(size: tuple[int, int]) -> None:
    image = random_rgb(size)
    for preprocessing in DISTINCT:
        assert np.array_equal(prepare(image, preprocessing), torchvision_pixels(image, preprocessing))


@pytest.mark.parametrize(("resize", "crop"), [(64, 63), (64, 61), (64, 60), (65, 32), (65, 65)])
@pytest.mark.parametrize("interpolation", MODES)
def test_crops_of_odd_and_even_margins_are_torchvisions(resize: int, crop: int, interpolation: str) -> None:
    preprocessing = replace(CLIP, resize=resize, crop=crop, interpolation=interpolation)
    for size in [(64, 64), (97, 70), (70, 97), (101, 65)]:
        image = random_rgb(size)
        assert np.array_equal(prepare(image, preprocessing), torchvision_pixels(image, preprocessing))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", MODES)
def test_squashed_pixels_are_torchvisions_to_the_last_bit(size: tuple[int, int], interpolation: str) -> None:
    image = random_rgb(size)
    for resize, crop in [(224, 224), (64, 51)]:
        squashed = tv.Resize((resize, resize), MODES[interpolation])(image)
        assert squashed.size == (resize, resize)
        expected = np.asarray(tv.CenterCrop(crop)(squashed)).transpose(2, 0, 1)
        preprocessing = replace(CLIP, resize=resize, crop=crop, interpolation=interpolation, squash=True)
        assert np.array_equal(prepare(image, preprocessing), expected)


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224", "facenet", "bit_m_r50x1", "clip_vit32_b"])
@pytest.mark.parametrize("size", [(200, 245), (3, 500), (577, 431)])
def test_pictures_are_made_ready_as_in_the_paper(name: str, size: tuple[int, int]) -> None:
    """Resize((224, 224)), ToTensor and ImageNet's Normalize, as the paper's code has it; CLIP's as CLIP wants it."""
    image, model = random_rgb(size), as_in_the_paper(find_model(name))
    steps = [tv.Resize((224, 224)), tv.ToTensor(), tv.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    if name == "clip_vit32_b":
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        steps = [tv.Resize(224, MODES["bicubic"]), tv.CenterCrop(224), tv.ToTensor(), tv.Normalize(mean, std)]
    pixels = torch.from_numpy(prepare(image, model.preprocessing).copy())
    assert torch.equal(normalise(pixels[None], model.preprocessing)[0], tv.Compose(steps)(image))


def test_a_squashed_picture_is_never_too_narrow() -> None:
    squash = replace(CLIP, squash=True)
    assert prepare(Image.new("RGB", (30_000, 1)), squash).shape == (3, 288, 288)
    with pytest.raises(ValueError, match="30000 x 1 pixels are too narrow"):
        prepare(Image.new("RGB", (30_000, 1)), CLIP)


def test_prepared_pixels_are_bytes_with_the_channels_last_in_memory() -> None:
    pixels = prepare(random_rgb((300, 400)), CLIP)
    assert pixels.shape == (3, 288, 288)
    assert pixels.dtype == np.uint8
    assert pixels.transpose(1, 2, 0).flags.c_contiguous


def test_normalised_pixels_stay_as_they_are_in_memory_and_the_bytes_untouched() -> None:
    first = torch.randint(256, (2, 3, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    last = first.contiguous(memory_format=torch.channels_last)
    kept = last.clone()
    images = normalise(last, CLIP)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, normalise(first, CLIP))
    assert torch.equal(last, kept)


def test_normalised_pixels_are_torchvisions_to_the_last_bit() -> None:
    image = random_rgb((288, 288))
    reference = tv.Normalize(CLIP.mean, CLIP.std)(tv.ToTensor()(image))
    pixels = torch.from_numpy(prepare(image, CLIP).copy())
    assert torch.equal(normalise(torch.stack([pixels, pixels]), CLIP), torch.stack([reference, reference]))


def test_views_are_the_picture_and_its_mirror_image() -> None:
    images = torch.arange(2 * 3 * 2 * 3).view(2, 3, 2, 3)
    original, flipped = (view(images) for view in VIEWS)
    assert torch.equal(original, images)
    assert flipped[1, 2, 0].tolist() == images[1, 2, 0].tolist()[::-1]
    assert torch.equal(flipped.flip(-1), images)


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [("L", 77, (77, 77, 77)), ("1", 1, (255, 255, 255)), ("1", 0, (0, 0, 0)), ("RGBX", (1, 2, 3, 9), (1, 2, 3))],
)
def test_greyscale_and_padded_pixels_become_rgb(mode: str, colour: Any, shown: tuple[int, int, int]) -> None:
    rgb = to_rgb(Image.new(mode, (3, 2), colour))
    assert (rgb.mode, rgb.size, pixel(rgb)) == ("RGB", (3, 2), shown)


def test_palette_colours_are_looked_up() -> None:
    image = random_rgb((8, 8)).quantize(16)
    assert image.mode == "P"
    assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def over_white(value: int, alpha: int) -> float:
    """Porter and Duff's `over` on white, by hand."""
    return value * alpha / 255 + 255 * (1 - alpha / 255)


@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_transparent_pixels_are_laid_over_white(alpha: int) -> None:
    for mode, colour in (("RGBA", (10, 100, 200, alpha)), ("LA", (50, alpha))):
        image = Image.new(mode, (1, 1), colour)
        expected = [over_white(value, alpha) for value in (colour[:3] if mode == "RGBA" else colour[:1] * 3)]
        assert np.allclose(pixel(to_rgb(image)), expected, atol=1)


def test_palette_with_one_transparent_colour_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opened = saved(image, "PNG", transparency=1)
    assert opened.mode == "P"
    assert np.asarray(to_rgb(opened)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_degrees_of_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opened = saved(image, "PNG", transparency=bytes([255, 100]))
    blue = [round(over_white(value, 100)) for value in (0, 0, 255)]
    assert np.allclose(np.asarray(to_rgb(opened)), [[[255, 0, 0], blue]], atol=1)


@pytest.mark.parametrize(("mode", "key", "other"), [("RGB", (9, 8, 7), (1, 2, 3)), ("L", 9, 1)])
def test_colour_key_of_a_png_is_transparent(mode: str, key: Any, other: Any) -> None:
    image = Image.new(mode, (2, 1), key)
    image.putpixel((1, 0), other)
    opened = saved(image, "PNG", transparency=key)
    assert opened.mode == mode
    shown = [1, 2, 3] if mode == "RGB" else [1, 1, 1]
    assert np.asarray(to_rgb(opened)).tolist() == [[[255, 255, 255], shown]]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    opened = saved(Image.new("RGB", (16, 16), (200, 60, 20)).convert("CMYK"), "JPEG", quality=100)
    assert opened.mode == "CMYK"
    assert np.allclose(pixel(to_rgb(opened)), (200, 60, 20), atol=4)


SIXTEEN_BITS = [(0, 0), (65535, 255), (32768, 128), (257, 1), (128, 0), (129, 1), (65406, 254), (65407, 255)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8_and_rounded(kind: str) -> None:
    values, expected = zip(*SIXTEEN_BITS, strict=True)
    opened = saved(Image.fromarray(np.array([values], np.uint16)), kind)
    assert opened.mode.startswith("I")
    rgb = np.asarray(to_rgb(opened))
    assert rgb[0, :, 0].tolist() == list(expected)
    assert (rgb == rgb[..., :1]).all()


def test_big_endian_16_bits_are_scaled_too() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([32768, 65535], ">u2").tobytes())
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bits_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="pixels of mode I have no known range; save it as an 8- or 16-bit picture"):
        to_rgb(Image.new("I", (2, 2), value))


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels of mode F have no known range; save it as an 8- or 16-bit picture"):
        to_rgb(Image.new("F", (2, 2), 0.5))
