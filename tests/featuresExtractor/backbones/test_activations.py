"""Taps on a backbone, beside plain loops, a network that can be computed by hand, and the libraries' own features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from featuresExtractor.backbones.activations import (
    LayerReader,
    Reduce,
    bytes_per_image,
    channels,
    channels_last,
    pooled,
    pooled_and_normalised,
    pooling_of,
    raw,
    read_layers,
)
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.weights.loading import Weights, load_backbone
from featuresExtractor.models import Backbone, find_model
from featuresExtractor.processor import PROCESSORS

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 4, 3),
            middle=nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 5, 1)),
            last=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 6)),
        )
    ).eval()


def hooks(backbone: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in backbone.modules())


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 8, 6, generator=torch.Generator().manual_seed(1))


def test_map_is_the_mean_over_space_of_unit_length() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 5, 3, 4))
    result = pooled_and_normalised(torch.from_numpy(maps))
    assert (result.shape, result.dtype) == ((2, 5), torch.float32)
    for n in range(2):
        means = [sum(maps[n, c, h, w] for h in range(3) for w in range(4)) / 12 for c in range(5)]
        length = sum(mean * mean for mean in means) ** 0.5
        assert result[n].tolist() == pytest.approx([mean / length for mean in means], abs=1e-6)


def test_vector_is_of_unit_length_too() -> None:
    result = pooled_and_normalised(torch.tensor([[3.0, -4.0], [0.0, 2.0]]))
    assert result.tolist() == pytest.approx(np.array([[0.6, -0.8], [0.0, 1.0]]))


def test_layer_that_is_silent_gives_zeros_and_not_nan() -> None:
    assert pooled_and_normalised(torch.zeros(1, 3, 2, 2)).tolist() == [[0.0, 0.0, 0.0]]


def test_half_precision_is_pooled_in_fp32() -> None:
    maps = torch.full((1, 2, 64, 64), 60000.0, dtype=torch.float16)  # their sum is beyond fp16
    assert pooled_and_normalised(maps).tolist() == pytest.approx(np.full((1, 2), 0.5**0.5))


def test_layers_come_in_the_order_asked_for() -> None:
    backbone = network()
    middle, last, first = LayerReader(backbone, ("middle.1", "last", "first"))(images())
    assert (middle.shape, last.shape, first.shape) == ((2, 5), (2, 6), (2, 4))
    assert torch.allclose(last, nn.functional.normalize(backbone(images()), dim=1))


def test_activation_is_reduced_before_a_later_layer_changes_it() -> None:
    backbone = network()
    (first,) = LayerReader(backbone, ("first",), reduce=lambda output: output.clone())(images())
    assert torch.equal(first, backbone[0](images()))
    assert (first < 0).any()  # the ReLU behind it works in place


def test_taps_do_not_pile_up_and_outlast_a_failure() -> None:
    backbone = network()
    taps = LayerReader(backbone, ("first", "last"))
    expected = taps(images())
    assert hooks(backbone) == 2
    with pytest.raises(RuntimeError):
        taps(torch.zeros(1, 2, 8, 6))
    assert taps.activations == {}  # nothing of an image is held
    taps.fold(images())
    assert hooks(backbone) == 2
    for found, layer in zip(taps(images()), expected, strict=True):
        assert torch.equal(found, layer)
    assert taps.activations == {}


@pytest.mark.parametrize("layer", ["0", "1", "1.act", "2", "3", "3.0"])
def test_taps_see_the_same_after_batch_norms_were_folded(layer: str) -> None:
    """A convolution, a norm that is gone afterwards, the activation within one, and what holds a convolution."""
    norm = BatchNormAct2d(4)
    five, six = nn.BatchNorm2d(5), nn.BatchNorm2d(6)
    pair, held = nn.Sequential(nn.Conv2d(4, 5, 1), five), nn.Sequential(nn.Conv2d(5, 6, 1))
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), norm, pair, held, six).double()
    for one in (norm, five, six):
        assert one.running_mean is not None
        assert one.running_var is not None
        one.running_mean.normal_(generator=torch.Generator().manual_seed(0))
        one.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    taps = LayerReader(backbone.eval(), (layer, "4"), reduce=lambda output: output.clone())
    batch = images().double()
    with torch.inference_mode():
        expected = taps(batch)
        # What is wanted itself is left alone; where it is known by the name of what holds it, all is as it was.
        assert taps.fold(images(1).double()) == {"0": 2, "3": 0, "3.0": 2}.get(layer, 3)
        for found, before in zip(taps(batch), expected, strict=True):
            assert torch.allclose(found, before, rtol=1e-12, atol=1e-12)
    assert hooks(backbone) == 2


def test_layers_are_joined_side_by_side_or_left_alone_without_gradients() -> None:
    taps = LayerReader(network(), ("first", "middle", "last"))
    (features,), alone = read_layers(taps, images(3)), read_layers(taps, images(3), joined=False)
    assert torch.equal(features, torch.cat(taps(images(3)), dim=1))
    assert (features.shape, features.requires_grad) == ((3, 4 + 5 + 6), False)
    assert torch.allclose(features.norm(dim=1), torch.full((3,), 3**0.5))
    assert [layer.shape for layer in alone] == [(3, 4), (3, 5), (3, 6)]
    assert torch.equal(torch.cat(alone, dim=1), features)


def test_memory_is_counted_at_the_module_that_holds_most() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 20, 1), nn.Conv2d(20, 1, 1))
    pixels = 8 * 6
    assert bytes_per_image(backbone, images(1)) == 2 * (4 + 20) * pixels * 4
    assert hooks(backbone) == 0


# --- maps and tokens of every layout ---


def counted(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape))).view(shape)


def test_of_tokens_the_class_token_or_the_mean_behind_the_prefix_is_taken() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    given = torch.from_numpy(tokens)
    for prefix in (0, 1, 5):
        means = [[sum(tokens[n, t, c] for t in range(prefix, 7)) / (7 - prefix) for c in range(3)] for n in range(2)]
        assert pooled(given, "mean", prefix).numpy() == pytest.approx(np.array(means), abs=1e-6)
        assert torch.equal(pooled(given, "class", prefix), given[:, 0])
    assert pooled_and_normalised(given, "class", 1).norm(dim=1).tolist() == pytest.approx([1, 1])
    assert torch.equal(pooled(given), pooled(given, "mean", 0))


def test_map_with_its_channels_last_is_pooled_as_the_same_map_with_them_first() -> None:
    first = counted(2, 5, 4, 4)
    last = first.permute(0, 2, 3, 1)
    assert (channels_last(first.shape[1:]), channels_last(last.shape[1:])) == (False, True)
    assert torch.equal(pooled(last), pooled(first))
    assert pooled(first)[1, 2].item() == first[1, 2].sum().item() / 16


@pytest.mark.parametrize(
    ("shape", "count"),
    [((9,), 9), ((50, 12), 12), ((12, 7, 7), 12), ((7, 7, 12), 12), ((2, 7, 7), 2), ((7, 7, 2), 2), ((8, 8, 8), 8),
     ((1, 1, 16), 16), ((16, 1, 1), 16)],
)  # fmt: skip
def test_channels_are_as_many_as_numbers_are_pooled(shape: tuple[int, ...], count: int) -> None:
    assert channels(shape) == count
    assert pooled(torch.zeros(2, *shape)).shape == (2, count)


def test_map_as_high_and_wide_as_it_has_channels_has_them_first() -> None:
    cube = counted(1, 3, 3, 3)
    assert pooled(cube)[0].tolist() == [cube[0, channel].mean().item() for channel in range(3)]


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5, 6)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^activation of shape \(.*\); a map, tokens or a vector can be pooled$"):
        pooled(torch.ones(shape))


def test_raw_activation_is_as_it_was_in_fp32_and_in_plain_order() -> None:
    given = counted(2, 3, 4, 5).half().to(memory_format=torch.channels_last)
    result = raw(given)
    assert (result.dtype, result.is_contiguous(), result.shape) == (torch.float32, True, (2, 3, 4, 5))
    assert torch.equal(result, given.float())


def test_recipe_pools_tokens_as_the_model_says(tiny_model: Backbone) -> None:
    tokens = counted(2, 6, 3)
    means = replace(tiny_model, tokens="mean", prefix=2)
    assert torch.equal(pooling_of(PROCESSORS["pca"], replace(means, tokens="class"))(tokens), tokens[:, 0])
    assert torch.equal(pooling_of(PROCESSORS["pca"], means)(tokens), tokens[:, 2:].mean(1))
    unit = tokens[:, 2:].mean(1) / tokens[:, 2:].mean(1).norm(dim=1, keepdim=True)
    assert torch.allclose(pooling_of(PROCESSORS["adapt"], means)(tokens), unit)
    assert torch.equal(pooling_of(PROCESSORS["save"], means)(tokens), tokens)


# --- real networks, beside what their libraries say of them ---


Reference = Callable[[Any, Tensor], Sequence[Tensor]]


def mean_of_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    return [one.mean((2, 3)) for one in maps]


def stages_of_timm(network: Any, images: Tensor) -> list[Tensor]:
    return mean_of_maps(network.forward_intermediates(images, intermediates_only=True))


def four_of_timm(network: Any, images: Tensor) -> list[Tensor]:
    return stages_of_timm(network, images)[1:]


def bit(network: Any, images: Tensor) -> list[Tensor]:
    last, stages = network.forward_intermediates(images, norm=True)
    return mean_of_maps([*stages[1:4], last])


def pre_logits(network: Any, images: Tensor) -> list[Tensor]:
    return [network.forward_head(network.forward_features(images), pre_logits=True)]


def lite(network: Any, images: Tensor) -> list[Tensor]:
    stages = network.forward_intermediates(images, intermediates_only=True)
    return mean_of_maps([*stages, network.bn2(network.conv_head(stages[-1]))])


def last_class_token(network: Any, images: Tensor) -> list[Tensor]:
    *_, (_, prefix) = network.forward_intermediates(
        images, norm=True, return_prefix_tokens=True, intermediates_only=True
    )
    return [prefix[:, 0]]


def headless(network: Any, images: Tensor) -> list[Tensor]:
    """DINO's transformers have no head: what they give is the class token."""
    return [network(images)]


