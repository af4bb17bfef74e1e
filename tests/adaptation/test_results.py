"""The run folder, read back by other means than it was written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adaptation import results
from adaptation.pairs import Pairs
from adaptation.splits import draw_split
from adaptation.trainer import Run, Settings, train_run
from common.errors import InputError

SETTINGS = Settings(epochs=3, temperature=15.0, ks=(1, 3))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every TensorBoard tag of a folder with its steps and values."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def columns(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def drawn_run(number: int, train: list[float], test: list[float]) -> Run:
    split, frozen = draw_split(4, 0.5, number), {"top 1": 0.25}
    return Run(number, split, torch.nn.Identity(), None, {"top 1": train}, {"top 1": test}, frozen)


@pytest.fixture
def run(pairs: Pairs) -> Run:
    return train_run(pairs, SETTINGS, number=2)


# ---- the folder


def test_a_new_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    results.prepare_folder(tmp_path / "runs" / "first", overwrite=False)
    assert (tmp_path / "runs" / "first").is_dir()


@pytest.mark.parametrize("own", ["run1", "run12", "avg", "summary.json", "curves.png"])
def test_a_run_is_not_replaced_silently(tmp_path: Path, own: str) -> None:
    (tmp_path / own).mkdir()
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path, overwrite=False)
    assert (
        str(told.value) == f"{tmp_path}: already holds a run ({own}); give another folder, or --overwrite to replace it"
    )
    assert (tmp_path / own).is_dir()


STRANGERS = ("runs", "run", "run1.txt", "my run1", "average", "summary.json.bak", "notes.txt")


def test_overwriting_removes_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run1", "run20", "avg", *STRANGERS):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "curves.png").write_bytes(b"")
    results.prepare_folder(tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == set(STRANGERS)
    assert all((tmp_path / name / "file").read_text() == name for name in STRANGERS)


def test_overwriting_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "runs"
    for made in (elsewhere, folder):
        made.mkdir()
    (elsewhere / "precious").write_text("kept")
    (folder / "run1").symlink_to(elsewhere)
    results.prepare_folder(folder, overwrite=True)
    assert list(folder.iterdir()) == []
    assert (elsewhere / "precious").read_text() == "kept"


def test_strangers_are_no_run(tmp_path: Path) -> None:
    for name in STRANGERS:
        (tmp_path / name).mkdir()
    results.prepare_folder(tmp_path, overwrite=False)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path / "file", overwrite=True)
    assert str(told.value) == f"{tmp_path / 'file'}: is a file; -s takes a folder"
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path / "file" / "below", overwrite=True)
    assert str(told.value) == f"{tmp_path / 'file' / 'below'}: no run folder could be made here (Not a directory)"


# ---- a run


def test_a_run_has_its_files(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    found = {path.name for path in (tmp_path / "run2").iterdir()}
    (events,) = found - {"checkpoint.pt", "split.csv", "train.csv", "val.csv"}
    assert events.startswith("events.out.tfevents.")
    assert len(found) == 5


@pytest.mark.parametrize(("prefix", "file"), [("Train", "train.csv"), ("Test", "val.csv")])
def test_events_and_logs_hold_the_curves(tmp_path: Path, pairs: Pairs, run: Run, prefix: str, file: str) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    curves = run.train if prefix == "Train" else run.test
    logged = columns(tmp_path / "run2" / file)
    assert logged.pop("epoch") == ["1", "2", "3"]
    assert {name: [float(value) for value in column] for name, column in logged.items()} == curves
    events = {tag: points for tag, points in scalars(tmp_path / "run2").items() if tag.startswith(f"{prefix}/")}
    assert events == {f"{prefix}/{name}": list(enumerate(curve, 1)) for name, curve in curves.items()}


def test_the_split_names_every_pair_and_its_set(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    found = columns(tmp_path / "run2" / "split.csv")
    assert list(zip(found["left_name"], found["right_name"], strict=True)) == pairs.names
    tested = [number for number, name in enumerate(found["set"]) if name == "test"]
    trained = [number for number, name in enumerate(found["set"]) if name == "train"]
    assert (tested, trained) == (run.split.test.tolist(), run.split.train.tolist())


def test_the_checkpoint_is_of_tensors_alone(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    found = torch.load(tmp_path / "run2" / "checkpoint.pt", weights_only=True)
    assert found["model"] == "original"
    assert found["epoch"] == 3
    run.head.load_state_dict(found["head"])
    assert run.optimiser is not None
    fresh = torch.optim.Adam(run.head.parameters())
    fresh.load_state_dict(found["optimizer"])
    for name in ("exp_avg", "exp_avg_sq"):
        (weight,) = run.head.parameters()
        assert torch.equal(fresh.state[weight][name], run.optimiser.state[weight][name])
        assert fresh.state[weight][name].any()
    assert fresh.state[weight]["step"] == 3
    assert fresh.param_groups[0]["lr"] == 1e-3


def test_the_checkpoint_of_frozen_features_is_empty(tmp_path: Path, pairs: Pairs) -> None:
    results.write_run(tmp_path, train_run(pairs, Settings("dummy"), 1), pairs, "dummy")
    found = torch.load(tmp_path / "run1" / "checkpoint.pt", weights_only=True)
    assert found == {"model": "dummy", "head": {}, "optimizer": {}, "epoch": 1}


def test_a_file_name_that_is_not_utf8_is_logged_all_the_same(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    odd = Pairs(pairs.left, pairs.right, [(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "a"), *pairs.names[1:]])
    results.write_run(tmp_path, run, odd, "original")
    assert columns(tmp_path / "run2" / "split.csv")["left_name"][0] == r"caf\udce9.jpg"


# ---- many runs


def test_the_average_is_that_of_the_runs_at_each_epoch(tmp_path: Path) -> None:
    results.write_average(tmp_path, [drawn_run(1, [0.5, 1.0], [0.0, 0.5]), drawn_run(2, [0.25, 0.5], [1.0, 0.75])])
    assert scalars(tmp_path / "avg") == {
        "Avg_Train/top 1": [(1, 0.375), (2, 0.75)],
        "Avg_Test/top 1": [(1, 0.5), (2, 0.625)],
    }
    trained, tested = columns(tmp_path / "avg" / "train.csv"), columns(tmp_path / "avg" / "val.csv")
    assert (trained["epoch"], trained["top 1"]) == (["1", "2"], ["0.375", "0.75"])
    assert (tested["epoch"], tested["top 1"]) == (["1", "2"], ["0.5", "0.625"])
    # of two numbers the deviation (n - 1) is their distance by the root of two
    assert [float(value) for value in trained["top 1 sd"]] == pytest.approx([0.25 / 2**0.5, 0.5 / 2**0.5])
    assert [float(value) for value in tested["top 1 sd"]] == pytest.approx([1 / 2**0.5, 0.25 / 2**0.5])


def test_one_run_is_its_own_average_and_has_no_deviation(tmp_path: Path) -> None:
    results.write_average(tmp_path, [drawn_run(1, [0.5, 1.0], [0.0, 0.5])])
    assert columns(tmp_path / "avg" / "val.csv") == {"epoch": ["1", "2"], "top 1": ["0.0", "0.5"]}


def test_the_summary_holds_the_facts_and_the_metrics(tmp_path: Path) -> None:
    results.write_summary(tmp_path, {"top 1": {"mean": 0.5}}, {"device": "cpu"})
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found == {"device": "cpu", "metrics": {"top 1": {"mean": 0.5}}}


# ---- the plot


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def blue_rows(picture: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The rows in which the test curve's blue is found, left of the legend."""
    near = (np.abs(picture.astype(int) - [31, 119, 180]) < 12).all(-1)
    return np.flatnonzero(near[:, : picture.shape[1] // 2].any(1))


def test_the_plot_is_a_picture_that_shows_the_test_curve(tmp_path: Path) -> None:
    results.write_curves(tmp_path, [drawn_run(1, [0.4, 0.4], [0.95, 0.95])], (1,))
    high = blue_rows(pixels(tmp_path / "curves.png"))
    results.write_curves(tmp_path, [drawn_run(1, [0.4, 0.4], [0.6, 0.6])], (1,))
    low = blue_rows(pixels(tmp_path / "curves.png"))
    assert high.size
    assert high.max() < low.min()  # rows count from above


def test_the_plot_has_a_part_for_every_k(tmp_path: Path, run: Run) -> None:
    results.write_curves(tmp_path, [run], (1,))
    one = pixels(tmp_path / "curves.png").shape
    results.write_curves(tmp_path, [run], (1, 3))
    assert pixels(tmp_path / "curves.png").shape == (one[0], 2 * one[1], 3)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
