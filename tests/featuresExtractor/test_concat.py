"""Features of several backbones side by side: the numbers beside numpy's, what is matched, kept and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

import extract
import train
from adaptation.data.sources import find_sources
from common.errors import InputError
from common.storage.files import sha256, write_json
from featuresExtractor import models
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.weights.loading import load_backbone
from featuresExtractor.concat import LONGEST, Part, _order, joined_folder
from featuresExtractor.features import features_file
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, open_features, row_type

Command = Callable[..., int]

JOINED = "tiny+tiny-b"


def facts(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time of change and contents of every file in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: body for name, (_, body) in files_of(folder).items()}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Backbone) -> Path:
    """The working folder, with a second tiny network in the table of models. Paths in records are relative to it."""
    second = replace(tiny_model, name="tiny-b", layers={"layer2": 48})
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES, second))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(work: Path, pairs: Callable[..., Path]) -> Command:
    """`command(...)` extracts four pairs with both networks and puts them side by side in `out`; later words win."""
    root = pairs(4).relative_to(work)

    def run(*words: str) -> int:
        chosen = [] if "--model" in words else ["--model", "tiny", "--model", "tiny-b"]
        first = ["-d", str(root), "-s", "out", "--weights", "random", "--cpu", "-p", "adapt"]
        return extract.main([*first, *chosen, "--concat", *words])

    return run


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to extract is a failure."""
    monkeypatch.setattr("featuresExtractor.plan.Forward", None)


