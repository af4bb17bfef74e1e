"""What layers need of a network: each tensor is made NaN in turn, and the activations say whether they depend on it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from featuresExtractor.backbones.activations import LayerReader, pooled
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.libraries.table import skeleton
from featuresExtractor.backbones.weights.loading import random_network
from featuresExtractor.backbones.weights.needs import Needs, needs
from featuresExtractor.models import Backbone, find_model

pytestmark = pytest.mark.usefixtures("one_thread")


def needs_of(model: Backbone) -> Needs:
    return needs(model, skeleton(model))


def depends(tap: LayerReader, images: Tensor, tensor: Tensor) -> bool:
    """Whether an activation is NaN when the tensor is."""
    before = tensor.clone()
    tensor.fill_(torch.nan)
    with torch.inference_mode():
        found = any(bool(layer.isnan().any()) for layer in tap(images))
    tensor.copy_(before)
    return found


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("timm/test_resnet", ["layer1"]),
        ("timm/test_resnet", ["layer3", "layer2.0"]),
        ("timm/test_resnet", ["fc"]),
        ("timm/test_efficientnet", []),
        ("timm/test_vit", ["blocks.2"]),
        ("timm/test_vit2", ["norm"]),
        ("timm/test_vit_relpos", ["blocks.1"]),
        ("timm/test_convnext", []),
    ],
)
def test_needed_is_what_activations_depend_on(name: str, layers: list[str]) -> None:
    model = resolve(name, layers)
    network = random_network(model, 0).eval().requires_grad_(False)
    size = model.preprocessing.crop
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    tap = LayerReader(network, tuple(model.layers), pooled)
    tensors = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    needed = {key for key, value in tensors.items() if depends(tap, images, value)}
    assert needs_of(model).tensors == needed
    assert 0 < len(needed) <= len(tensors)


@pytest.mark.parametrize("name", ["clip_vit32_b", "clip_rn50", "torchvision/vit_b_16"])
def test_weights_of_modules_that_attention_never_calls_are_needed(name: str) -> None:
    """torch's attention is given the weights of `out_proj`, and CLIP's pooling those of three projections."""
    model = resolve(name)
    bones = skeleton(model)
    projections = {key for key in bones.state_dict() if "_proj." in key and not key.startswith("conv_proj")}
    assert projections
    assert projections <= needs(model, bones).tensors


def test_projection_behind_the_class_token_is_not_needed() -> None:
    bones = skeleton(find_model("clip_vit32_b"))
    assert bones.state_dict().keys() - needs(find_model("clip_vit32_b"), bones).tensors == {"proj"}


def test_without_layers_all_is_needed_but_what_is_counted(tiny_model: Backbone) -> None:
    model = resolve("timm/test_resnet", ["layer1"])
    whole = replace(model, layers={})
    keys = skeleton(whole).state_dict().keys()
    assert needs_of(whole).tensors == {key for key in keys if not key.endswith("num_batches_tracked")}
    assert needs_of(whole).behind == set()


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("fc.scale", True),
        ("layer4.0.conv1.weight", True),
        ("layer4.9.conv1.weight", True),
        ("projector.0.weight", True),
        ("layer3.0.se.weight", False),
        ("layer3.7.conv1.weight", False),
        ("conv1.alpha", False),
        ("bn1.0.weight", False),
        ("token", False),
    ],
)
def test_tensor_that_the_network_does_not_have_is_behind_its_layers_or_not(name: str, behind: bool) -> None:
    assert needs_of(resolve("timm/test_resnet", ["layer3"])).is_behind(name) is behind


def test_skeleton_is_left_without_hooks(tiny_model: Backbone) -> None:
    bones = skeleton(tiny_model)
    needs(tiny_model, bones)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bones.modules())


class Twice(nn.Module):
    """Calls its one layer before and after another, so that the last call counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.first(self.second(self.first(images))))
        return found


def test_layer_that_runs_twice_needs_what_comes_between(tiny_model: Backbone) -> None:
    model = replace(tiny_model, layers={"first": 3})
    found = needs(model, Twice().eval())
    assert found.tensors == {f"{name}.{kind}" for name in ("first", "second") for kind in ("weight", "bias")}
    assert found.behind == {"head"}
