"""The guide's example of a processor, run by the real commands, beside numpy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import extract
import train
from featuresExtractor import processor
from featuresExtractor.pca import load_pca

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
Extract = Callable[..., Path]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of the module with the example at its end, as the guide asks for it."""
    section = GUIDE.read_text(encoding="utf-8").partition("## A processor\n")[2].partition("\n## ")[0]
    code = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0]
    names = vars(processor)
    before = dict(names)
    monkeypatch.setattr(processor, "PROCESSORS", dict(processor.PROCESSORS))
    exec(code, names)
    yield names
    for name in names.keys() - before.keys():
        del names[name]


@pytest.fixture
def extracted(pairs: Callable[..., Path], tmp_path: Path, one_thread: None) -> Extract:
    """`extracted(words)` runs extract.py with `-p words` on ten pairs and returns the folder of the features."""
    folder = pairs(10)

    def run(words: str) -> Path:
        model = ["--model", "timm/test_resnet", "--weights", "random", "--cpu"]
        assert extract.main(["-d", str(folder), "-s", str(tmp_path / "out"), "-p", *words.split(), *model]) == 0
        return tmp_path / "out" / "timm-test_resnet"

    return run


def unit_maxima(folder: Path, side: str) -> Any:
    """The maxima over space of the layers that `-p save` wrote, each layer of unit length, side by side."""
    layers = json.loads(next(folder.glob("save_*.json")).read_text(encoding="utf-8"))["settings"]["layers"]
    maxima = [np.load(folder / f"save_{layer}.npy")[side].max((2, 3)) for layer in layers]
    return np.hstack([layer / np.linalg.norm(layer, axis=1, keepdims=True) for layer in maxima])


@pytest.mark.usefixtures("example")
def test_example_gives_the_maxima_of_the_maps_and_is_trained_on(extracted: Extract, tmp_path: Path) -> None:
    folder = extracted("save")
    assert extracted("adapt-max") == folder
    rows = np.load(folder / "maxima.npy")
    for side in ("left", "right"):
        assert np.allclose(rows[side], unit_maxima(folder, side), atol=1e-6)
    settings = json.loads((folder / "maxima.json").read_text(encoding="utf-8"))["settings"]
    assert settings["pooling"] == "maximum over space, then unit L2 length, each layer"
    words = ["-d", str(folder / "maxima.npy"), "-s", str(tmp_path / "runs"), "-r", "1", "-e", "1", "--cpu"]
    assert train.main(words) == 0


def test_example_with_the_names_of_a_pca_takes_a_number(
    example: dict[str, Any], extracted: Extract, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = example["PROCESSORS"]
    rows["adapt-max"] = replace(rows["adapt-max"], reduced="maxima_pca{n}", pca="maxima_pca{n}")
    with pytest.raises(SystemExit):
        extract.main(["-h"])
    assert "adapt-pca N, or adapt-max N" in " ".join(capsys.readouterr().out.split())
    folder = extracted("adapt-max 3")
    pca, maxima = load_pca(folder / "maxima_pca3.skops"), np.load(folder / "maxima.npy")["left"]
    reduced = np.load(folder / "maxima_pca3.npy")["left"]
    assert np.allclose(reduced, (maxima - pca.mean_) @ pca.components_.T, atol=1e-5)
