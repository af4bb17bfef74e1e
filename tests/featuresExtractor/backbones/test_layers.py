"""Which layers are tapped: those that are named, those of the library, and what they give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from common.errors import InputError
from featuresExtractor.backbones.layers import listing, matching, output_shapes, resolve
from featuresExtractor.backbones.libraries.table import skeleton
from featuresExtractor.backbones.libraries.timm_library import feature_layers
from featuresExtractor.models import BACKBONES, Backbone, find_model

pytestmark = pytest.mark.usefixtures("one_thread")

# --- by name ---


PATHS: dict[str, tuple[int, ...] | None] = {
    "stem": (4, 8, 8),
    "layer1": (4, 8, 8),
    "layer1.0": (4, 8, 8),
    "layer2": (8, 4, 4),
    "layer2.0": (8, 4, 4),
    "blocks.0": (9, 8),
    "blocks.0.attn": (9, 8),
    "blocks.1": (9, 8),
    "blocks.10": (9, 8),
    "Head": (5,),
}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["layer*"], "layer1 layer2"),
        (["*"], "stem layer1 layer2 Head"),
        (["blocks.*"], "blocks.0 blocks.1 blocks.10"),
        (["blocks.?"], "blocks.0 blocks.1"),
        (["blocks.1*"], "blocks.1 blocks.10"),
        (["blocks.*.attn"], "blocks.0.attn"),
        (["*.0"], "layer1.0 layer2.0 blocks.0"),
        (["layer[2-9]"], "layer2"),
        (["Head", "stem"], "Head stem"),
        (["layer2", "layer*", "layer2", "stem"], "layer2 layer1 stem"),
    ],
)
def test_star_stands_for_a_part_between_dots_and_the_order_is_that_of_the_names(
    patterns: list[str], found: str, tiny_model: Backbone
) -> None:
    assert matching(tiny_model, patterns, PATHS) == found.split()


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("layr1", "; did you mean 'layer1'?"),
        ("zzzz", ";"),
        ("head", "; did you mean 'Head'?"),
        ("blocks.2", "; did you mean 'blocks.1'?"),
        ("*.*.*.*", ";"),
    ],
)
def test_layer_that_is_not_there_is_told_with_the_nearest_one(pattern: str, near: str, tiny_model: Backbone) -> None:
    with pytest.raises(InputError) as caught:
        matching(tiny_model, ["stem", pattern], PATHS)
    assert str(caught.value) == f"tiny: no layer '{pattern}'{near} extract.py --list-layers tiny shows all"


def test_named_layers_replace_those_of_a_row() -> None:
    model = resolve("resnet18", ["fc", "layer1.*", "layer4"])
    assert dict(model.layers) == {"fc": 1000, "layer1.0": 64, "layer1.1": 64, "layer4": 512}
    assert list(model.layers) == ["fc", "layer1.0", "layer1.1", "layer4"]
    row = find_model("resnet18")
    assert replace(model, layers=row.layers) == row


def test_row_without_other_wishes_is_the_row_itself() -> None:
    assert all(resolve(model.name) is model for model in BACKBONES)


@pytest.mark.parametrize("name", [model.name for model in BACKBONES if model.tokens == "class"])
def test_tokens_of_a_row_are_those_that_its_network_pools(name: str) -> None:
    row = find_model(name)
    model = resolve(name, list(row.layers))
    assert model == row


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("torchvision/vit_b_16", "encoder.layers.encoder_layer_0.self_attention"),  # a tensor and its weights
        ("timm/swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn"),  # a tensor a window
        ("timm/coat_tiny", "parallel_blocks.0"),  # a tensor a scale
    ],
)
def test_layer_that_gives_no_single_tensor_an_image_is_refused(name: str, layer: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(name, [layer])
    assert str(caught.value) == (
        f"{name}: layer {layer} does not give one tensor an image; name another (extract.py --list-layers)"
    )


def test_module_that_is_never_called_is_no_layer() -> None:
    """torch's attention uses the weights of its last projection without calling it."""
    with pytest.raises(InputError, match=r"no layer 'encoder.*out_proj'; did you mean 'encoder"):
        resolve("torchvision/vit_b_16", ["encoder.layers.encoder_layer_0.self_attention.out_proj"])


# --- shapes ---