def clip_resnet(tower: Any, images: Tensor) -> list[Tensor]:
    found = tower.forward_intermediates(images)
    return [*mean_of_maps(found["image_intermediates"][1:]), found["image_features"]]


def clip_token(tower: Any, images: Tensor) -> list[Tensor]:
    """The last block's class token behind the last norm; projected, it is what the tower gives."""
    found = tower.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_extra_tokens=True, intermediates_only=True
    )
    (token,) = found["image_intermediates_prefix"]
    assert torch.allclose(token[:, 0] @ tower.proj, tower(images), atol=1e-5)
    return [token[:, 0]]


def graph_of(*layers: str) -> Reference:
    """torchvision's own feature extractor, which traces the network anew."""

    def features(network: Any, images: Tensor) -> list[Tensor]:
        return mean_of_maps(list(create_feature_extractor(network, list(layers))(images).values()))

    return features


def facenet(network: Any, images: Tensor) -> list[Tensor]:
    names = (
        "conv2d_1a conv2d_2a conv2d_2b maxpool_3a conv2d_3b conv2d_4a conv2d_4b repeat_1 mixed_6a repeat_2 mixed_7a "
        "repeat_3 block8"
    )
    for name in names.split():
        images = getattr(network, name)(images)
    return [images.mean((2, 3))]