def refused(command: Command, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs into wrong input: exit code 2, and one line, which is returned."""
    capsys.readouterr()
    assert command(*words) == 2
    told = capsys.readouterr().err
    (error,) = [line for line in told.splitlines() if line.startswith("extract.py: error: ")]
    assert "Traceback" not in told
    return error.removeprefix("extract.py: error: ")


# --- the numbers ---


@pytest.mark.parametrize("chunk", [1, 5000, 2**26])
def test_rows_hold_the_vectors_of_all_models_in_their_order(
    chunk: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_file, "CHUNK_BYTES", chunk)
    assert command() == 0
    first, second, both = (np.load(Path("out", name, "features.npy")) for name in ("tiny", "tiny-b", JOINED))
    for side in ("left", "right"):
        assert np.array_equal(both[side], np.hstack([first[side], second[side]]))
        assert np.allclose(np.linalg.norm(both[side], axis=1), 2, atol=1e-5)  # 3 layers and 1, each of unit length
    for field in ("left_name", "right_name", "view"):
        assert np.array_equal(both[field], first[field])
    assert both["view"].tolist() == [0] * 4 + [1] * 4


def test_pca_is_that_of_all_layers_of_all_models_and_single_ones_are_not_reduced(command: Command) -> None:
    assert command("-p", "adapt-pca", "3") == 0
    names = {"features.json", "features.npy"}
    assert {path.name for path in Path("out/tiny").iterdir()} == names
    assert {path.name for path in Path("out", JOINED).iterdir()} == {
        *names, "features_pca3.npy", "features_pca3.json", "pca3.skops",
    }  # fmt: skip
    whole, reduced = (np.load(Path("out", JOINED, f"{stem}.npy")) for stem in ("features", "features_pca3"))
    stacked = np.concatenate([whole["left"], whole["right"]]).astype(np.float64)
    reference = PCA(3, svd_solver="full").fit(stacked)
    assert np.allclose(reduced["right"], reference.transform(whole["right"].astype(np.float64)), atol=1e-5)


def test_flat_folder_is_joined_too(command: Command, image: Callable[..., Path]) -> None:
    for number in range(3):
        image(Path("flat", f"{number}.png"), seed=number)
    assert command("-d", "flat", "--no-data-aug") == 0
    assert np.load(Path("out", JOINED, "features.npy"))["features"].shape == (3, 368)


def test_a_given_pca_reduces_all_of_it(command: Command, image: Callable[..., Path]) -> None:
    assert command("-p", "adapt-pca", "3") == 0
    image(Path("flat", "n.png"), seed=9)
    pca = Path("out", JOINED, "pca3.skops")
    assert command("-d", "flat", "-s", "new", "-p", "adapt-pca", "3", "--pca", str(pca), "--no-data-aug") == 0
    assert np.load(Path("new", JOINED, "features_pca3.npy"))["features"].shape == (1, 3)
    assert Path("new", JOINED, "pca3.skops").read_bytes() == pca.read_bytes()


# --- the record, and who reads it ---


def test_record_tells_of_each_backbone(command: Command) -> None:
    assert command() == 0
    told = facts(Path("out", JOINED, "features.json"))
    parts = {name: facts(Path("out", name, "features.json")) for name in ("tiny", "tiny-b")}
    assert told["settings"] == {
        "model": "tiny + tiny-b",
        "backbones": [part["settings"] for part in parts.values()],
        "views": ["original", "flipped"],
        "dataset": parts["tiny"]["settings"]["dataset"],
    }
    assert told["sources"] == {name: sha256(Path("out", name, "features.npy")) for name in parts}
    assert told["weights_origin"] == {"tiny": "random", "tiny-b": "random"}
    assert told["sha256"] == sha256(Path("out", JOINED, "features.npy"))
    assert (told["written"], told["skipped"]) == (4, [])


def test_training_finds_each_model_and_all_of_them(command: Command) -> None:
    assert command("-p", "adapt-pca", "3") == 0
    found = {source.label: source.path for source in find_sources([Path("out")])}
    assert found == {
        "tiny (random weights)": Path("out/tiny/features.npy"),
        "tiny-b (random weights)": Path("out/tiny-b/features.npy"),
        "tiny + tiny-b (random weights)": Path("out", JOINED, "features_pca3.npy"),
    }
    words = ["-d", str(Path("out", JOINED)), "-s", "runs", "-e", "2", "-r", "1", "-k", "1", "--cpu"]
    assert train.main(words) == 0
    told = facts(Path("runs/summary.json"))
    assert told["plan"]["features"][0][0] == "tiny + tiny-b (random weights)"
    assert told["features"]["width"] == 3


# --- what is there already ---


@pytest.mark.parametrize("words", [["-p", "adapt"], ["-p", "adapt-pca", "3"]])
def test_what_is_there_is_used_again(
    words: list[str], command: Command, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 0
    before = files_of(Path("out"))
    request.getfixturevalue("no_forward")
    capsys.readouterr()
    assert command(*words) == 0
    assert files_of(Path("out")) == before
    assert capsys.readouterr().out.count("is there and was made in the same way: used again") == 3


def test_another_number_of_components_needs_no_network_and_no_copy(command: Command, monkeypatch: Any) -> None:
    assert command() == 0
    monkeypatch.setattr("featuresExtractor.plan.Forward", None)
    monkeypatch.setattr("featuresExtractor.concat._join", None)
    assert command("-p", "adapt-pca", "2") == 0
    assert command("-p", "adapt-pca", "3", "--overwrite") == 0
    assert Path("out", JOINED, "features_pca3.npy").exists()


def test_what_was_made_from_other_features_is_replaced_only_when_asked_for(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("-p", "adapt-pca", "3") == 0
    old, before = sha256(Path("out/tiny-b/features.npy")), contents(Path("out", JOINED))
    changed = np.load("out/tiny-b/features.npy")
    changed["left"] += 1e-7  # as another machine would round
    np.save("out/tiny-b/features.npy", changed)
    record = facts(Path("out/tiny-b/features.json"))
    write_json(Path("out/tiny-b/features.json"), {**record, "sha256": sha256(Path("out/tiny-b/features.npy"))})
    new = sha256(Path("out/tiny-b/features.npy"))
    told = refused(command, capsys, "-p", "adapt-pca", "3")
    reason = f"sources tiny-b: {old[:8]} there, {new[:8]} asked"
    assert (
        told == f"{Path('out', JOINED, 'features.npy')}: made from other features ({reason}); --overwrite replaces it"
    )
    assert contents(Path("out", JOINED)) == before
    assert command("-p", "adapt-pca", "3", "--overwrite") == 0
    assert np.array_equal(np.load(Path("out", JOINED, "features.npy"))["left"][:, 320:], changed["left"])


def test_other_weights_are_refused_by_name_and_replaced_when_asked_for(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 0
    shutil.rmtree("out/tiny")
    shutil.rmtree("out/tiny-b")
    told = refused(command, capsys, "--seed", "5")
    assert "(backbones 1 weights seed: 0 there, 5 asked; backbones 2 weights seed: 0 there, 5 asked)" in told
    assert command("--seed", "5", "--overwrite") == 0
    assert facts(Path("out", JOINED, "features.json"))["settings"]["backbones"][1]["weights"]["seed"] == 5


def test_joined_features_of_the_users_own_are_not_replaced(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path("out", JOINED, "features.npy")
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert refused(command, capsys).startswith(f"{mine}: already there, and no .json beside it says")
    assert mine.read_bytes() == b"mine"


# --- cut short ---


class PowerCut(Exception):
    """Nothing catches it."""


POINTS = [
    ("featuresExtractor.concat:FeaturesWriter.put", 1),
    ("featuresExtractor.concat:FeaturesWriter.seal", 1),
    *(
        (f"pathlib:Path.{name}", call)
        for name, calls in (("rename", (1, 2, 3, 4, 5, 6)), ("replace", (1, 3, 5)))
        for call in calls
    ),
    ("featuresExtractor.pca:Projection.__call__", 1),
]


@pytest.mark.parametrize(("point", "call"), POINTS)
def test_cut_short_anywhere_the_same_command_ends_with_the_same_bytes(
    point: str, call: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-p", "adapt-pca", "3"]
    assert command(*words) == 0
    expected = contents(Path("out"))
    shutil.rmtree(Path("out", JOINED))
    original, calls = resolve_name(point), 0

    def cut(*args: Any, **given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise PowerCut
        return original(*args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(point.replace(":", "."), cut)
        with pytest.raises(PowerCut):
            command(*words)
    assert command(*words) == 0
    assert contents(Path("out")) == expected


def test_nothing_is_joined_when_a_model_failed_and_the_same_command_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(model: Backbone, weights: Any) -> Any:
        if model.name == "tiny-b":
            raise InputError("broken")
        return load_backbone(model, weights)

    with monkeypatch.context() as patch:
        patch.setattr("featuresExtractor.plan.load_backbone", broken)
        assert command() == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2:] == [
        "extract.py: tiny-b failed: broken",
        "extract.py: --concat waits until no model fails: the same command goes on",
    ]
    assert [path.name for path in Path("out").iterdir()] == ["tiny"]
    assert command() == 0
    assert Path("out", JOINED, "features.npy").exists()


# --- rows are matched ---


def write(path: Path, names: list[tuple[str, str]], width: int, record: bool = True) -> Path:
    """A features file of two views, whose numbers tell names, sides and views apart."""
    row = row_type(("left", "right"), width, 8)
    with FeaturesWriter(path, row, len(names), 2) as writer:
        blocks = []
        for view in range(2):
            values = [
                [[float(left[1:]) + view / 2] * width, [-float(right[1:]) - view / 2] * width] for left, right in names
            ]
            blocks.append(make_rows(row, names, np.array(values, np.float32), view))
        writer.put(0, blocks)
    return path


def order_of(tmp_path: Path, first: list[tuple[str, str]], other: list[tuple[str, str]]) -> Any:
    paths = [write(tmp_path / f"{number}.npy", names, 2 + number) for number, names in enumerate((first, other))]
    parts = [Part(name, path, {}) for name, path in zip(("first", "other"), paths, strict=True)]
    files = [open_features(path) for path in paths]
    order = _order(parts, files, 1)
    if order is not None:
        for name in ("left_name", "right_name", "view"):
            assert np.array_equal(files[0].all()[name], files[1].all()[name][order])
        assert np.array_equal(files[0].all()["left"][:, 0], files[1].all()["left"][order][:, 0])
    return order


def test_rows_of_another_order_are_matched_by_name_and_view(tmp_path: Path) -> None:
    names = [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]
    assert order_of(tmp_path, names, names) is None
    assert order_of(tmp_path, names, names[::-1]).tolist() == [2, 1, 0, 5, 4, 3]


@pytest.mark.parametrize(
    ("first", "other", "text"),
    [
        ([1, 2, 3], [1, 3], "of first alone a2 / b2; "),
        ([1, 3], [1, 2, 3, 4], "of other alone a2 / b2, a4 / b4; "),
        ([1, 2], [1, 3], "of first alone a2 / b2; of other alone a3 / b3; "),
    ],
)
def test_rows_that_only_one_model_has_are_named(tmp_path: Path, first: list[int], other: list[int], text: str) -> None:
    names = [[(f"a{number}", f"b{number}") for number in numbers] for numbers in (first, other)]
    with pytest.raises(InputError, match=f"^first and other have other rows: {text}replace these images"):
        order_of(tmp_path, *names)


def test_names_that_are_twice_in_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds rows of the same names and view"):
        order_of(tmp_path, [("a1", "b1"), ("a2", "b2")], [("a1", "b1"), ("a1", "b1")])


def test_an_image_that_one_network_alone_takes_is_named(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, image: Callable[..., Path]
) -> None:
    """One that is too narrow to be cropped, and can be squashed."""
    squashing = replace(models.BACKBONES[-1].preprocessing, squash=True)
    second = replace(models.BACKBONES[-1], preprocessing=squashing)
    monkeypatch.setattr(models, "BACKBONES", (*models.BACKBONES[:-1], second))
    image(Path("pairs/left/a1.png"), (1, 40_000))
    told = refused(command, capsys, "--on-error", "skip")
    assert told.startswith("tiny and tiny-b have other rows: of tiny-b alone a1.png; replace these images or skip")
    assert sorted(path.name for path in Path("out").iterdir()) == ["tiny", "tiny-b"]
    Path("chosen.csv").write_text("TLL_obj\na0.png\na2.png\na3.png\n")
    assert command("--subset", "chosen.csv", "--overwrite") == 0
    assert len(np.load(Path("out", JOINED, "features.npy"))) == 6


# --- wrong input ---


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--model", "tiny"], "--concat puts the features of several models side by side, and tiny is one; give more"),
        (["-p", "save"], "--concat is for -p adapt or -p adapt-pca N, not -p save"),
        (["-p", "pca", "2"], "--concat is for -p adapt or -p adapt-pca N, not -p pca 2"),
        (["-p", "adapt-pca", "17"], "17 components asked of 16 vectors of 368 numbers; 1 to 16 are possible"),
    ],
)
def test_wrong_words_are_told_before_anything(
    words: list[str], text: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(command, capsys, *words) == text
    assert not Path("out").exists()


def test_memory_and_disk_are_looked_at_before_the_first_image(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("common.machine.device.free_memory", lambda _: 2 * 8 * 368**2 - 1)
        told = refused(command, capsys, "-p", "adapt-pca", "3")
        assert told.startswith("a PCA of 368 dimensions takes ")
        assert told.endswith("; take fewer backbones, or -p adapt")
    row = row_type(("left", "right"), 368, 6).itemsize + 2 * 4 * 368
    usage = shutil.disk_usage(".")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=8 * row - 1))
    assert "--concat, with the features of each model, takes" in refused(command, capsys)
    assert not Path("out").exists()


def test_folder_names_are_bounded_and_differ() -> None:
    assert joined_folder(["a", "b"]) == "a+b"
    names = [f"timm-network-{number:03d}" for number in range(40)]
    long, other = joined_folder(names), joined_folder([*names[:-1], "timm-network-999"])
    assert len(long.encode()) <= LONGEST
    assert long.startswith("timm-network-000+timm-")
    assert long != other
    assert len(joined_folder(["é" * 100, "b"]).encode()) <= LONGEST
