"""Names that lead nowhere: what is suggested leads somewhere, and to the network that people call so."""

from __future__ import annotations

import re
import sys

import pytest

from featuresExtractor.backbones.layers import describe
from featuresExtractor.backbones.suggestions import MOST, addresses, did_you_mean
from featuresExtractor.models import BACKBONES

ROWS = [model.name for model in BACKBONES]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("dinov2", "timm/vit_base_patch14_dinov2.lvd142m"),
        ("DINOv2", "timm/vit_base_patch14_dinov2.lvd142m"),
        ("dinov2_vitb14", "timm/vit_base_patch14_dinov2.lvd142m"),  # as its authors' hub calls it
        ("dinov2-base", "timm/vit_base_patch14_dinov2.lvd142m"),
        ("dinov3", "timm/vit_base_patch16_dinov3.lvd1689m"),
        ("convnext", "timm/convnext_base.fb_in22k_ft_in1k"),
        ("siglip2", "open_clip/ViT-B-16-SigLIP2/webli"),
        ("ViT-L-14", "open_clip/ViT-L-14/openai"),
        ("ViT-B/16", "open_clip/ViT-B-16/openai"),
        ("swin", "torchvision/swin_b"),
        ("vgg16", "timm/vgg16.tv_in1k"),
        ("efficientnet_b4", "timm/efficientnet_b4.ra2_in1k"),
        ("convnxt_base", "timm/convnext_base.fb_in22k_ft_in1k"),
    ],
)
def test_the_plain_base_model_comes_first_and_all_addresses_lead_somewhere(name: str, first: str) -> None:
    found = addresses(name)
    assert found[0] == first
    assert 1 <= len(found) <= MOST
    assert len(set(found)) == len(found)
    assert all(describe(address).weights for address in found)


@pytest.mark.parametrize("name", ["", "zzz", "-", "moco", "x" * 10**4, "(", "bar"])
def test_nothing_is_made_up(name: str) -> None:
    assert addresses(name) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("resnet5", "; did you mean 'resnet50', 'timm/resnet50.a1_in1k', 'torchvision/resnet50' or 'timm/resnet50c."),
        ("ResNet-50", "; did you mean 'resnet50'?"),
        ("clip", "; did you mean 'clip_rn50x4', 'clip_rn50', 'open_clip/"),
        ("efficientnet_b4", "; did you mean 'timm/efficientnet_b4.ra2_in1k', 'torchvision/efficientnet_b4', "),
        ("dinov2", "; did you mean 'timm/vit_base_patch14_dinov2.lvd142m', "),
        ("barlow_twins", "; did you mean 'barlow'?"),
        ("zzz", ";"),
        ("", ";"),
    ],
)
def test_rows_of_the_table_are_suggested_too(name: str, line: str) -> None:
    meant = did_you_mean(name, ROWS)
    assert meant.startswith(line)
    assert len(re.findall(r"'[^']+'", meant)) <= MOST + 2


def test_row_that_is_a_little_like_the_name_comes_last() -> None:
    assert re.search(r" or 'dino_\w+'\?$", did_you_mean("dinov2", ROWS))


def test_library_that_is_missing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    assert addresses("convnext") == [
        "torchvision/convnext_base",
        "torchvision/convnext_tiny",
        "torchvision/convnext_large",
    ]