def prefix_tokens(network: Any, images: Tensor) -> list[Tensor]:
    found = network.forward_intermediates(images, indices=3, return_prefix_tokens=True, intermediates_only=True)
    return [prefix[:, 0] for _, prefix in found]


def patch_tokens(network: Any, images: Tensor) -> list[Tensor]:
    return mean_of_maps(network.forward_intermediates(images, indices=3, intermediates_only=True))


def clip_blocks(tower: Any, images: Tensor) -> list[Tensor]:
    found = tower.forward_intermediates(images, indices=3, output_extra_tokens=True, intermediates_only=True)
    return [prefix[:, 0] for prefix in found["image_intermediates_prefix"]]


def clip_patches(tower: Any, images: Tensor) -> list[Tensor]:
    found = tower.forward_intermediates(images, indices=3, intermediates_only=True)
    return mean_of_maps(found["image_intermediates"])


def swin_of_torchvision(network: Any, images: Tensor) -> list[Tensor]:
    found = []
    for number, stage in enumerate(network.features):
        images = stage(images)
        if number in (1, 3, 5):
            found.append(images.mean((1, 2)))
    return [*found, network.norm(images).mean((1, 2))]


def tokens_of_torchvision(network: Any, images: Tensor) -> list[Tensor]:
    layers = [f"encoder.layers.encoder_layer_{number}" for number in (9, 10, 11)]
    return [tokens[:, 0] for tokens in create_feature_extractor(network, layers)(images).values()]


@lru_cache(maxsize=1)
def awake(library: str, architecture: str, tag: str, options: tuple[tuple[str, object], ...]) -> nn.Module:
    """A network with random weights of which none is nearly zero, as the scales of residual paths are at first: what
    such a path does would not show."""
    row = find_model("resnet18")
    model = replace(row, library=library, architecture=architecture, tag=tag, options=dict(options))
    backbone = load_backbone(model, Weights("random", seed=0))
    generator = torch.Generator().manual_seed(0)
    for weight in backbone.parameters():
        if weight.abs().max() < 1e-3:
            weight.normal_(std=0.2, generator=generator)
    return backbone


