"""The table of backbones says what the networks do, and what their libraries say of their weights."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import facenet_pytorch
import open_clip
import pytest
import timm
import timm.data
import torch
from torchvision.models import get_model_weights

from common.errors import InputError
from featuresExtractor.backbones.activations import LayerReader, pooling_of
from featuresExtractor.backbones.layers import describe
from featuresExtractor.backbones.libraries.table import skeleton
from featuresExtractor.models import BACKBONES, Backbone, as_in_the_paper, find_model, find_models
from featuresExtractor.processor import PROCESSORS
from featuresExtractor.transforms import Preprocessing, normalise

STAGES = "layer1 layer2 layer3 layer4"
BIT = "stages.0 stages.1 stages.2 norm"
FACTS = {
    "clip_rn50x4": (f"{STAGES} attnpool", 5440, 87.1),
    "clip_rn50": (f"{STAGES} attnpool", 4864, 38.3),
    "clip_rn101": (f"{STAGES} attnpool", 4352, 56.3),
    "clip_vit32_b": ("ln_post", 768, 87.8),
    "resnet18": (STAGES, 960, 11.7),
    "resnet34": (STAGES, 960, 21.8),
    "resnet50": (STAGES, 3840, 25.6),
    "resnet101": (STAGES, 3840, 44.5),
    "resnet152": (STAGES, 3840, 60.2),
    "alexnet": ("features", 256, 61.1),
    "efficientnet_b0": ("global_pool", 1280, 5.3),
    "efficientnet_b1": ("global_pool", 1280, 7.8),
    "efficientnet_b2": ("global_pool", 1408, 9.1),
    "efficientnet_b3": ("global_pool", 1536, 12.2),
    "bit_m_r50x1": (BIT, 3840, 68.3),
    "bit_m_r50x3": (BIT, 11520, 345.4),
    "bit_m_r101x1": (BIT, 3840, 87.2),
    "bit_m_r101x3": (BIT, 11520, 516.0),
    "bit_m_r152x2": (BIT, 7680, 321.7),
    "bit_m_r152x4": (BIT, 15360, 1107.3),
    "facenet": ("block8", 1792, 27.9),
    "vit_base_patch16_224": ("norm", 768, 86.6),
    "swsl_resnet50": (STAGES, 3840, 25.6),
    "swsl_resnext101_32x8d": (STAGES, 3840, 88.8),
    "swsl_resnext101_32x16d": (STAGES, 3840, 194.0),
    "ssl_resnet50": (STAGES, 3840, 25.6),
    "ssl_resnext101_32x16d": (STAGES, 3840, 194.0),
    "wsl_resnext101_32x8d": (STAGES, 3840, 88.8),
    "wsl_resnext101_32x16d": (STAGES, 3840, 194.0),
    "wsl_resnext101_32x32d": (STAGES, 3840, 468.5),
    "wsl_resnext101_32x48d": (STAGES, 3840, 828.4),
    "barlow": (STAGES, 3840, 23.5),
    "dino_resnet50": (STAGES, 3840, 23.5),
    "dino_vits16": ("norm", 384, 21.7),
    "dino_vits8": ("norm", 384, 21.7),
    "dino_vitb8": ("norm", 768, 85.8),
    "dino_vitb16": ("norm", 768, 85.8),
    "efficientnet_lite0": ("blocks.0 blocks.1 blocks.2 blocks.4 blocks.6 bn2", 1792, 4.7),
}
"""Of each row the tapped layers, the numbers of its features and its millions of parameters, as they are published."""

CLASS_TOKEN = {
    "clip_vit32_b", "vit_base_patch16_224", "dino_vits16", "dino_vits8", "dino_vitb8", "dino_vitb16"
}  # fmt: skip
NAMES = [model.name for model in BACKBONES]
PAPER = [name for name in FACTS if name != "efficientnet_lite0"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
META = "https://dl.fbaipublicfiles.com"


def rows(library: str) -> list[Any]:
    return [pytest.param(model, id=model.name) for model in BACKBONES if model.library == library]


def test_names_are_those_of_the_paper_and_one_more() -> None:
    assert list(FACTS) == NAMES
    assert len(PAPER) == 37
    assert [model.name for model in BACKBONES if model.paper] == PAPER
    assert [find_model(name).name for name in NAMES] == NAMES
    assert len({model.folder for model in BACKBONES}) == 38


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_the_network_give_as_many_numbers_as_are_published(name: str) -> None:
    model, (layers, width, millions) = find_model(name), FACTS[name]
    network = skeleton(model)
    assert {weight.device.type for weight in network.parameters()} == {"meta"}
    assert not any(module.training for module in network.modules())
    side = model.preprocessing.crop
    with torch.inference_mode():
        reader = LayerReader(network, tuple(model.layers), pooling_of(PROCESSORS["adapt"], model))
        outputs = reader(torch.zeros(2, 3, side, side, device="meta"))
    assert list(model.layers) == layers.split()
    assert [tuple(output.shape) for output in outputs] == [(2, channels) for channels in model.layers.values()]
    assert (model.width, sum(output.shape[1] for output in outputs)) == (width, width)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 1) == millions


def test_class_token_is_taken_of_transformers_alone() -> None:
    assert {model.name for model in BACKBONES if model.tokens == "class"} == CLASS_TOKEN
    assert {model.name for model in BACKBONES if model.prefix == 1} == CLASS_TOKEN
    assert {model.prefix for model in BACKBONES} == {0, 1}


def test_widest_network_of_instagram_is_one_that_timm_does_not_name() -> None:
    network: Any = skeleton(find_model("wsl_resnext101_32x48d"))
    assert sum(weight.numel() for weight in network.parameters()) == 828_411_176  # 829 M in arXiv:1805.00932
    middles = [block.conv2 for stage in range(1, 5) for block in getattr(network, f"layer{stage}")]
    assert {convolution.groups for convolution in middles} == {32}
    assert [middles[index].out_channels // 32 for index in (0, 3, 7, 30)] == [48, 96, 192, 384]
    assert len(middles) == 3 + 4 + 23 + 3


# --- what the libraries say of the weights ---


TIMM = [one for one in rows("timm") if one.id not in ("wsl_resnext101_32x48d", "barlow", "dino_resnet50")]


@pytest.mark.parametrize("model", TIMM)
def test_row_of_timm_is_as_timm_has_it(model: Backbone) -> None:
    config: Any = timm.get_pretrained_cfg(f"{model.architecture}.{model.tag}")
    resolve: Any = timm.data.resolve_data_config  # type: ignore[attr-defined]
    data = resolve({}, pretrained_cfg=config.to_dict())
    channels, height, width = data["input_size"]
    own = model.preprocessing
    assert (channels, height, width) == (3, own.crop, own.crop)
    assert (data["crop_mode"], own.squash) == ("center", False)
    assert own.resize == math.floor(own.crop / data["crop_pct"])
    assert (own.interpolation, own.mean, own.std) == (data["interpolation"], data["mean"], data["std"])
    assert (model.licence.lower(), config.tag) == (config.license, model.tag)
    if model.name != "efficientnet_lite0":
        assert model.weights == f"hub:{config.hf_hub_id}/model.safetensors"
        assert config.hf_hub_id == f"timm/{model.architecture}.{model.tag}"


PUBLISHED = "https://github.com/rwightman/pytorch-image-models/releases/download/"
WEAKLY = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/semi_"
FILES = {
    "vit_base_patch16_224": f"{PUBLISHED}v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth",
    "efficientnet_b0": f"{PUBLISHED}v0.1-weights/efficientnet_b0_ra-3dd342df.pth",
    "efficientnet_b1": f"{PUBLISHED}v0.1-weights/efficientnet_b1-533bc792.pth",
    "efficientnet_b2": f"{PUBLISHED}v0.1-weights/efficientnet_b2_ra-bcdf34b7.pth",
    "efficientnet_b3": f"{PUBLISHED}v0.1-weights/efficientnet_b3_ra2-cf984f9c.pth",
    "swsl_resnet50": f"{WEAKLY}weakly_supervised_resnet50-16a12f1b.pth",
    "swsl_resnext101_32x8d": f"{WEAKLY}weakly_supervised_resnext101_32x8-b4712904.pth",
    "swsl_resnext101_32x16d": f"{WEAKLY}weakly_supervised_resnext101_32x16-f3559a9c.pth",
    "ssl_resnet50": f"{WEAKLY}supervised_resnet50-08389792.pth",
    "ssl_resnext101_32x16d": f"{WEAKLY}supervised_resnext101_32x16-15fffa57.pth",
    "wsl_resnext101_32x8d": "https://download.pytorch.org/models/ig_resnext101_32x8-c38310e5.pth",
    "wsl_resnext101_32x16d": "https://download.pytorch.org/models/ig_resnext101_32x16-c6f796b0.pth",
    "wsl_resnext101_32x32d": "https://download.pytorch.org/models/ig_resnext101_32x32-e4b90b00.pth",
}
"""The files that timm 0.4.5, which the paper's code pinned, loaded for these names."""


