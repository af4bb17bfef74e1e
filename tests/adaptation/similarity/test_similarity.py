"""What `Similarity` does in Python, beside the runs that it comes from."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import extract
import train
from adaptation import Similarity
from adaptation.losses import contrast, find_loss
from adaptation.metrics import retrieval_metrics
from adaptation.similarity.learned.file import NAME, Learned, read_similarity, write_similarity
from adaptation.tiled_loss import Tiling
from common.errors import InputError
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone

PROJECT = Path(__file__).resolve().parents[3]
Learn = Callable[..., Path]


def split_of(run: Path) -> list[tuple[str, str]]:
    with (run / "split.csv").open(newline="", encoding="utf-8") as file:
        return [(row["left_name"], row["right_name"]) for row in csv.DictReader(file) if row["set"] == "test"]


def last(path: Path) -> dict[str, float]:
    with path.open(newline="", encoding="utf-8") as file:
        *_, row = csv.DictReader(file)
    return {name: float(value) for name, value in row.items() if name not in ("epoch", "Loss")}


def metrics(left: Any, right: Any) -> dict[str, float]:
    """The project's metrics of vectors (N, E) of either side, k = 1 and 3."""
    ours, theirs = (torch.from_numpy(np.ascontiguousarray(side))[None] for side in (left, right))
    contrasted = contrast(ours, theirs, find_loss("contrastive", ()), 1.0, Tiling())
    return {name: values.item() for name, values in retrieval_metrics(contrasted.ranks, (1, 3)).items()}


def paths(root: Path, names: list[tuple[str, str]]) -> tuple[list[Path], list[Path]]:
    return [root / "left" / left for left, _ in names], [root / "right" / right for _, right in names]


WAYS = {
    "pca of extract.py": ("-p adapt-pca 8", ()),
    "pca of each run": ("-p adapt", ("--pca-fit", "train", "--components", "7")),
    "no pca": ("-p adapt", ()),
    "class of its own head": ("-p adapt-pca 8", ("--model", "peterson")),
    "frozen": ("-p adapt-pca 8", ("--model", "dummy")),
    "one layer": ("-p adapt --layers layer3", ()),
    "as in the paper": ("-p adapt-pca 8 --preprocess paper", ()),
}


@pytest.mark.parametrize("way", WAYS)
def test_embeddings_of_test_images_have_the_recalls_of_the_run_to_the_digit(
    tmp_path: Path, learn: Learn, way: str
) -> None:
    extracted, words = WAYS[way]
    run = learn(*words, extracted=extracted) / "run2"
    similarity, names = Similarity.load(run), split_of(run)
    left, right = (similarity.embed_both(side) for side in paths(tmp_path / "pairs", names))
    assert metrics(left[1], right[1]) == last(run / "val.csv")
    assert metrics(left[0], right[0]) == last(run / "frozen.csv")
    assert left[1].dtype == np.float32
    assert np.allclose(np.linalg.norm(left[1], axis=1), 1, atol=1e-6)


def test_networks_side_by_side_are_all_in_the_similarity(
    tmp_path: Path, draw: Callable[[int], Path], tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    other = replace(tiny_model, name="tiny2", layers={"layer2": 48})
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES, other))
    words = ["--model", "tiny", "--model", "tiny2", "--weights", "random", "--concat", "-p", "adapt-pca", "8", "--cpu"]
    assert extract.main(["-d", str(draw(12)), "-s", str(tmp_path / "f"), *words]) == 0
    run = tmp_path / "run"
    data = str(tmp_path / "f" / "tiny+tiny2")
    assert train.main(["-d", data, "-s", str(run), *["--cpu", "-e", "4", "-r", "2", "-k", "1", "3", "--final"]]) == 0
    similarity, names = Similarity.load(run / "run1"), split_of(run / "run1")
    assert [each["model"] for each in similarity.about["backbones"]] == ["tiny", "tiny2"]
    left, right = (similarity.embed(side) for side in paths(tmp_path / "pairs", names))
    assert metrics(left, right) == last(run / "run1" / "val.csv")


SCRIPT = """
import sys
from adaptation import Similarity
from featuresExtractor import models
sys.path.append({project!r})
from tests.conftest import TINY  # a network that only the tests know
models.BACKBONES = (*models.BACKBONES, TINY)
similarity = Similarity.load("here.safetensors")
print(similarity.embed(["a.png"]).tobytes().hex())
"""


