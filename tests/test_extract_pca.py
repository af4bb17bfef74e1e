"""`extract.py --pca`: new images are reduced by a PCA that exists, or the command is refused."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from sklearn.decomposition import PCA

import extract
import train
from adaptation.data.sources import ALL_IMAGES, GIVEN, Source
from common.storage.files import read_json, write_json
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.pca import load_pca, pca_digest, save_pca

Command = Callable[..., int]

OLD, NEW = Path("old/tiny"), Path("new/tiny")
PCA_FILE = OLD / "pca3.skops"
FILES = ("features.json", "features.npy", "features_pca3.json", "features_pca3.npy", "pca3.skops")


def facts(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Backbone,
    pairs: Callable[..., Path],
    image: Callable[..., Path],
) -> Command:
    """In a working folder with four `pairs`, from whose features a PCA of 3 components was fitted in `old`, and with
    two other images in `flat`: `command(...)` extracts the latter to `new` without views; later words win."""
    monkeypatch.chdir(tmp_path)
    root = pairs(4).relative_to(tmp_path)
    for number in range(2):
        image(Path("flat", f"{number}.png"), seed=100 + number)
    common = ["--weights", "random", "--cpu", "--model", tiny_model.name, "-p", "adapt-pca", "3"]
    assert extract.main(["-d", str(root), "-s", "old", *common]) == 0

    def run(*words: str) -> int:
        return extract.main(["-d", "flat", "-s", "new", "--no-data-aug", *common, *words])

    return run


@pytest.fixture
def given(command: Command) -> Command:
    """`command` with the PCA in `old`."""
    return lambda *words: command("--pca", str(PCA_FILE), *words)


def refused(command: Command, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs into wrong input: exit code 2, and one line, which is returned."""
    capsys.readouterr()
    assert command(*words) == 2
    told = capsys.readouterr().err
    (error,) = [line for line in told.splitlines() if line.startswith("extract.py: error: ")]
    assert "Traceback" not in told
    return error.removeprefix("extract.py: error: ")


def another(path: Path, seed: int = 0) -> str:
    """Writes another PCA of the same shape; returns its digest."""
    rows = np.random.default_rng(seed).normal(size=(20, 320))
    save_pca(pca := PCA(3).fit(rows), path)
    return pca_digest(pca)


# --- the numbers and the record ---


def test_vectors_are_scikit_learns_transform_by_that_pca(given: Command) -> None:
    assert given() == 0
    whole, reduced = (np.load(NEW / name)["features"] for name in ("features.npy", "features_pca3.npy"))
    expected = load_pca(PCA_FILE).transform(whole.astype(np.float64))
    assert reduced.shape == (2, 3)
    assert np.allclose(reduced, expected, atol=1e-5)
    assert sorted(contents(NEW)) == list(FILES)
    assert (NEW / "pca3.skops").read_bytes() == PCA_FILE.read_bytes()


def test_images_of_the_fit_have_the_vectors_of_the_fit(given: Command) -> None:
    assert given("-d", "pairs", "--data-aug") == 0
    assert (NEW / "features_pca3.npy").read_bytes() == (OLD / "features_pca3.npy").read_bytes()
    variances = [facts(folder / "features_pca3.json")["pca"]["explained_variance"] for folder in (OLD, NEW)]
    assert np.isclose(variances[0], variances[1], rtol=1e-6)


@pytest.mark.parametrize(("images", "share"), [(1, None), (2, True)])
def test_one_image_is_enough_and_the_record_tells_all(images: int, share: Any, given: Command) -> None:
    for number in range(images, 2):
        Path("flat", f"{number}.png").unlink()
    assert given() == 0
    told = facts(NEW / "features_pca3.json")["pca"]
    assert (told["fitted_on"], told["components"], told["source"]) == ("given", 3, "features.npy")
    assert told["sha256"] == pca_digest(load_pca(PCA_FILE)) == facts(OLD / "features_pca3.json")["pca"]["sha256"]
    assert told["flags"]["pca"] == str(PCA_FILE)
    if share is None:
        assert told["explained_variance"] is None
        return
    whole, reduced = (np.load(NEW / name)["features"].astype(float) for name in ("features.npy", "features_pca3.npy"))
    assert np.isclose(told["explained_variance"], reduced.var(0).sum() / whole.var(0).sum(), rtol=1e-5)