class Odd(nn.Module):
    """Modules of every kind of output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.same = nn.Identity()
        self.pair = Pair()
        self.windows = Windows()
        self.unused = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.same(self.conv(images))
        self.pair(maps)
        self.windows(maps)
        return self.same(maps.mean((2, 3)))  # type: ignore[no-any-return]  # called again: the last call counts


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps, maps


class Windows(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(0, 1)


def test_shapes_are_those_of_one_image(tiny_model: Backbone) -> None:
    shapes = output_shapes(tiny_model, Odd())
    assert shapes == {"conv": (4, 15, 15), "same": (4,), "pair": None, "windows": None}


@pytest.mark.usefixtures("empty_caches")
def test_listing_shows_every_module_with_its_shape_without_weights() -> None:
    rows = {path: (shape, tapped) for path, shape, tapped in listing("resnet18")}
    assert rows["conv1"] == ("64 x 112 x 112", "")
    assert rows["layer1.0.conv1"] == ("64 x 56 x 56", "")
    assert rows["avgpool"] == ("512 x 1 x 1", "")
    assert rows["fc"] == ("1000", "")
    assert [path for path, (_, tapped) in rows.items() if tapped == "tapped"] == [f"layer{n}" for n in range(1, 5)]
    network = skeleton(find_model("resnet18"))
    assert set(rows) == {path for path, _ in network.named_modules() if path}
    assert next(iter(rows)) == "conv1"


def test_listing_is_at_the_size_of_the_networks_own_images() -> None:
    rows = {path: shape for path, shape, _ in listing("timm/test_vit")}
    assert (rows["patch_embed"], rows["blocks.5"], rows["head"]) == ("10 x 10 x 64", "101 x 64", "1000")  # 160 / 16
    assert {path: shape for path, shape, _ in listing("facenet")}["block8"] == "1792 x 3 x 3"


def test_listing_marks_what_cannot_be_tapped() -> None:
    rows = {path: (shape, tapped) for path, shape, tapped in listing("timm/swin_tiny_patch4_window7_224")}
    assert rows["layers.0.blocks.0.attn"] == ("-", "")
    assert rows["layers.0"] == ("56 x 56 x 96", "tapped")


# --- the stages of networks by address ---


def numbered(path: str, numbers: tuple[int, ...], width: int) -> dict[str, int]:
    return {f"{path}.{number}": width for number in numbers}


LAST = (9, 10, 11)
STAGES: dict[str, tuple[dict[str, int], str, int]] = {
    "timm/vit_base_patch14_dinov2.lvd142m": (numbered("blocks", LAST, 768), "class", 1),
    "timm/vit_small_patch14_reg4_dinov2.lvd142m": (numbered("blocks", LAST, 384), "class", 5),
    "timm/vit_small_patch16_dinov3.lvd1689m": (numbered("blocks", LAST, 384), "mean", 5),
    "timm/vit_base_patch16_siglip_224.v2_webli": (numbered("blocks", LAST, 768), "mean", 0),
    "timm/convnext_tiny": ({"stages.0": 96, "stages.1": 192, "stages.2": 384, "stages.3": 768}, "mean", 0),
    "timm/eva02_tiny_patch14_224.mim_in22k": (numbered("blocks", LAST, 192), "mean", 1),
    "timm/deit3_small_patch16_224": (numbered("blocks", LAST, 384), "class", 1),
    "timm/swin_tiny_patch4_window7_224": (
        {"layers.0": 96, "layers.1": 192, "layers.2": 384, "layers.3": 768}, "mean", 0
    ),
    "timm/resnet18": ({"act1": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}, "mean", 0),
    "timm/efficientnet_b0": (
        {"blocks.0": 16, "blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320}, "mean", 0
    ),
    "open_clip/ViT-L-14/openai": (numbered("transformer.resblocks", (21, 22, 23), 1024), "class", 1),
    "open_clip/RN50/openai": (
        {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048, "attnpool": 1024}, "mean", 0
    ),
    "open_clip/ViT-B-16-SigLIP2/webli": (numbered("trunk.blocks", LAST, 768), "mean", 0),
    "open_clip/EVA02-B-16/merged2b_s8b_b131k": (numbered("trunk.blocks", LAST, 768), "class", 1),
    "open_clip/convnext_base_w/laion2b_s13b_b82k": (
        {"trunk.stages.0": 128, "trunk.stages.1": 256, "trunk.stages.2": 512, "trunk.stages.3": 1024}, "mean", 0
    ),
    "torchvision/resnet18": ({"relu": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}, "mean", 0),
    "torchvision/convnext_tiny": (
        {"features.1": 96, "features.3": 192, "features.5": 384, "features.7": 768}, "mean", 0
    ),
    "torchvision/regnet_y_400mf": (
        {
            "stem": 32, "trunk_output.block1": 48, "trunk_output.block2": 104, "trunk_output.block3": 208,
            "trunk_output.block4": 440,
        },
        "mean", 0,
    ),
    "torchvision/swin_t": ({"features.1": 96, "features.3": 192, "features.5": 384, "permute": 768}, "mean", 0),
    "torchvision/vit_b_16": (
        {f"encoder.layers.encoder_layer_{number}": 768 for number in LAST}, "class", 1
    ),
    "torchvision/densenet121": (
        {
            "features.relu0": 64, "features.denseblock1": 256, "features.denseblock2": 512,
            "features.denseblock3": 1024, "features.norm5": 1024,
        },
        "mean", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("address", STAGES)
def test_network_by_address_is_tapped_at_its_stages_and_pooled_as_it_pools_itself(address: str) -> None:
    layers, tokens, prefix = STAGES[address]
    model = resolve(address)
    assert dict(model.layers) == layers
    assert list(model.layers) == list(layers)
    assert (model.tokens, model.prefix, model.width) == (tokens, prefix, sum(layers.values()))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "vit_base_patch16_224", "mobilenetv3_small_050"])
def test_stages_are_those_of_timms_feature_interface(name: str) -> None:
    """Its networks for features alone give as many maps, of as many channels."""
    with torch.device("meta"):
        features: Any = timm.create_model(name, features_only=True).eval()
    maps = features(torch.zeros(1, 3, 224, 224, device="meta"))
    assert list(resolve(f"timm/{name}").layers.values()) == [one.shape[1] for one in maps]
    assert feature_layers(name) == list(resolve(f"timm/{name}").layers)


def test_network_without_stages_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What timm raises for a network without a feature interface; today each of them has one."""

    def raising(*_: object, **__: object) -> nn.Module:
        raise RuntimeError("features_only not implemented for this model")

    monkeypatch.setattr(timm, "create_model", raising)
    with pytest.raises(InputError, match=r"timm/x: timm names no stages of it; name layers with --layers"):
        feature_layers("x")