@pytest.mark.skipif(not list(distributions(name="visual-similarity-adaptation")), reason="pip install -e . is missing")
def test_two_lines_load_it_in_another_process_from_another_folder_with_the_file_alone(
    tmp_path: Path, learned: Path
) -> None:
    image = tmp_path / "pairs" / "left" / "a3.png"
    expected = Similarity.load(learned).embed(image)
    away = tmp_path / "away"
    away.mkdir()
    shutil.copyfile(learned / NAME, away / "here.safetensors")
    shutil.copyfile(image, away / "a.png")
    for folder in ("run", "features", "pairs"):
        shutil.rmtree(tmp_path / folder)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.format(project=str(PROJECT))]
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, check=True)
    assert np.allclose(np.frombuffer(bytes.fromhex(done.stdout.strip()), np.float32), expected[0], atol=1e-6)


def test_the_file_tells_no_path_and_no_name_of_an_image(tmp_path: Path, learn: Learn) -> None:
    contents = (learn("--final") / NAME).read_bytes()
    for told in (str(tmp_path).encode(), b"a3.png", os.environ.get("USER", "no-such-user").encode() + b"/", b".skops"):
        assert told not in contents


def test_what_is_given_may_be_paths_pil_images_or_a_folder(tmp_path: Path, learned: Path) -> None:
    similarity, folder = Similarity.load(learned), tmp_path / "pairs" / "left"
    files = sorted(folder.iterdir())
    expected = similarity.embed(folder)
    assert expected.shape == (16, 1024)
    for given in (files, [str(file) for file in files], [Image.open(file) for file in files]):
        assert np.allclose(similarity.embed(given), expected, atol=1e-6)
    assert np.allclose(similarity.embed(files, batch_size=3, workers=2), expected, atol=1e-6)
    assert similarity.embed(files[0]).shape == (1, 1024)


def test_cosines_and_search_are_those_of_numpy(tmp_path: Path, learned: Path) -> None:
    similarity, (left, right) = Similarity.load(learned), (tmp_path / "pairs" / side for side in ("left", "right"))
    queries, gallery = similarity.embed(left), similarity.embed(right)
    expected = queries @ gallery.T
    assert np.allclose(similarity(left, right), expected, atol=1e-6)
    query = sorted(left.iterdir())[5]
    found: Any = similarity.search(query, right, k=4)
    order = np.argsort(-expected[5], kind="stable")[:4]
    assert [each.name for each in found] == [sorted(path.name for path in right.iterdir())[row] for row in order]
    assert [each.rank for each in found] == [1, 2, 3, 4]
    assert np.allclose([each.score for each in found], expected[5][order], atol=1e-6)
    several: Any = similarity.search([query, query], right, k=2)
    assert several == [found[:2], found[:2]]
    with pytest.raises(InputError, match=r"k from 1 to 16 is possible"):
        similarity.search(query, right, k=17)


def test_no_features_give_no_embeddings_and_cosines_are_at_most_one(tmp_path: Path, learned: Path) -> None:
    similarity, right = Similarity.load(learned), tmp_path / "pairs" / "right"
    frozen, adapted = similarity.vectors(np.zeros((0, 320), np.float32))
    assert (frozen.shape, adapted.shape) == ((0, frozen.shape[1]), (0, 1024))
    assert np.diag(similarity(right, right)).max() <= 1


def test_an_image_is_not_found_as_its_own_neighbour(tmp_path: Path, learned: Path) -> None:
    similarity, right = Similarity.load(learned), tmp_path / "pairs" / "right"
    images = sorted(right.iterdir())
    (tmp_path / "link.png").symlink_to(images[3])
    for query in (images[3], tmp_path / "link.png"):
        found: Any = similarity.search(query, right, k=15)
        assert sorted(each.name for each in found) == sorted(path.name for path in images if path != images[3])
        assert [each.rank for each in found] == list(range(1, 16))
    opened = [Image.open(path).convert("RGB") for path in images]
    of_opened: Any = similarity.search(opened[3], opened, k=15)
    assert sorted(each.index for each in of_opened) == [row for row in range(16) if row != 3]
    with pytest.raises(InputError, match=r"k 2\.5: a whole number"):
        similarity.search(images[3], right, k=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="-k 16: the gallery has 15 images beside the query"):
        similarity.search(images[3], right, k=16)


