"""Preprocessing beside torchvision's and timm's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import v2

from featuresExtractor.backbones.layers import describe
from featuresExtractor.backbones.libraries.timm_library import preprocessing as preprocessing_of_timm
from featuresExtractor.models import BACKBONES, as_in_the_paper, find_model
from featuresExtractor.transforms import VIEWS, Preprocessing, normalise, prepare

CLIP = find_model("clip_rn50x4").preprocessing
DISTINCT = {model.preprocessing for model in BACKBONES}
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
    """torchvision's Resize and CenterCrop on the Pillow image, as (3, H, W)."""
    size = [preprocessing.resize] * 2 if preprocessing.squash else preprocessing.resize
    resize = tv.Resize(size, MODES[preprocessing.interpolation])
    cropped = tv.CenterCrop(preprocessing.crop)(resize(image))
    return np.asarray(cropped).transpose(2, 0, 1)


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


@pytest.mark.parametrize("name", ["resnet50", "vit_base_patch16_224", "facenet", "bit_m_r50x1"])
@pytest.mark.parametrize("size", [(200, 245), (3, 500), (577, 431), (224, 224), (1, 1), (31, 900)])
def test_images_are_made_ready_as_in_the_paper(name: str, size: tuple[int, int]) -> None:
    """ToTensor, Resize((224, 224)) of the tensor without antialiasing and ImageNet's Normalize, as the paper's code has
    it; our pixels are rounded to 8 bits, so half a level may be between them."""
    image, model = random_rgb(size), as_in_the_paper(find_model(name))
    tensor = v2.functional.resize(tv.ToTensor()(image), [224, 224], antialias=False)
    pixels = torch.from_numpy(prepare(image, model.preprocessing).copy())
    assert (pixels - 255 * tensor).abs().max() <= 0.5 + 1e-3
    reference = tv.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(tensor)
    ours = normalise(pixels[None], model.preprocessing)[0]
    assert (ours - reference).abs().max() <= 0.501 / 255 / 0.224


def test_images_of_the_paper_are_not_antialiased() -> None:
    """Of noise four times as large antialiasing leaves a fifth of the deviation; two by two pixels leave half."""
    model = as_in_the_paper(find_model("resnet50"))
    noise = random_rgb((896, 896))
    assert prepare(noise, replace(model.preprocessing, antialias=True)).std() < 0.25 * np.asarray(noise).std()
    assert prepare(noise, model.preprocessing).std() > 0.45 * np.asarray(noise).std()


def test_images_of_clip_are_made_ready_as_clip_wants_them_also_in_the_paper() -> None:
    image, model = random_rgb((577, 431)), as_in_the_paper(find_model("clip_vit32_b"))
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps = [tv.Resize(224, MODES["bicubic"]), tv.CenterCrop(224), tv.ToTensor(), tv.Normalize(mean, std)]
    assert torch.equal(our_pixels(image, model.preprocessing), tv.Compose(steps)(image))


@pytest.mark.parametrize(("resize", "crop"), [(60, 64), (61, 64), (60, 65), (61, 65), (1, 64), (63, 64)])
@pytest.mark.parametrize("size", [(64, 64), (97, 70), (70, 97), (101, 65), (40, 300), (300, 41)])
def test_crops_larger_than_the_image_are_padded_as_torchvision_pads_them(
    resize: int, crop: int, size: tuple[int, int]
) -> None:
    preprocessing = replace(CLIP, resize=resize, crop=crop)
    image = random_rgb(size)
    assert np.array_equal(prepare(image, preprocessing), torchvision_pixels(image, preprocessing))


def timm_config(name: str) -> dict[str, Any]:
    config: Any = timm.get_pretrained_cfg(name)
    settings: dict[str, Any] = config.to_dict()
    return settings


def timm_pixels(image: Image.Image, config: dict[str, Any]) -> torch.Tensor:
    """The normalised pixels of timm's own evaluation."""
    data: Any = timm.data
    pixels: torch.Tensor = data.create_transform(**data.resolve_data_config({}, pretrained_cfg=config))(image)
    return pixels


def our_pixels(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    return normalise(torch.from_numpy(prepare(image, preprocessing).copy())[None], preprocessing)[0]


def test_pixels_are_timms_for_every_setting_in_its_list() -> None:
    """For each combination of input size, crop and interpolation; among them a crop larger than the resized image."""
    keys = ("input_size", "crop_pct", "crop_mode", "interpolation")
    configs = {str([config[key] for key in keys]): config for config in map(timm_config, timm.list_pretrained())}
    square = [one for one in configs.values() if one["crop_mode"] != "border" and len({*one["input_size"]}) == 2]
    assert len(configs) >= len(square) > 100
    assert sum(config["crop_pct"] > 1 for config in square) == 2
    image = random_rgb((97, 70))
    for config in square:
        assert torch.equal(our_pixels(image, preprocessing_of_timm("", config)), timm_pixels(image, config)), config


@pytest.mark.parametrize("name", ["volo_d4_448", "volo_d5_448", "volo_d5_512"])
@pytest.mark.parametrize("size", [(448, 448), (449, 700), (700, 449), (1001, 333)])
def test_pixels_of_volo_are_timms(name: str, size: tuple[int, int]) -> None:
    preprocessing, image = describe(f"timm/{name}.sail_in1k").preprocessing, random_rgb(size)
    assert preprocessing.resize < preprocessing.crop
    assert torch.equal(our_pixels(image, preprocessing), timm_pixels(image, timm_config(f"{name}.sail_in1k")))


def test_the_record_names_antialiasing_only_where_there_is_none() -> None:
    """Else features of earlier versions, whose `.json` does not name it, would be refused."""
    assert set(CLIP.recorded()) == {"resize", "crop", "interpolation", "mean", "std", "squash"}
    paper = as_in_the_paper(find_model("resnet50")).preprocessing
    assert paper.recorded()["antialias"] is False
    assert paper.recorded() != replace(paper, antialias=True).recorded()


def test_a_squashed_image_is_never_too_narrow() -> None:
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


def test_views_are_the_image_and_its_mirror_image() -> None:
    images = torch.arange(2 * 3 * 2 * 3).view(2, 3, 2, 3)
    original, flipped = (view(images) for view in VIEWS)
    assert torch.equal(original, images)
    assert flipped[1, 2, 0].tolist() == images[1, 2, 0].tolist()[::-1]
    assert torch.equal(flipped.flip(-1), images)
