"""Networks are built as their libraries build them, and every network has an address."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

from common.errors import InputError
from featuresExtractor.backbones.layers import describe
from featuresExtractor.backbones.libraries.table import build, skeleton
from featuresExtractor.models import Backbone, find_model
from featuresExtractor.transforms import INTERPOLATION, Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def refusal(address: str) -> str:
    with pytest.raises(InputError) as caught:
        describe(address)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is built ---


def test_skeleton_needs_no_memory_and_has_the_names_and_shapes_of_the_network(tiny_model: Backbone) -> None:
    bones, network = skeleton(tiny_model), build(tiny_model)
    assert {value.device.type for value in bones.state_dict().values()} == {"meta"}
    assert not any(module.training for module in bones.modules())
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (bones, network)]
    assert shapes[0] == shapes[1]
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}


def test_network_that_computes_while_it_is_built_is_built_whole() -> None:
    """RegNet of torchvision rounds its widths by tensors."""
    bones = skeleton(describe("torchvision/regnet_y_400mf"))
    assert {value.device.type for value in bones.state_dict().values()} == {"cpu"}
    assert not any(module.training for module in bones.modules())
    assert sum(weight.numel() for weight in bones.parameters()) == 4_344_144  # as torchvision counts them


def activations(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules() if "GELU" in type(module).__name__}


@pytest.mark.parametrize(
    ("address", "activation"),
    [
        ("open_clip/ViT-B-32/openai", "QuickGELU"),
        ("open_clip/ViT-L-14/openai", "QuickGELU"),
        ("open_clip/ViT-B-32/laion2b_s34b_b79k", "GELU"),
        ("open_clip/ViT-B-32-quickgelu/openai", "QuickGELU"),
    ],
)
def test_tower_has_the_activation_that_its_weights_were_trained_with(address: str, activation: str) -> None:
    assert activations(skeleton(describe(address))) == {activation}


def test_tower_of_the_table_has_it_too() -> None:
    assert activations(skeleton(find_model("clip_vit32_b"))) == {"QuickGELU"}


def test_only_the_visual_tower_is_kept() -> None:
    tower = skeleton(find_model("clip_rn50"))
    assert not [name for name, _ in tower.named_modules() if "token_embedding" in name or "visual" in name]
    with torch.device("meta"):
        whole: Any = open_clip.CLIP(**open_clip.get_model_config("RN50"))
    assert list(tower.state_dict()) == list(whole.visual.state_dict())


def test_nothing_is_logged_and_logging_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        skeleton(find_model("clip_rn50"))
        assert caplog.records == []
        logging.getLogger("open_clip").warning("still heard")
    assert [record.message for record in caplog.records] == ["still heard"]
    assert logging.root.manager.disable == logging.NOTSET


def test_options_reach_the_constructor(tiny_model: Backbone) -> None:
    assert "fc.weight" in skeleton(tiny_model).state_dict()
    assert "fc.weight" not in skeleton(replace(tiny_model, options={"num_classes": 0})).state_dict()


@pytest.mark.parametrize(("tag", "classes"), [("goog_in21k", 21843), ("goog_in21k_ft_in1k", 1000)])
def test_tag_decides_on_the_number_of_classes(tag: str, classes: int, tiny_model: Backbone) -> None:
    network: Any = skeleton(replace(tiny_model, architecture="resnetv2_50x1_bit", tag=tag))
    assert network.num_classes == classes


def test_missing_package_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(InputError) as caught:
        build(find_model("facenet"))
    wanted = "pip install requests && pip install --no-deps facenet-pytorch"
    assert str(caught.value) == f"facenet: needs the package facenet_pytorch: {wanted}"


# --- addresses ---


@pytest.mark.parametrize(
    ("address", "tag", "weights", "images"),
    [
        (
            "timm/resnet50.a1_in1k",
            "a1_in1k",
            "hub:timm/resnet50.a1_in1k/model.safetensors",
            Preprocessing(235, 224, "bicubic", *IMAGENET),
        ),
        (
            "timm/resnet50",  # without a tag the library's first choice
            "",
            "hub:timm/resnet50.a1_in1k/model.safetensors",
            Preprocessing(235, 224, "bicubic", *IMAGENET),
        ),
        (
            "timm/vit_base_patch14_dinov2.lvd142m",
            "lvd142m",
            "hub:timm/vit_base_patch14_dinov2.lvd142m/model.safetensors",
            Preprocessing(518, 518, "bicubic", *IMAGENET),
        ),
        (
            "timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k",
            "mim_in22k_ft_in22k_in1k",
            "hub:timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k/model.safetensors",
            Preprocessing(448, 448, "bicubic", *OPENAI, squash=True),
        ),
        ("timm/botnet50ts_256", "", "", Preprocessing(269, 256, "bicubic", *IMAGENET)),  # no weights anywhere
        (
            "open_clip/ViT-L-14/openai",
            "openai",
            "hub:timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
            Preprocessing(224, 224, "bicubic", *OPENAI),
        ),
        (
            "open_clip/ViT-B-16-SigLIP2/webli",
            "webli",
            "hub:timm/ViT-B-16-SigLIP2/open_clip_model.safetensors",
            Preprocessing(224, 224, "bicubic", *HALF, squash=True),
        ),
        (
            "open_clip/ViTamin-S/datacomp1b",  # its entry names the file, too
            "datacomp1b",
            "hub:jienengchen/ViTamin-S/pytorch_model.bin",
            Preprocessing(224, 224, "bicubic", *OPENAI),
        ),
        (
            "torchvision/resnet50",
            "IMAGENET1K_V2",
            "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
            Preprocessing(232, 224, "bilinear", *IMAGENET),
        ),
        (
            "torchvision/resnet50.IMAGENET1K_V1",
            "IMAGENET1K_V1",
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            Preprocessing(256, 224, "bilinear", *IMAGENET),
        ),
        (
            "torchvision/swin_t",
            "IMAGENET1K_V1",
            "https://download.pytorch.org/models/swin_t-704ceda3.pth",
            Preprocessing(232, 224, "bicubic", *IMAGENET),
        ),
    ],
)
def test_address_becomes_a_row(address: str, tag: str, weights: str, images: Preprocessing) -> None:
    model = describe(address)
    library, architecture = address.split("/")[0], address.split("/")[1].split(".")[0]
    assert (model.name, model.library, model.architecture) == (address, library, architecture)
    assert (model.tag, model.weights, model.preprocessing) == (tag, weights, images)
    assert (dict(model.layers), model.paper, model.preprocess) == ({}, False, "own")


def test_rows_of_the_table_are_those_of_their_addresses() -> None:
    for name in ("dino_vits16", "bit_m_r50x1", "efficientnet_b3", "clip_vit32_b", "resnet50"):
        row = find_model(name)
        parts = {"open_clip": f"{row.architecture}/{row.tag}"}.get(row.library, f"{row.architecture}.{row.tag}")
        model = describe(f"{row.library}/{parts}")
        assert (model.weights, model.preprocessing, model.tag) == (row.weights, row.preprocessing, row.tag)


def test_torchvisions_best_weights_are_taken_where_none_are_named() -> None:
    weights: Any = get_model_weights("mobilenet_v3_large")
    assert describe("torchvision/mobilenet_v3_large").weights == weights.DEFAULT.url == weights.IMAGENET1K_V2.url


WAYS = "addresses are timm/NAME[.TAG], open_clip/ARCH/TAG or torchvision/NAME[.TAG]"


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("foo/bar", f"unknown model 'foo/bar'; {WAYS}"),
        ("torchvison/resnet18", f"unknown model 'torchvison/resnet18'; did you mean 'torchvision'? {WAYS}"),
        ("/resnet18", f"unknown model '/resnet18'; {WAYS}"),
        (
            "facebook/dinov2-base",
            "unknown model 'facebook/dinov2-base'; did you mean 'timm/vit_base_patch14_dinov2.lvd142m' or "
            f"'timm/vit_base_patch14_reg4_dinov2.lvd142m'? {WAYS}",
        ),
    ],
)
def test_unknown_library_is_told_with_the_nearest_one(address: str, line: str) -> None:
    assert refusal(address) == line


@pytest.mark.parametrize("address", ["timm/", "timm", "open_clip/"])
def test_address_of_a_library_alone_leads_nowhere(address: str) -> None:
    assert refusal(address).endswith(WAYS)


@pytest.mark.parametrize(
    ("address", "start"),
    [
        ("timm/resnet50d0", "timm/resnet50d0: no architecture of timm 'resnet50d0'; did you mean 'resnet50d'? 1,"),
        ("open_clip/ViT-B-33/openai", "open_clip/ViT-B-33/openai: no architecture of open_clip 'ViT-B-33'; did you"),
        ("torchvision/resnet", "torchvision/resnet: no classification network of torchvision 'resnet'; did you mean"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision/fasterrcnn_resnet50_fpn: no classification network of "),
        ("timm/zzzz", "timm/zzzz: no architecture of timm 'zzzz'; 1,"),
    ],
)
def test_unknown_architecture_is_told_with_the_nearest_one(address: str, start: str) -> None:
    assert refusal(address).startswith(start)
    assert refusal(address).endswith(" are there")


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("torchvision/resnet18.V9", "no weights tagged 'V9'; there are: DEFAULT, IMAGENET1K_V1"),
        ("timm/efficientnet_b3.best", "no weights tagged 'best'; there are: ra2_in1k"),
        ("timm/botnet50ts_256.best", "no weights tagged 'best'; there are none"),
        ("open_clip/RN50x4", "no weights tagged ''; there are: openai"),
        ("open_clip/RN50x4/laion", "no weights tagged 'laion'; there are: openai"),
    ],
)
def test_unknown_tag_is_told_with_those_that_are_there(address: str, line: str) -> None:
    assert refusal(address) == f"{address}: {line}"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("timm/vit_base_patch16_sapiens2", "(3, 1024, 768), mode squash"),
        ("timm/deepseek_vit_412m", "(3, 546, 546), mode border"),
    ],
)
def test_images_that_are_not_square_or_have_a_border_are_refused(address: str, shown: str) -> None:
    ways = "only square ones of three channels, center or squash, are supported"
    assert refusal(address) == f"{address}: takes images of {shown}; {ways}"


def test_resizing_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network of today asks for another one."""
    monkeypatch.delitem(INTERPOLATION, "bilinear")
    assert refusal("torchvision/resnet18") == "torchvision/resnet18: resizes by bilinear; bicubic are supported"


def test_longest_side_of_open_clip_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**open_clip.get_pretrained_cfg("RN50", "openai"), "resize_mode": "longest"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: config)
    assert "takes images of 224 pixels, mode longest; only square ones" in refusal("open_clip/RN50/openai")


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_images_are_rescaled_as_torchvision_does_for_its_pretrained_weights(name: str) -> None:
    """With weights, torchvision sets `transform_input`; here nothing is fetched, and it is told without the weights."""
    network: Any = skeleton(describe(f"torchvision/{name}"))
    assert network.transform_input is True


@pytest.mark.skipif(find_spec("transformers") is not None, reason="transformers is installed, and nothing is missing")
@pytest.mark.parametrize("address", ["open_clip/roberta-ViT-B-32/laion2b_s12b_b32k", "open_clip/nllb-clip-base/v1"])
def test_network_that_its_library_cannot_build_is_told_in_a_line(address: str) -> None:
    with pytest.raises(InputError) as caught:
        skeleton(describe(address))
    assert str(caught.value).startswith(f"{address}: open_clip cannot build it here: ")
    assert "\n" not in str(caught.value)
