"""`extract.py` on images whose numbers need a word: what it prints, records and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extract import main
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.images.pixels.color import OTHER_PROFILES
from featuresExtractor.images.pixels.ranges import SMALL
from tests.featuresExtractor.images.pixels.test_color import NOT_APPLIED, rgb_profile

Run = Callable[..., int]


@pytest.fixture
def run(tiny_model: Backbone, tmp_path: Path) -> Run:
    """`run(pairs, word, ...)` extracts into `tmp_path/features`."""

    def extract(root: Path, *words: str) -> int:
        rest = ["-p", "adapt", "--model", tiny_model.name, "--weights", "random", "--cpu", "--no-data-aug"]
        return main(["-d", str(root), "-s", str(tmp_path / "features"), *rest, *words])

    return extract


def record(tmp_path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((tmp_path / "features" / "tiny" / "features.json").read_text())
    return facts


def deepen(pairs: Path, bits: int) -> None:
    """Add to each left image one of the same levels in `bits` of 16, beside a right one of 8 bits."""
    for path in sorted((pairs / "left").iterdir()):
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(grey).save(pairs / "right" / f"deep-{path.stem}.png")
        values = np.rint(grey / 255 * (2**bits - 1)).astype(np.uint16)
        Image.fromarray(values).save(pairs / "left" / f"deep-{path.stem}.png")


def test_12_bits_in_16_are_warned_of_and_right_with_their_range(
    run: Run, pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    deepen(root, 12)
    assert run(root) == 0
    names = ["left/deep-a0.png", "left/deep-a1.png"]
    assert f"warning: 2 images: {SMALL[4096]}: {', '.join(names)}" in capsys.readouterr().err
    assert record(tmp_path)["remarks"] == {SMALL[4096]: names}
    assert run(root, "--value-range", "0", "4095") == 2
    assert (
        "made with other settings (preprocessing value_range: none there, [0.0, 4095.0] asked)"
        in capsys.readouterr().err
    )
    assert run(root, "--value-range", "0", "4095", "--overwrite") == 0
    assert record(tmp_path)["remarks"] == {}
    assert record(tmp_path)["settings"]["preprocessing"]["value_range"] == [0.0, 4095.0]
    rows = np.load(tmp_path / "features" / "tiny" / "features.npy")
    deep = np.char.startswith(rows["left_name"], "deep")
    assert deep.sum() == 2
    assert np.allclose(rows["left"][deep], rows["right"][deep], atol=1e-6)


def test_integers_of_32_bits_are_named_before_anything_is_computed(
    run: Run, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    Image.fromarray(np.full((40, 40), 70_000, np.int32)).save(root / "left" / "wide.tif")
    Image.new("L", (40, 40)).save(root / "right" / "wide.tif")
    assert run(root) == 2
    reason = "signed 32-bit integers of unknown range: pass --value-range LOW HIGH, or save it as 8 or 16 bits"
    assert f"left/wide.tif: cannot be read ({reason}); " in capsys.readouterr().err.splitlines()[-1]


def test_profiles_are_recorded_by_name_and_printed_in_one_line(
    run: Run, pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    names = {"left/a0.png": "Display P3", "right/a1.png": "Adobe RGB (1998)"}
    for name, profile in names.items():
        Image.open(root / name).save(root / name, icc_profile=rgb_profile(profile))
    assert run(root) == 0
    assert f"warning: 2 images: {OTHER_PROFILES}: left/a0.png, right/a1.png" in capsys.readouterr().err.splitlines()
    assert record(tmp_path)["remarks"] == {NOT_APPLIED.format(profile): [name] for name, profile in names.items()}
    assert run(root, "--color", "srgb", "--overwrite") == 0
    assert record(tmp_path)["remarks"] == {}
    assert record(tmp_path)["settings"]["preprocessing"]["color"] == "srgb"


def test_features_of_the_papers_earlier_preprocessing_are_refused_by_name(
    run: Run, pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The earlier version antialiased, and said nothing of it in the `.json`; the own preprocessing is as before."""
    root = pairs(2)
    assert run(root) == 0
    assert "antialias" not in record(tmp_path)["settings"]["preprocessing"]
    assert run(root, "--preprocess", "paper", "--overwrite") == 0
    facts = record(tmp_path)
    assert facts["settings"]["preprocessing"].pop("antialias") is False
    (tmp_path / "features" / "tiny" / "features.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert run(root, "--preprocess", "paper") == 2
    assert "made with other settings (preprocessing antialias: none there, false asked)" in capsys.readouterr().err