@pytest.mark.parametrize("name", FILES)
def test_weights_are_those_that_the_papers_version_of_timm_loaded(name: str) -> None:
    row = find_model(name)
    config: Any = timm.get_pretrained_cfg(f"{row.architecture}.{row.tag}")
    assert config.url == FILES[name]


@pytest.mark.parametrize("model", rows("torchvision"))
def test_row_of_torchvision_is_as_torchvision_has_it(model: Backbone) -> None:
    assert (model.name, model.tag) == (model.architecture, "IMAGENET1K_V1")
    weights: Any = get_model_weights(model.architecture)
    first = weights.IMAGENET1K_V1
    own, theirs = model.preprocessing, first.transforms()
    assert model.weights == first.url
    assert ([own.resize], [own.crop]) == (theirs.resize_size, theirs.crop_size)
    assert (own.interpolation, own.squash) == (theirs.interpolation.value, False)
    assert (list(own.mean), list(own.std)) == (theirs.mean, theirs.std)
    assert first.meta["num_params"] == sum(weight.numel() for weight in skeleton(model).parameters())


@pytest.mark.parametrize("model", rows("open_clip"))
def test_row_of_open_clip_is_as_open_clip_has_it(model: Backbone) -> None:
    config = open_clip.get_pretrained_cfg(model.architecture, model.tag)
    own = model.preprocessing
    assert (model.tag, config["resize_mode"]) == ("openai", "shortest")
    assert (own.mean, own.std, own.interpolation) == (config["mean"], config["std"], config["interpolation"])
    size = open_clip.get_model_config(model.architecture)["vision_cfg"]["image_size"]
    assert (own.resize, own.crop, own.squash) == (size, size, False)
    assert model.weights == f"hub:{config['hf_hub']}open_clip_model.safetensors"


