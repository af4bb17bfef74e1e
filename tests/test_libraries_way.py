"""The command `extract.py` beside each library's own documented way: its transform, and its feature interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor

import extract

SEED = 3
Way = Callable[[], tuple[Callable[[Any], Tensor], Callable[[Tensor], list[Tensor]]]]
pytestmark = pytest.mark.usefixtures("one_thread")


def way_of_timm() -> tuple[Callable[[Any], Tensor], Callable[[Tensor], list[Tensor]]]:
    """`create_transform` and `forward_intermediates`."""
    network: Any = timm.create_model("resnet18.tv_in1k").eval()
    settings: Any = timm.data.resolve_model_data_config(network)  # type: ignore[attr-defined, no-untyped-call]
    transform: Any = timm.data.create_transform(**settings, is_training=False)  # type: ignore[attr-defined]
    return transform, lambda images: network.forward_intermediates(images, intermediates_only=True)


def way_of_torchvision() -> tuple[Callable[[Any], Tensor], Callable[[Tensor], list[Tensor]]]:
    """The weights' own transforms, and `create_feature_extractor`."""
    network = torchvision.models.resnet18(weights=None).eval()
    taps = create_feature_extractor(network, [f"layer{number}" for number in (1, 2, 3, 4)])
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    return transform, lambda images: list(taps(images).values())


def way_of_open_clip() -> tuple[Callable[[Any], Tensor], Callable[[Tensor], list[Tensor]]]:
    """`create_model_and_transforms`, `forward_intermediates` of its visual tower, and `encode_image`."""
    made: Any = open_clip.create_model_and_transforms("RN50", force_quick_gelu=True)
    network, transform = made[0].eval(), made[2]

    def layers(images: Tensor) -> list[Tensor]:
        found = network.visual.forward_intermediates(images, indices=[1, 2, 3, 4], intermediates_only=True)
        return [*found["image_intermediates"], network.encode_image(images)]

    return transform, layers


@pytest.mark.parametrize(
    ("model", "way"),
    [("timm/resnet18.tv_in1k", way_of_timm), ("resnet18", way_of_torchvision), ("clip_rn50", way_of_open_clip)],
)
def test_features_are_those_of_the_librarys_own_way(
    model: str, way: Way, image: Callable[..., Path], tmp_path: Path
) -> None:
    paths = [
        image(tmp_path / "pairs" / side / f"{name}.png", (260 + 90 * number, 301 - 60 * number), number)
        for number, (side, name) in enumerate([("left", "a"), ("left", "b"), ("right", "a"), ("right", "b")])
    ]
    words = ["-d", str(tmp_path / "pairs"), "-s", str(tmp_path / "out"), "--model", model, "-p", "adapt", "--cpu"]
    assert extract.main([*words, "--weights", "random", "--seed", str(SEED), "--no-data-aug"]) == 0
    (file,) = (tmp_path / "out").glob("*/features.npy")
    rows = np.load(file)
    found = torch.from_numpy(np.concatenate([rows["left"], rows["right"]]))
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(SEED)
        transform, layers = way()
        maps = layers(torch.stack([transform(Image.open(path).convert("RGB")) for path in paths]))
    expected = torch.cat([F.normalize(one.mean((2, 3)) if one.ndim == 4 else one, dim=1) for one in maps], dim=1)
    assert found.shape == expected.shape
    assert (F.cosine_similarity(found.double(), expected.double()) >= 0.999999).all()
    assert (found - expected).abs().max() < 1e-5
    others = F.cosine_similarity(found[:, None].double(), expected[None].double(), dim=2) - torch.eye(4)
    assert others.max() < 0.99999  # or another image would do as well