@pytest.mark.parametrize(
    ("name", "tokens", "side", "reference"),
    [
        # a row of every family of the table
        ("clip_rn50", None, 224, clip_resnet),
        ("resnet18", None, 64, graph_of("layer1", "layer2", "layer3", "layer4")),
        ("alexnet", None, 96, graph_of("features")),
        ("efficientnet_b0", None, 64, pre_logits),
        ("bit_m_r50x1", None, 64, bit),
        ("facenet", None, 96, facenet),
        ("vit_base_patch16_224", None, 224, last_class_token),
        ("swsl_resnet50", None, 64, four_of_timm),
        ("ssl_resnet50", None, 64, four_of_timm),
        ("wsl_resnext101_32x8d", None, 32, four_of_timm),
        ("barlow", None, 64, four_of_timm),
        ("dino_resnet50", None, 64, four_of_timm),
        ("dino_vits16", None, 224, headless),
        ("efficientnet_lite0", None, 64, lite),
        ("clip_vit32_b", None, 224, clip_token),
        # networks by their address
        ("open_clip/ViT-B-32/openai", None, 224, clip_blocks),
        ("open_clip/ViT-B-32/openai", "mean", 224, clip_patches),
        ("timm/test_resnet", None, 64, stages_of_timm),
        ("timm/resnet18.a1_in1k", None, 64, stages_of_timm),
        ("timm/test_convnext", None, 64, stages_of_timm),
        ("timm/swin_tiny_patch4_window7_224", None, 224, stages_of_timm),  # (H, W, C)
        ("timm/test_vit", None, 160, prefix_tokens),
        ("timm/test_vit", "mean", 160, patch_tokens),
        ("timm/test_vit2", None, 160, patch_tokens),  # has a class token that its own head does not look at
        ("timm/vit_small_patch14_reg4_dinov2", None, 98, prefix_tokens),  # a class token and four registers
        ("timm/vit_small_patch14_reg4_dinov2", "mean", 98, patch_tokens),
        ("timm/vit_tiny_patch16_dinov3_qkvb", None, 64, patch_tokens),
        ("timm/vit_tiny_patch16_dinov3_qkvb", "class", 64, prefix_tokens),
        ("torchvision/convnext_tiny", None, 64, graph_of("features.1", "features.3", "features.5", "features.7")),
        ("torchvision/swin_t", None, 64, swin_of_torchvision),  # (H, W, C), but for the last
        ("torchvision/vit_b_16", None, 224, tokens_of_torchvision),
    ],
)
def test_features_are_those_that_the_library_gives(
    name: str, tokens: str | None, side: int, reference: Reference
) -> None:
    """No number differs by more than a rounding, and all directions are the same."""
    model = resolve(name, tokens=tokens)
    options = {**model.options, "img_size": side} if "reg4" in name else model.options  # at 518 it takes its time
    backbone = awake(model.library, model.architecture, model.tag, tuple(options.items()))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images[1] = 5 * images[1] + 2  # deep random networks hardly tell two images of noise apart

    def both(activation: Tensor) -> Tensor:
        return torch.stack([pooling_of(PROCESSORS[name], model)(activation) for name in ("pca", "adapt")], dim=1)

    with torch.inference_mode():
        expected = reference(backbone, images)
    found = read_layers(LayerReader(backbone, tuple(model.layers), both), images, joined=False)
    assert [layer.shape for layer in found] == [(2, 2, width) for width in model.layers.values()]
    for layer, truth in zip(found, expected, strict=True):
        assert torch.isfinite(layer).all()
        assert (layer[:, 0] - truth).abs().max() <= 1e-5 * truth.abs().max()
        assert layer[:, 1].norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
        assert nn.functional.cosine_similarity(layer[:, 1].double(), truth.double()).min() >= 0.999999
        assert (truth[0] - truth[1]).abs().max() > 1e-4 * truth.abs().max()  # or one image could pass for the other


def first_place(activation: Tensor) -> Tensor:
    """Pooled by a function that returns a part of what it was given."""
    return pooled(activation, pool=lambda maps: maps[:, :, 0, 0])


@pytest.mark.parametrize("reduce", [raw, pooled, first_place])
def test_what_follows_in_place_does_not_change_what_was_tapped(reduce: Reduce) -> None:
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 6, 8), nn.ReLU(inplace=True))
    with torch.inference_mode():
        (found,) = LayerReader(backbone, ("1",), reduce)(images(3))
        assert torch.equal(found, backbone[1](images(3).flatten(1)))
    assert (found < 0).any()


@pytest.mark.parametrize("factor", [1e-30, 1e19, 1e25])
def test_layers_whose_squares_no_float_holds_have_unit_length_all_the_same(factor: float) -> None:
    maps = torch.rand(3, 5, 4, 4, generator=torch.Generator().manual_seed(0)) * factor
    means = maps.double().mean((2, 3))
    torch.testing.assert_close(pooled_and_normalised(maps), (means / means.norm(dim=1, keepdim=True)).float())