@pytest.mark.parametrize(
    ("name", "weights", "images"),
    [  # hubconf.py and the evaluation of WSL-Images, barlowtwins and dino
        (
            "wsl_resnext101_32x48d",
            "https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth",
            Preprocessing(256, 224, "bilinear", *IMAGENET),
        ),
        (
            "barlow",
            f"{META}/barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth",
            Preprocessing(256, 224, "bilinear", *IMAGENET),
        ),
        (
            "dino_resnet50",
            f"{META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
            Preprocessing(256, 224, "bicubic", *IMAGENET),
        ),
    ],
)
def test_row_of_the_authors_own_files_is_as_they_say(name: str, weights: str, images: Preprocessing) -> None:
    model = find_model(name)
    assert (model.weights, model.preprocessing, model.tag) == (weights, images, "")


def test_faces_are_standardised_as_facenet_does_it() -> None:
    model = find_model("facenet")
    pixels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    expected = facenet_pytorch.fixed_image_standardization(pixels.float())
    assert torch.allclose(normalise(pixels, model.preprocessing), expected, atol=1e-6)
    assert (model.preprocessing.resize, model.preprocessing.crop, model.preprocessing.squash) == (160, 160, True)


def test_weights_of_lite0_are_in_their_package() -> None:
    weights = find_model("efficientnet_lite0").weights
    package, _, file = weights.removeprefix("package:").partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert (Path(str(spec.origin)).parent / file).is_file()