def test_a_pca_of_scikit_learns_own_in_float32_is_taken(command: Command) -> None:
    rows = np.load(OLD / "features.npy")["left"]
    pca = PCA(3).fit(rows)
    assert pca.components_.dtype == np.float32
    skops.io.dump(pca, "mine.skops", compression=0)
    assert command("--pca", "mine.skops") == 0
    whole, reduced = (np.load(NEW / name)["features"] for name in ("features.npy", "features_pca3.npy"))
    assert np.allclose(reduced, pca.transform(whole), atol=1e-4)


def test_training_takes_such_features_and_names_the_protocol(given: Command) -> None:
    assert given("-d", "pairs", "--data-aug") == 0
    files = [OLD / "features_pca3.npy", NEW / "features_pca3.npy"]
    assert [Source(path, "").protocol for path in files] == [ALL_IMAGES, GIVEN]
    words = ["-d", *map(str, files), "-s", "runs", "-e", "1", "-r", "1", "-k", "1", "--cpu"]
    assert train.main(words) == 0
    lines = [line for line in Path("runs/comparison.txt").read_text().splitlines() if "features_pca3.npy" in line]
    assert sorted((" given " in line, " all images " in line) for line in lines) == [(False, True), (True, False)]
    assert "given: PCA given to extract.py, fitted elsewhere" in Path("runs/comparison.tex").read_text()


