"""The guide's examples of a backbone and of a library, run by the real command, beside torchvision's own network."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

import extract
from featuresExtractor import models
from featuresExtractor.backbones.layers import named
from featuresExtractor.backbones.libraries import table

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SEGMENTATION = "segmentation/lraspp_mobilenet_v3_large"


def examples(heading: str) -> list[str]:
    """The Python code below a heading of the guide."""
    section = GUIDE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of backbones with the example's row."""
    monkeypatch.setattr(models, "BACKBONES", models.BACKBONES)  # and puts it back
    (code,) = examples("A backbone")
    exec(code, vars(models))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The table of libraries with the example's line, and the example's file as a module."""
    file, line = examples("A library that builds backbones")
    module = ModuleType("featuresExtractor.backbones.libraries.segmentation_library")
    exec(file, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(line, vars(table))
    yield
    del table.LIBRARIES["segmentation"], vars(table)["Segmentation"]


def features(model: str, root: Path, out: Path) -> Any:
    """What extract.py writes with weights of seed 0, without flipped views."""
    words = ["-p", "adapt", "--model", model, "--weights", "random", "--cpu", "--no-data-aug"]
    assert extract.main(["-d", str(root), "-s", str(out), *words]) == 0
    return np.load(out / model.replace("/", "-") / "features.npy")


def by_hand(network: nn.Module, layers: list[str], images: Tensor) -> Any:
    """The layers' means over space, each of unit length, by forward hooks."""
    activations: dict[str, Tensor] = {}
    for layer in layers:
        module = network.get_submodule(layer)
        module.register_forward_hook(lambda _m, _i, output, layer=layer: activations.update({layer: output}))
    with torch.inference_mode():
        network.eval()(images)
    return np.hstack([nn.functional.normalize(activations[layer].mean((2, 3))) for layer in layers])


def prepared(paths: list[str], resize: int) -> Tensor:
    """Images as torchvision's evaluation prepares them."""
    own: Any = get_model_weights("resnet50")
    transform = own.IMAGENET1K_V1.transforms(resize_size=resize)
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def check_left(rows: Any, root: Path, network: nn.Module, layers: list[str], resize: int) -> None:
    """The features of the left images are those of the plain network."""
    expected = by_hand(network, layers, prepared([str(root / "left" / name) for name in rows["left_name"]], resize))
    assert rows["left"].shape == expected.shape
    assert np.abs(rows["left"] - expected).max() < 1e-4
    assert np.ptp(rows["left"], axis=0).max() > 1e-3  # images differ


@pytest.mark.usefixtures("row", "one_thread")
def test_example_of_a_backbone_gives_the_features_of_the_plain_network(
    pairs: Callable[..., Path], tmp_path: Path
) -> None:
    root = pairs(2)
    rows = features("resnext50", root, tmp_path / "out")
    torch.manual_seed(0)
    check_left(rows, root, get_model("resnext50_32x4d"), ["layer2", "layer3", "layer4"], 232)
    weights: Any = get_model_weights("resnext50_32x4d")
    assert models.find_model("resnext50").weights == weights.IMAGENET1K_V2.url
    assert models.find_model("resnext50").preprocessing == named("torchvision/resnext50_32x4d").preprocessing


@pytest.mark.usefixtures("library", "one_thread")
def test_example_of_a_library_gives_the_features_of_the_plain_network(
    pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    rows = features(SEGMENTATION, root, tmp_path / "out")
    torch.manual_seed(0)
    network: Any = get_model("lraspp_mobilenet_v3_large", weights_backbone=None)
    with pytest.raises(SystemExit, match="0"):
        extract.main(["--list-layers", SEGMENTATION])
    read = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith("tapped")]
    assert len(read) > 2
    check_left(rows, root, network.backbone, read, 256)


@pytest.mark.usefixtures("library")
def test_name_that_the_example_does_not_know_is_refused_in_one_line(
    pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", str(pairs(2)), "-s", str(tmp_path / "out"), "--weights", "random", "--model", f"{SEGMENTATION}r"]
    assert extract.main(words) == 2
    error = capsys.readouterr().err
    assert f"no segmentation network of torchvision '{SEGMENTATION.partition('/')[2]}r'" in error
    assert error.count("\n") == 1
