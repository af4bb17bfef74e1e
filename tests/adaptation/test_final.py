"""A head that has learned from all pairs, and what its file tells of the runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from adaptation import final
from adaptation.data.pairs import load_pairs
from adaptation.similarity.learned.file import NAME, read_similarity
from adaptation.trainer import Settings, train_final
from common.errors import OutOfMemory
from featuresExtractor.features.writing import write_pairs

WORDS = ["--cpu", "-e", "5", "-r", "3", "-t", "8", "-k", "1", "3"]
Run = Callable[..., Path]


@pytest.fixture
def features(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    common = generator.standard_normal((40, 12))
    left, right = (common + generator.standard_normal((40, 12)) for _ in range(2))
    write_pairs(tmp_path / "features.npy", left, right)
    return tmp_path / "features.npy"


@pytest.fixture
def run(features: Path, tmp_path: Path) -> Run:
    """`run(folder, ...)` trains into it."""

    def command(folder: str, *words: str, code: int = 0) -> Path:
        assert train.main(["-d", str(features), "-s", str(tmp_path / folder), *WORDS, *words]) == code
        return tmp_path / folder

    return command


def contents(folder: Path) -> bytes:
    return (folder / NAME).read_bytes()


def test_the_final_head_has_learned_from_all_pairs(features: Path, run: Run) -> None:
    learned = read_similarity(run("run", "--final") / NAME)
    settings = Settings(epochs=5, temperature=8.0, ks=(1, 3))
    trained = train_final(load_pairs(features), settings)
    for name, weight in trained.head.state_dict().items():
        assert torch.equal(learned.head[name], weight)
    assert learned.about["pairs"]["count"] == 40
    assert learned.about["logit_scale"] == 8
    assert learned.about["head"] == {"name": "original", "sha256": None}


def test_it_tells_the_metrics_of_the_runs_and_is_calibrated_on_all_of_them(run: Run) -> None:
    folder = run("run", "--final")
    learned = read_similarity(folder / NAME)
    summary = json.loads((folder / "summary.json").read_text())["metrics"]
    assert learned.about["metrics"]["runs"] == 3
    assert learned.about["metrics"]["top 1"]["last_epoch"] == summary["top 1"]["last_epoch"]["mean"]
    runs = [read_similarity(folder / f"run{number}" / NAME) for number in (1, 2, 3)]
    assert torch.equal(learned.calibration, sum(each.calibration for each in runs))  # type: ignore[arg-type]
    assert learned.about["calibration"] == {"partners": 30, "strangers": 270}
    assert [each.about["pairs"]["count"] for each in runs] == [30, 30, 30]


def test_runs_have_a_similarity_each_and_without_final_there_is_none_of_all(run: Run) -> None:
    folder = run("run")
    assert not (folder / NAME).exists()
    assert all((folder / f"run{number}" / NAME).is_file() for number in (1, 2, 3))


def test_given_later_it_is_the_same_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, later = run("at-once", "--final"), run("later")
    before = {path: path.read_bytes() for path in later.rglob("*.csv")}
    run("later", "--final")
    assert contents(later) == contents(at_once)
    assert {path: path.read_bytes() for path in later.rglob("*.csv")} == before

    def train_again(*_: Any, **__: Any) -> None:
        raise AssertionError("is there already")

    monkeypatch.setattr(final, "train_final", train_again)
    run("later", "--final")
    assert contents(later) == contents(at_once)


def test_other_settings_are_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("run")
    run("run", "--final", "--seed", "4", code=2)
    assert "already holds runs of other settings (seed: 0 there, 4 asked)" in capsys.readouterr().err
    assert not (folder / NAME).exists()


@pytest.mark.parametrize("where", ["train_final", "write_similarity"])
def test_cut_short_it_is_resumed_with_the_runs_that_are_done(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    expected = contents(run("whole", "--final"))

    def end(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(final, where, end)
        folder = run("run", "--final", code=130)
    assert not (folder / "summary.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("adaptation.trainer.train_runs", end)  # none of the runs is trained again
        run("run", "--final")
    assert contents(folder) == expected
    assert not (folder / ".unfinished").exists()


def test_runs_whose_similarities_are_gone_are_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("run")
    (folder / "run2" / NAME).unlink()
    run("run", "--final", code=2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the runs here cannot be used for --final; --overwrite trains them again" in error
    assert "run2" in error


def test_every_model_of_a_comparison_has_its_own(tmp_path: Path, features: Path, run: Run) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pairs = load_pairs(features)
    write_pairs(other / "features.npy", pairs.left[0].numpy()[:, :6], pairs.right[0].numpy()[:, :6])
    words = ["-d", str(features), str(other / "features.npy"), "-s", str(tmp_path / "both"), *WORDS, "--final"]
    assert train.main(words) == 0
    found = sorted((tmp_path / "both").glob(f"*/{NAME}"))
    assert sorted(read_similarity(path).width for path in found) == [6, 12]


def test_features_of_unknown_networks_make_a_similarity_for_features(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("run", "--final")
    assert "its similarity cannot embed images: no .json beside the features" in capsys.readouterr().err
    learned = read_similarity(folder / NAME)
    assert learned.about["backbones"] == []
    assert learned.width == 12


def test_frozen_features_can_be_kept_too(run: Run) -> None:
    learned = read_similarity(run("run", "--final", "--model", "dummy") / NAME)
    assert learned.head == {}
    assert torch.equal(learned.calibration[0], learned.calibration[1])


def test_interrupted_later_it_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run("run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def end(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(final, "train_final", end)
    run("run", "--final", code=130)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_too_little_memory_for_all_pairs_is_seen_before_the_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(features: Any, setup: Any, trained: int) -> None:
        assert trained == 40
        raise OutOfMemory("too little memory")

    monkeypatch.setattr(final, "layout_of", full)
    folder = run("run", "--final", code=2)
    assert capsys.readouterr().err == "train.py: error: too little memory\n"
    assert not folder.exists() or not list(folder.rglob("train.csv"))


def test_the_same_command_twice_gives_the_same_bytes(run: Run) -> None:
    first, second = (run(name, "--final", "--seed", "3") for name in ("first", "second"))
    for name in (NAME, *(f"run{number}/{NAME}" for number in (1, 2, 3))):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_damaged_similarity_of_a_run_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("run")
    (folder / "run2" / NAME).write_bytes(b"damaged")
    before = sorted(folder.rglob("*"))
    run("run", "--final", code=2)
    assert "the runs here cannot be used for --final" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_killed_between_two_models_the_first_is_not_trained_again(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    pairs = load_pairs(features)
    write_pairs(tmp_path / "other" / "features.npy", pairs.left[0].numpy()[:, :6], pairs.right[0].numpy()[:, :6])
    data = ["-d", str(features), str(tmp_path / "other" / "features.npy"), *WORDS]
    assert train.main([*data, "-s", str(tmp_path / "whole"), "--final"]) == 0
    assert train.main([*data, "-s", str(tmp_path / "both")]) == 0
    trained: list[int] = []

    def second_ends(pairs: Any, *given: Any, **named: Any) -> Any:
        trained.append(pairs.left.shape[-1])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train_final(pairs, *given, **named)

    monkeypatch.setattr(final, "train_final", second_ends)
    assert train.main([*data, "-s", str(tmp_path / "both"), "--final"]) == 130
    assert not list((tmp_path / "both").glob(f"*/{NAME}"))
    assert train.main([*data, "-s", str(tmp_path / "both"), "--final"]) == 0
    assert trained[0] != trained[1] == trained[2]
    for path in (tmp_path / "whole").glob(f"*/{NAME}"):
        assert path.read_bytes() == (tmp_path / "both" / path.relative_to(tmp_path / "whole")).read_bytes()
    assert not (tmp_path / "both" / ".unfinished").exists()


def test_overwritten_without_final_the_old_one_goes(run: Run) -> None:
    folder = run("run", "--final")
    run("run", "--overwrite", "--seed", "5")
    assert not (folder / NAME).exists()


def test_a_full_gpu_is_told_in_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(final, "train_final", full)
    run("run", "--final", code=2)
    assert (
        "the GPU's memory does not hold all pairs; give less --memory, a --batch-size, or --cpu"
        in capsys.readouterr().err
    )


def test_a_corrupt_file_is_not_taken_for_one_that_is_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("run", "--final")
    whole = contents(folder)
    (folder / NAME).write_bytes(whole[:-9])
    run("run", "--final", code=2)
    assert "remove the file to train it again with --final" in capsys.readouterr().err.strip().splitlines()[-1]
    (folder / NAME).unlink()
    run("run", "--final")
    assert contents(folder) == whole
