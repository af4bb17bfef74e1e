"""The table of backbones says what the networks do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.errors import InputError
from featuresExtractor.activations import TappedBackbone
from featuresExtractor.models import HEADER, MODELS, find_model, listing
from featuresExtractor.weights import build

WIDTHS = {"clip_rn50x4": 5440, "efficientnet_lite0": 1792}
NAMES = [model.name for model in MODELS]


def test_names_are_distinct_and_all_are_found() -> None:
    assert sorted(NAMES) == sorted(WIDTHS)
    assert [find_model(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_width_is_that_of_the_published_features(name: str) -> None:
    assert find_model(name).width == WIDTHS[name]


@pytest.mark.parametrize("name", NAMES)
def test_layers_give_as_many_numbers_as_the_table_says(name: str, clip: nn.Module) -> None:
    model = find_model(name)
    network = clip.visual if name == "clip_rn50x4" else build(model, 0).eval()
    assert isinstance(network, nn.Module)
    side = model.preprocessing.crop
    with torch.inference_mode():
        outputs = TappedBackbone(network, tuple(model.layers))(torch.zeros(1, 3, side, side))
    assert [tuple(output.shape) for output in outputs] == [(1, width) for width in model.layers.values()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_rn50", "unknown model 'clip_rn50'; did you mean 'clip_rn50x4'? extract.py --list-models shows all"),
        ("zzz", "unknown model 'zzz'; extract.py --list-models shows all"),
        ("", "unknown model ''; extract.py --list-models shows all"),
    ],
)
def test_unknown_model_is_told_with_the_nearest_one(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_model(name)
    assert str(caught.value) == message


def test_listing_has_a_row_for_each_model_under_the_header() -> None:
    rows = [dict(zip(HEADER, row, strict=True)) for row in listing()]
    assert rows[NAMES.index("clip_rn50x4")] == {
        "model": "clip_rn50x4",
        "family": "CLIP",
        "width": "5,440",
        "input": "288 px",
        "layers": "layer1 layer2 layer3 layer4 attnpool",
        "weights": "openai",
        "licence": "MIT",
    }
    assert [row["model"] for row in rows] == NAMES