def test_named_layers_of_a_network_by_address_are_pooled_as_it_pools_itself() -> None:
    model = resolve("timm/vit_small_patch14_reg4_dinov2", ["norm", "blocks.0"])
    assert (dict(model.layers), model.tokens, model.prefix) == ({"norm": 384, "blocks.0": 384}, "class", 5)
    assert resolve("clip_vit32_b", ["transformer.resblocks.1*"]).width == 3 * 768


# --- tokens ---


def test_tokens_are_pooled_as_the_user_says() -> None:
    row = find_model("dino_vits16")
    assert resolve("dino_vits16", tokens="mean") == replace(row, tokens="mean")
    assert resolve("dino_vits16", tokens="class") == row
    other = resolve("timm/eva02_tiny_patch14_224.mim_in22k", tokens="class")
    assert (other.tokens, other.prefix) == ("class", 1)
    assert resolve("resnet18", tokens="mean") == find_model("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "timm/vit_base_patch16_siglip_224.v2_webli", "torchvision/swin_t"])
def test_class_token_of_a_network_without_one_is_refused(name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(name, tokens="class")
    assert str(caught.value) == f"{name}: has no class token; --tokens mean is possible"


@pytest.mark.parametrize("name", ["timm/cait_xxs24_224", "timm/xcit_nano_12_p8_224"])
def test_network_that_adds_its_class_token_late_is_not_taken_to_have_it_before(name: str) -> None:
    model = resolve(name)
    assert (model.tokens, model.prefix) == ("mean", 0)


def test_layer_before_the_class_token_has_patches_alone() -> None:
    model = resolve("dino_vits16", ["patch_embed"])
    assert (model.tokens, model.prefix) == ("mean", 0)
    with pytest.raises(InputError, match="has no class token"):
        resolve("dino_vits16", ["patch_embed"], tokens="class")


@pytest.mark.parametrize("patterns", [["patch_embed", "norm"], ["norm", "blocks.0", "patch_embed"]])
def test_layers_with_and_without_a_class_token_are_not_tapped_together(patterns: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        resolve("dino_vits16", patterns)
    told = "layer patch_embed seems to have no class token yet, and norm has one; tap them apart with --layers"
    assert str(caught.value) == f"dino_vits16: {told}"


def test_layers_are_listed_where_the_librarys_stages_are_none() -> None:
    """The network of which they are most needed: it cannot be tapped without --layers."""
    with pytest.raises(InputError, match=r"layer transformers\.0 does not give one tensor"):
        resolve("timm/pit_ti_224")
    rows = {path: shape for path, shape, _ in listing("timm/pit_ti_224")}
    assert rows["patch_embed"] == "64 x 27 x 27"
    assert rows["transformers.0"] == "-"


def test_transformer_of_larger_images_is_built_for_them() -> None:
    model = resolve("torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    assert (model.preprocessing.crop, model.options) == (384, {"image_size": 384})