def test_every_row_names_where_it_is_from() -> None:
    assert {model.weights.partition(":")[0] for model in BACKBONES} == {"hub", "https", "package"}
    assert all(model.licence and model.source and model.family for model in BACKBONES)


# --- as in the paper ---


def test_paper_squashed_the_images_of_all_but_clip() -> None:
    squashed = Preprocessing(224, 224, "bilinear", *IMAGENET, squash=True, antialias=False)
    for model in BACKBONES:
        changed = as_in_the_paper(model)
        expected = model.preprocessing if model.name.startswith("clip_") else squashed
        assert changed.preprocessing == expected
        assert changed.preprocess == ("own" if model.name.startswith("clip_") else "paper")
        assert (changed.name, changed.layers, changed.weights) == (model.name, model.layers, model.weights)
        assert model.preprocess == "own"


def test_clip_keeps_its_own_images_whoever_builds_it() -> None:
    own = describe("timm/vit_base_patch32_clip_224.openai")
    assert as_in_the_paper(own) == own
    assert as_in_the_paper(describe("open_clip/ViT-B-16-SigLIP2/webli")).preprocess == "paper"


# --- names ---


ADDRESSES = "any other network has an address: timm/NAME[.TAG], open_clip/ARCH/TAG or torchvision/NAME"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("clip_rn50x", "; did you mean 'clip_rn50x4', 'open_clip/RN50x4/openai', 'open_clip/RN50x16/openai' or "),
        ("Resnet50", "; did you mean 'resnet50'? extract.py --list-models shows all; "),
        ("dinov2", "; did you mean 'timm/vit_base_patch14_dinov2.lvd142m', "),
        ("zzz", "; extract.py --list-models shows all; "),
    ],
)
def test_unknown_model_is_told_with_the_nearest_one(name: str, near: str) -> None:
    for find in (find_model, lambda name: find_models(["resnet18", name])):
        with pytest.raises(InputError) as caught:
            find(name)
        assert str(caught.value).startswith(f"unknown model '{name}'{near}")
        assert f" extract.py --list-models shows all; {ADDRESSES}" in str(caught.value)


def test_empty_name_is_unknown() -> None:
    with pytest.raises(InputError, match=r"unknown model '';"):
        find_models([""])


def test_all_are_the_37_of_the_paper() -> None:
    assert find_models(["all"]) == PAPER
    assert find_models(["efficientnet_lite0", "alexnet", "all"])[:3] == ["efficientnet_lite0", "alexnet", PAPER[0]]
    assert len(find_models(["efficientnet_lite0", "alexnet", "all"])) == 38


def test_names_keep_their_order_without_doubles_and_addresses_are_left_for_later() -> None:
    names = ["timm/never_heard_of", "resnet50", "alexnet", "resnet50", "timm/never_heard_of"]
    assert find_models(names) == ["timm/never_heard_of", "resnet50", "alexnet"]


def test_folder_of_an_address_is_one_name(tiny_model: Backbone) -> None:
    assert replace(tiny_model, name="open_clip/ViT-B-32/openai").folder == "open_clip-ViT-B-32-openai"
    assert tiny_model.folder == "tiny"
