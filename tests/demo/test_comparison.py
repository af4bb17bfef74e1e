"""The comparison's commands are such as both scripts take, and its weights are in their packages."""

from __future__ import annotations

from pathlib import Path

import pytest

import extract
import train
from demo import comparison
from featuresExtractor.models import find_model


def test_every_command_is_one_that_the_scripts_take() -> None:
    models: list[str] = []
    for script, *words in comparison.commands(Path("out")):
        args = {"extract.py": extract, "train.py": train}[script].build_parser().parse_args(words)
        models += args.model if script == "extract.py" else []
    assert models == ["efficientnet_lite0", *comparison.PACKAGED, *comparison.FLOOR]


def test_the_packaged_networks_are_tapped_as_the_tables_own() -> None:
    assert comparison.LAYERS.split(",") == list(find_model("efficientnet_lite0").layers)


@pytest.mark.parametrize("model", comparison.PACKAGED)
def test_weights_are_in_their_package(model: str) -> None:
    assert comparison.packaged(*comparison.PACKAGED[model]).is_file()


def test_missing_package_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "PACKAGED", {"timm/x": ("no_such_package", "x.pth")})
    monkeypatch.setattr(comparison, "draw_pairs", lambda _folder: 0)
    assert comparison.main([str(tmp_path / "out")]) == 2
    expected = "comparison: error: the package no-such-package is missing: pip install -r requirements-demo.txt\n"
    assert capsys.readouterr().err == expected