def test_percentages_are_those_of_the_test_pairs_of_all_runs(tmp_path: Path, learned: Path) -> None:
    cosines: dict[str, list[float]] = {"partners": [], "strangers": []}
    for run in (learned / "run1", learned / "run2"):
        similarity = Similarity.load(run)
        left, right = (similarity.embed(side) for side in paths(tmp_path / "pairs", split_of(run)))
        table = left @ right.T
        cosines["partners"] += table.diagonal().tolist()
        cosines["strangers"] += table[~np.eye(len(table), dtype=bool)].tolist()
    similarity = Similarity.load(learned)
    assert similarity.about["calibration"] == {"partners": 8, "strangers": 24}
    given = np.array([-0.5, 0.3, 0.6, 0.95, 1.0], np.float32)
    for kind, percentages in similarity.percentiles(given).items():
        for value, percentage in zip(given, percentages, strict=True):
            low, high = (100 * np.mean(np.array(cosines[kind]) < value + shift) for shift in (-0.001, 0.001))
            assert low - 1e-9 <= percentage <= high + 1e-9
        (median,) = similarity.quantiles([0.5], kind)
        assert abs(median - np.quantile(cosines[kind], 0.5, method="inverted_cdf")) <= 0.001


# --- what it refuses ---


def edited(learned: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file with another description."""
    whole = read_similarity(learned / NAME)
    about = json.loads(json.dumps(whole.about))
    about.pop("format")
    change(about)
    path = learned.parent / "edited.safetensors"
    write_similarity(path, Learned(about, whole.head, whole.mean, whole.components, whole.calibration))
    return path


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "weights": (
        lambda about: about["backbones"][0]["weights"].update(sha256="ab" * 32),
        r"tiny: its weights are in the package no-such-package.*--weights FILE",
    ),
    "local weights": (
        lambda about: about["backbones"][0].update(
            weights={"sha256": "ab" * 32, "seed": None}, weights_origin="a local file"
        ),
        r"tiny: its weights were a local file; give it with --weights FILE .*begins with abababab",
    ),
    "preprocessing": (
        lambda about: about["backbones"][0]["preprocessing"].update(resize=99),
        r"tiny: no longer the network .*preprocessing resize: 99 there, 36 asked",
    ),
    "channels": (
        lambda about: about["backbones"][0].update(layers={"layer2": 300, "layer3": 20}),
        r"tiny: no longer the network .*layers layer2: 300 there, 48 asked",
    ),
    "layer": (lambda about: about["backbones"][0].update(layers={"nothing": 320}), r"tiny: no layer 'nothing'"),
    "pooling": (lambda about: about["backbones"][0].update(pooling="max"), r"tiny: .* cannot be understood"),
    "network": (lambda about: about["backbones"][0].update(model="tinny"), r"unknown model 'tinny'"),
    "no network": (
        lambda about: about.update(backbones=[], gap="no .json"),
        r"this similarity cannot embed images: no .json; it can embed features",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_no_longer_what_it_was_trained_with_is_refused_by_name(learned: Path, what: str) -> None:
    change, message = CHANGES[what]
    with pytest.raises(InputError, match=message) as error:
        Similarity.load(edited(learned, change)).embed(learned.parent / "pairs" / "left")
    assert "\n" not in str(error.value)


WRONG_TYPES: list[Any] = [None, 3, -1, 1.5, "text", [], [[]], {}, {"a": []}, "\x1b[31m"]


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=repr)
def test_fields_of_other_types_are_refused_in_one_line(learned: Path, wrong: Any) -> None:
    whole = read_similarity(learned / NAME)
    network = dict(whole.about["backbones"][0])
    places: list[tuple[str, ...]] = [(name,) for name in whole.about if name != "format"]
    places += [("backbones", name) for name in network]
    places += [("head", "name"), ("head", "sha256")]
    for place in places:

        def change(about: dict[str, Any], place: tuple[str, ...] = place) -> None:
            target: Any = about[place[0]] if len(place) > 1 else about
            if place[0] == "backbones" and len(place) > 1:
                target = target[0]
            target[place[-1]] = wrong

        assert "\n" not in outcome(edited(learned, change), learned.parent / "pairs" / "left" / "a1.png"), place


def outcome(path: Path, image: Path) -> str:
    """Why an image cannot be embedded; nothing where it can, since nothing depends on the field. Any other error is
    raised."""
    try:
        Similarity.load(path).embed(image)
    except InputError as error:
        return str(error)
    return ""


def test_weights_may_be_given_as_a_file(tmp_path: Path, learn: Learn, tiny_model: Backbone) -> None:
    from safetensors.torch import save_file

    from featuresExtractor.backbones.weights.loading import random_network

    files = []
    for seed in (1, 2):
        files.append(tmp_path / f"weights{seed}.safetensors")
        save_file(random_network(tiny_model, seed).state_dict(), files[-1])
    run = learn("--final", extracted=f"-p adapt-pca 8 --weights {files[0]}")
    image = tmp_path / "pairs" / "left" / "a1.png"
    with pytest.raises(InputError, match="its weights were a local file"):
        Similarity.load(run).embed(image)
    with pytest.raises(InputError, match=r"weights2.safetensors: not the weights of this similarity"):
        Similarity.load(run, weights=[files[0], files[1]]).embed(image)
    moved = files[0].rename(tmp_path / "elsewhere.safetensors")
    assert Similarity.load(run, weights=moved).embed(image).shape == (1, 1024)
    with pytest.raises(InputError, match="no weights file here"):
        Similarity.load(run, weights=files[0]).embed(image)
    assert b"weights1" not in (run / NAME).read_bytes()


HEAD = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 12), nn.BatchNorm1d(12), nn.Dropout(0.2))

    def forward(self, x):
        return self.layers(x)
"""


def test_a_head_of_ones_own_is_given_as_its_file(tmp_path: Path, learn: Learn) -> None:
    mine = tmp_path / "secret-name.py"
    mine.write_text(HEAD)
    run = learn("--final", "--model", f"{mine}:Mine")
    assert b"secret-name" not in (run / NAME).read_bytes()
    with pytest.raises(InputError, match=r"its head Mine is in a file of its maker's .*--head FILE.py:Mine"):
        Similarity.load(run)
    image = tmp_path / "pairs" / "left" / "a1.png"
    moved = mine.rename(tmp_path / "moved.py")
    assert Similarity.load(run, head=f"{moved}:Mine").embed(image).shape == (1, 12)
    names = split_of(run / "run1")
    first = Similarity.load(run / "run1", head=f"{moved}:Mine")
    left, right = (first.embed(side) for side in paths(tmp_path / "pairs", names))
    assert metrics(left, right) == last(run / "run1" / "val.csv")
    moved.write_text(HEAD.replace("12", "13"))
    with pytest.raises(InputError, match="another head file than this similarity was trained with"):
        Similarity.load(run, head=f"{moved}:Mine")


def test_a_head_of_the_package_takes_no_file(tmp_path: Path, learned: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('was run')")
    with pytest.raises(InputError, match="is one of this package; leave --head out"):
        Similarity.load(learned, head=f"{tmp_path / 'mine.py'}:Mine")


def test_a_run_without_a_similarity_says_how_to_make_one(tmp_path: Path, learn: Learn) -> None:
    run = learn()
    with pytest.raises(InputError, match=r"no similarity.safetensors here; train.py --final .*run1 has that of a run"):
        Similarity.load(run)
    with pytest.raises(InputError, match="no such run folder or file"):
        Similarity.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no similarity.safetensors here; train.py --final"):
        Similarity.load(tmp_path / "pairs")


def test_other_versions_are_reported_and_taken(
    learned: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(learned, lambda about: about["versions"].update(torch="1.0", timm="0.1"))
    Similarity.load(path)
    assert "made with other versions: torch" in capsys.readouterr().err


def test_features_of_other_widths_are_refused(learned: Path) -> None:
    similarity = Similarity.load(learned)
    with pytest.raises(InputError, match=r"features of shape \(2, 9\): \(N, 320\) or \(N, 8\) is what"):
        similarity.vectors(np.zeros((2, 9), np.float32))


def test_images_that_cannot_be_read_are_named(tmp_path: Path, learned: Path) -> None:
    similarity = Similarity.load(learned)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match=r"unreadable: .*bad.png \("):
        similarity.embed([tmp_path / "pairs" / "left" / "a1.png", tmp_path / "bad.png"])
    with pytest.raises(InputError, match="no such file or folder"):
        similarity.embed(tmp_path / "none.png")
    with pytest.raises(InputError, match="no image is given"):
        similarity.embed([])
    with pytest.raises(InputError, match="holds pairs; give"):
        similarity.embed(tmp_path / "pairs")
    with pytest.raises(InputError, match="int: not an image"):
        similarity.embed([3])  # type: ignore[list-item]


def test_neither_batches_nor_threads_change_an_embedding(tmp_path: Path, learned: Path) -> None:
    similarity, folder = Similarity.load(learned), tmp_path / "pairs" / "left"
    expected = similarity.embed(folder)
    for batch_size, workers in ((1, 1), (5, 3), (100, 64)):
        assert np.allclose(similarity.embed(folder, batch_size=batch_size, workers=workers), expected, atol=1e-6)
    for names in ({"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.5}, {"workers": 0}, {"workers": -3}):
        (name,) = names
        wrong: Any = names
        with pytest.raises(InputError, match=rf"{name} .*: a whole number above 0 is expected"):
            similarity.embed(folder, **wrong)


@pytest.mark.parametrize("device", ["nonsense", "", "cuda:99", "\x1b"])
def test_a_device_that_is_not_here_is_refused_in_a_line(learned: Path, device: str) -> None:
    with pytest.raises(InputError, match="cannot be used here") as error:
        Similarity.load(learned, device=device)
    assert str(error.value).isprintable()
    assert Similarity.load(learned, device=torch.device("cpu")).device.type == "cpu"


def test_networks_of_other_dimensions_are_refused(tmp_path: Path, learned: Path) -> None:
    """As many as the PCA leaves, so that the head would take them for reduced ones."""

    def fewer(about: dict[str, Any]) -> None:
        about["backbones"][0]["layers"] = {"layer1": 32}

    with pytest.raises(InputError, match="its field 'width' is missing, of another type or out of bounds"):
        Similarity.load(edited(learned, fewer))


def test_a_folder_of_several_similarities_names_them(tmp_path: Path, learned: Path) -> None:
    both = tmp_path / "both"
    for name in ("one", "two"):
        (both / name).mkdir(parents=True)
        shutil.copyfile(learned / NAME, both / name / NAME)
    with pytest.raises(InputError, match=r"no similarity.safetensors here; give one of the folders .*: one, two$"):
        Similarity.load(both)


def test_words_and_shares_that_are_none_are_refused(learned: Path) -> None:
    similarity = Similarity.load(learned)
    with pytest.raises(InputError, match="unknown cosines 'raw'; allowed are frozen and adapted"):
        similarity.percentiles(np.zeros(1, np.float32), "raw")
    with pytest.raises(InputError, match="unknown cosines 'friends'; allowed are partners and strangers"):
        similarity.quantiles([0.5], "friends")
    with pytest.raises(InputError, match="shares from 0 to 1 are possible"):
        similarity.quantiles([50], "partners")


def test_versions_of_libraries_that_are_gone_or_long_are_told_in_few_words(
    learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(learned, lambda about: about.update(versions={"torch": "9" * 900, "numpy": "0", "mine": "1"}))
    Similarity.load(path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "numpy" in line
    assert "mine" not in line
    assert len(line) < 300 + len(str(path))


TIED = """
from torch import nn

class Tied(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.first = nn.Linear(features, features)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x))
"""


def test_a_head_whose_layers_share_weights_is_kept_too(tmp_path: Path, learn: Learn) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    address = f"{tmp_path / 'tied.py'}:Tied"
    run = learn("--final", "--model", address)
    names = split_of(run / "run1")
    left, right = (Similarity.load(run / "run1", head=address).embed(side) for side in paths(tmp_path / "pairs", names))
    assert metrics(left, right) == last(run / "run1" / "val.csv")


def test_a_pca_that_is_gone_leaves_a_gap_without_a_path(
    tmp_path: Path, learn: Learn, capsys: pytest.CaptureFixture[str]
) -> None:
    learn()
    (tmp_path / "features" / "tiny" / "pca8.skops").unlink()
    data, run = str(tmp_path / "features" / "tiny"), tmp_path / "later"
    assert train.main(["-d", data, "-s", str(run), "--cpu", "-e", "2", "-k", "1", "--final"]) == 0
    assert "its similarity cannot embed images: the PCA that reduced the features is not" in capsys.readouterr().err
    assert str(tmp_path).encode() not in (run / NAME).read_bytes()
    similarity = Similarity.load(run)
    assert similarity.vectors(np.ones((2, 8), np.float32))[1].shape == (2, 1024)
    with pytest.raises(InputError, match="cannot embed images: the PCA that reduced the features is not beside them"):
        similarity.embed(tmp_path / "pairs" / "left")
