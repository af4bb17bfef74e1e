"""Taps on a backbone, beside plain loops and a network small enough to compute by hand."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featuresExtractor.activations import TappedBackbone, bytes_per_image, concatenated, pooled_and_normalised


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
    middle, last, first = TappedBackbone(backbone, ("middle.1", "last", "first"))(images())
    assert (middle.shape, last.shape, first.shape) == ((2, 5), (2, 6), (2, 4))
    assert torch.allclose(last, nn.functional.normalize(backbone(images()), dim=1))


def test_activation_is_reduced_before_a_later_layer_changes_it() -> None:
    backbone = network()
    (first,) = TappedBackbone(backbone, ("first",), reduce=lambda output: output.clone())(images())
    assert torch.equal(first, backbone[0](images()))
    assert (first < 0).any()  # the ReLU behind it works in place


def test_taps_are_gone_after_a_forward_and_after_a_failure() -> None:
    backbone = network()
    tapped = TappedBackbone(backbone, ("first", "last"))
    tapped(images())
    assert hooks(backbone) == 0
    with pytest.raises(RuntimeError):
        tapped(torch.zeros(1, 2, 8, 6))
    assert hooks(backbone) == 0


def test_concatenation_is_side_by_side_and_without_gradients() -> None:
    tapped = TappedBackbone(network(), ("first", "middle", "last"))
    features = concatenated(tapped, images(3))
    assert torch.equal(features, torch.cat(tapped(images(3)), dim=1))
    assert (features.shape, features.requires_grad) == ((3, 4 + 5 + 6), False)
    assert torch.allclose(features.norm(dim=1), torch.full((3,), 3**0.5))


def test_memory_is_counted_at_the_module_that_holds_most() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 20, 1), nn.Conv2d(20, 1, 1))
    pixels = 8 * 6
    assert bytes_per_image(backbone, images(1)) == 2 * (4 + 20) * pixels * 4
    assert hooks(backbone) == 0


def test_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"activation of shape \(2, 5, 3\)"):
        pooled_and_normalised(torch.ones(2, 5, 3))