def test_a_pca_of_other_settings_is_warned_of(given: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert given("--seed", "5") == 0
    reason = "was fitted on features made with other settings (weights seed: 0 there, 5 asked)"
    assert capsys.readouterr().err.count(f"warning: {PCA_FILE}: {reason}") == 1
    shutil.rmtree("new")
    assert given() == 0
    assert "warning" not in capsys.readouterr().err


# --- what is there already ---


def test_the_same_pca_is_used_again(given: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert given() == 0
    before = contents(NEW)
    shutil.move(PCA_FILE, "moved.skops")
    capsys.readouterr()
    assert given("--pca", "moved.skops") == 0
    assert "features_pca3.npy is there and was made from it" in capsys.readouterr().out
    assert contents(NEW) == before


def test_features_of_another_pca_are_replaced_only_when_asked_for(
    given: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given() == 0
    before, old, new = contents(NEW), pca_digest(load_pca(PCA_FILE)), another(Path("b.skops"))
    monkeypatch.setattr("featuresExtractor.plan.Forward", None)
    told = f"{NEW / 'features_pca3.npy'}: made with another PCA ({old[:8]} there, {new[:8]} asked)"
    assert refused(given, capsys, "--pca", "b.skops") == f"{told}; --overwrite replaces it"
    assert contents(NEW) == before
    assert given("--pca", "b.skops", "--overwrite") == 0
    assert facts(NEW / "features_pca3.json")["pca"]["sha256"] == new == pca_digest(load_pca(NEW / "pca3.skops"))


def test_features_of_a_given_pca_are_not_taken_for_those_of_a_fit(
    command: Command, given: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert given("-d", "pairs") == 0
    before, digest = contents(NEW), pca_digest(load_pca(PCA_FILE))
    told = (
        f"{NEW / 'features_pca3.npy'}: made with a PCA that was given ({digest[:8]}); give it (--pca), or --overwrite"
    )
    assert refused(command, capsys, "-d", "pairs") == f"{told} replaces it"
    assert contents(NEW) == before
    assert command("-d", "pairs", "--overwrite") == 0
    assert facts(NEW / "features_pca3.json")["pca"]["fitted_on"].startswith("all vectors")


def test_features_of_a_fit_are_not_taken_for_those_of_a_given_pca(
    command: Command, given: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-d", "pairs") == 0
    assert " made with another PCA (" in refused(given, capsys, "-d", "pairs")
    assert given("-d", "pairs", "--pca", str(NEW / "pca3.skops")) == 0  # the very one


def test_records_of_earlier_versions_tell_by_the_pca_beside_them(
    command: Command, given: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-d", "pairs") == 0
    record = read_json(NEW / "features_pca3.json")
    digest = record["pca"].pop("sha256")
    write_json(NEW / "features_pca3.json", record)
    assert command("-d", "pairs") == 0
    assert f"({digest[:8]} there, " in refused(given, capsys, "-d", "pairs")
    (NEW / "pca3.skops").unlink()
    assert "(unknown there, " in refused(given, capsys, "-d", "pairs")


def test_a_pca_that_was_put_beside_the_features_is_not_what_reduced_them(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-d", "pairs") == 0
    old = pca_digest(load_pca(NEW / "pca3.skops"))
    new = another(NEW / "pca3.skops")
    reason = f"another PCA ({new[:8]}, and features_pca3.npy was made with {old[:8]}); to reduce by it give --pca"
    assert refused(command, capsys, "-d", "pairs") == f"{NEW / 'pca3.skops'}: {reason}; --overwrite replaces it"


class PowerCut(Exception):
    """Nothing catches it."""


POINTS = [
    ("featuresExtractor.features.features_file:FeaturesWriter.seal", (1, 2)),
    ("featuresExtractor.pca:Projection.__call__", (1,)),
    ("pathlib:Path.replace", (2, 4, 5)),
    ("pathlib:Path.rename", (1, 2, 3, 4, 5, 6)),
]


@pytest.mark.parametrize(("point", "call"), [(point, call) for point, calls in POINTS for call in calls])
def test_cut_short_anywhere_the_same_command_ends_with_the_same_bytes(
    point: str, call: int, given: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert given() == 0
    expected = contents(NEW)
    shutil.rmtree("new")
    original, calls = resolve_name(point), 0

    def cut(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise PowerCut
        return original(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(point.replace(":", "."), cut)
        with pytest.raises(PowerCut):
            given()
    assert given() == 0
    assert contents(NEW) == expected


# --- wrong input ---


def broken(path: Path, **values: Any) -> None:
    """The PCA in `old` with other values."""
    pca = load_pca(PCA_FILE)
    for name, value in values.items():
        setattr(pca, name, value)
    skops.io.dump(pca, path, compression=0)


NAN = np.full(320, np.nan)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a mean of another width": ({"mean_": np.zeros(7)}, "its mean is of shape (7,) and its components (3, 320), not "),
    "no mean": (
        {"mean_": None},
        "its mean and components are no arrays of floats; give the file that extract.py wrote",
    ),
    "whole numbers": ({"components_": np.ones((3, 320), int)}, "its mean and components are no arrays of floats; "),
    "a vector": ({"components_": np.ones(320)}, "its mean is of shape (320,) and its components (320,), not (D,) and "),
    "nothing": ({"components_": np.ones((0, 320))}, "its mean is of shape (320,) and its components (0, 320), not "),
    "not finite": ({"mean_": NAN}, "its mean or components hold numbers that are not finite; give the file"),
    "whitening": ({"whiten": True}, "it whitens, as no PCA here does; give the file that extract.py wrote"),
    "another N": ({"components_": np.ones((4, 320))}, "has 4 components, and 3 are asked for (-p adapt-pca N)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_without_a_pca_of_the_right_kind_is_refused_before_anything(
    fault: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    values, text = FAULTS[fault]
    broken(Path("broken.skops"), **values)
    assert refused(command, capsys, "--pca", "broken.skops", "-d", "none").startswith(f"broken.skops: {text}")
    assert not Path("new").exists()


def test_files_that_are_none_are_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.skops").write_bytes(pickle.dumps({}))
    Path("cut.skops").write_bytes(PCA_FILE.read_bytes()[:-100])
    skops.io.dump({"mean": np.zeros(3)}, "dict.skops")
    for name in ("none.skops", "p.skops", "cut.skops", "dict.skops", "old"):
        assert refused(command, capsys, "--pca", name).startswith(f"{name}: ")
    assert not Path("new").exists()


def test_a_pca_of_another_width_names_both(
    given: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featuresExtractor.plan.load_backbone", None)
    told = refused(given, capsys, "--layers", "layer2")
    reason = "reduces vectors of 320 numbers, and tiny gives 48; give the backbone and the layers that it was fitted on"
    assert told == f"{PCA_FILE}: {reason}"
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-p", "pca", "3"], "--pca is for -p adapt-pca N, which has one PCA over all layers, not -p pca 3"),
        (["-p", "adapt"], "--pca is for -p adapt-pca N, which has one PCA over all layers, not -p adapt"),
        (["--model", "tiny-b"], "--pca is of one model, and 2 are asked for; extract them one by one"),
    ],
)
def test_wrong_words_are_told(
    words: list[str], text: str, given: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES, replace(models.BACKBONES[-1], name="tiny-b")))
    assert refused(given, capsys, *words) == text
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    ],
    ids=repr,
)
def test_a_gpu_that_does_not_hold_the_pca_is_told_and_the_features_are_kept(
    error: Exception, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("featuresExtractor.pca.leading_eigenpairs", full)
        assert command("-d", "pairs", "-s", "full") == 2
    told = "the GPU's memory does not hold the PCA; the features are kept, continue with --cpu"
    assert capsys.readouterr().err.splitlines()[-1] == f"extract.py: error: {told}"
    assert (Path("full") / "tiny" / "features.npy").exists()
    assert command("-d", "pairs", "-s", "full") == 0
