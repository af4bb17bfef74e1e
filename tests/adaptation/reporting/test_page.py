"""`train.py --html`: the page of a run folder shows the first run's test pairs, with the ranks that the run has."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import extract
import train
from adaptation.reporting.page import paths_of
from featuresExtractor.backbones.backbone import Backbone


@pytest.fixture
def features(tmp_path: Path, image: Callable[..., Path], tiny_model: Backbone) -> Path:
    for number in range(12):
        image(tmp_path / "pairs" / "left" / f"a{number}.png", (40, 33 + number), 2 * number)
        image(tmp_path / "pairs" / "right" / f"a{number}.jpg", (50, 40), 2 * number + 1)
    words = f"--model {tiny_model.name} --weights random -p adapt-pca 8 --cpu".split()
    assert extract.main(["-d", str(tmp_path / "pairs"), "-s", str(tmp_path / "features"), *words]) == 0
    return tmp_path / "features" / tiny_model.name


def run(features: Path, folder: Path, *words: str) -> int:
    return train.main(
        ["-d", str(features), "-s", str(folder), *["--cpu", "-e", "4", "-r", "2", "-k", "1", "3"], *words]
    )


def test_page_shows_the_test_pairs_of_the_first_run(tmp_path: Path, features: Path) -> None:
    folder = tmp_path / "run"
    assert run(features, folder, "--html") == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    with (folder / "run1" / "split.csv").open(newline="", encoding="utf-8") as file:
        tested = [row for row in csv.DictReader(file) if row["set"] == "test"]
    assert len(tested) == 3
    assert "Test pairs of run 1" in page
    for row in tested:
        assert row["left_name"] in page
        assert row["right_name"] in page
    assert page.count("data:image/jpeg;base64,") == 6
    with (folder / "run1" / "val.csv").open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    recalls = [float(last[f"recall 1 {way}"]) for way in ("left-to-right", "right-to-left")]
    assert f"{100 * sum(recalls) / 2:.1f}" in re.sub(r"<[^>]+>", "", page)


def test_page_may_be_asked_for_later(tmp_path: Path, features: Path) -> None:
    folder = tmp_path / "run"
    assert run(features, folder) == 0
    assert not (folder / "page.html").exists()
    assert run(features, folder, "--html", "--final") == 0
    page = (folder / "page.html").read_bytes()
    assert run(features, folder, "--html") == 0
    assert (folder / "page.html").read_bytes() == page


def test_images_that_moved_are_given(tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs").rename(tmp_path / "moved")
    folder = tmp_path / "run"
    assert run(features, folder, "--html") == 2
    assert "give --images PATH, the folder with left/ and right/" in capsys.readouterr().err
    assert not folder.exists()
    assert run(features, folder, "--html", "--images", str(tmp_path / "moved")) == 0
    assert "data:image/jpeg" in (folder / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname"])
def test_names_lead_out_of_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "left" / "a").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    assert paths_of(tmp_path, (name, name)) == (None, None)


def test_runs_without_similarities_have_no_page(
    tmp_path: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(features, folder) == 0
    (folder / "run1" / "similarity.safetensors").unlink()
    assert run(features, folder, "--html") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--html: no similarity.safetensors in run1" in error
    assert "--overwrite trains the runs again" in error
    assert not (folder / "page.html").exists()


def test_images_are_those_of_the_extraction_wherever_training_runs(
    tmp_path: Path, features: Path, image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder here may have the name that was given there, and images of the same names."""
    monkeypatch.chdir(tmp_path)
    words = f"-d pairs -s again --model {features.name} --weights random -p adapt-pca 8 --cpu".split()
    assert extract.main(words) == 0
    (tmp_path / "elsewhere").mkdir()
    for side, suffix in (("left", "png"), ("right", "jpg")):
        for number in range(12):
            image(tmp_path / "elsewhere" / "pairs" / side / f"a{number}.{suffix}", (40, 30), 77)
    assert run(tmp_path / "again" / features.name, tmp_path / "here", "--html") == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(tmp_path / "again" / features.name, tmp_path / "there", "--html") == 0
    pages = [(tmp_path / name / "page.html").read_text(encoding="utf-8") for name in ("here", "there")]
    assert pages[0] == pages[1]
