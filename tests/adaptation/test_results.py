"""The run folder, read back by other means than it was written."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adaptation import results
from adaptation.pairs import Pairs
from adaptation.trainer import Run, Scores, Settings, train_runs
from common.errors import InputError
from common.files import written_whole

SETTINGS = Settings(epochs=3, temperature=15.0, ks=(1, 3))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every TensorBoard tag of a folder with its steps and values."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def columns(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def drawn_run(train: list[float], test: list[float]) -> Scores:
    return Scores(train={"top 1": train}, test={"top 1": test}, frozen={"top 1": 0.25})


@pytest.fixture
def run(pairs: Pairs) -> Run:
    return train_runs(pairs, SETTINGS, [2])[0]


# ---- the folder


def test_a_new_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    assert results.prepare_folder(folder, overwrite=False) == folder
    assert list(folder.iterdir()) == []


def make_part(path: Path, word: str = "") -> None:
    """Something of the name's kind, as a run leaves it."""
    if path.suffix:
        path.write_text(word)
    else:
        path.mkdir(parents=True)
        (path / "train.csv").write_text(word)


@pytest.mark.parametrize("own", ["run1", "run12", "avg", "summary.json", "curves.png"])
def test_a_run_is_not_replaced_silently(tmp_path: Path, own: str) -> None:
    make_part(tmp_path / own)
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path, overwrite=False)
    assert (
        str(told.value) == f"{tmp_path}: already holds a run ({own}); give another folder, or --overwrite to replace it"
    )
    assert [path.name for path in tmp_path.iterdir()] == [own]


STRANGERS = ("runs", "run", "run1.txt", "my run1", "average", "summary.json.bak", "notes.txt")


def test_overwriting_replaces_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run1", "run20", "avg", "summary.json", "curves.png"):
        make_part(tmp_path / name, "old")
    for name in STRANGERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    written = results.prepare_folder(tmp_path, overwrite=True)
    for name in ("run1", "summary.json"):
        assert "old" in {
            path.read_text() for path in (tmp_path / name, tmp_path / name / "train.csv") if path.is_file()
        }
        make_part(written / name, "new")
    results.put_in_place(written, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "summary.json", *STRANGERS}
    assert (tmp_path / "run1" / "train.csv").read_text() == (tmp_path / "summary.json").read_text() == "new"
    assert all((tmp_path / name / "file").read_text() == name for name in STRANGERS)


def test_overwriting_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "runs"
    make_part(elsewhere, "kept")
    folder.mkdir()
    (folder / "run1").symlink_to(elsewhere)
    results.put_in_place(results.prepare_folder(folder, overwrite=True), folder)
    assert list(folder.iterdir()) == []
    assert (elsewhere / "train.csv").read_text() == "kept"


def test_what_an_interrupted_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    make_part(tmp_path / "run1", "old")
    for _ in range(2):
        written = results.prepare_folder(tmp_path, overwrite=True)
        assert list(written.iterdir()) == []
        make_part(written / "run1", "half")
        assert (tmp_path / "run1" / "train.csv").read_text() == "old"


def test_runs_are_kept_when_replacing_them_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_part(tmp_path / "run1", "old")
    written = results.prepare_folder(tmp_path, overwrite=True)
    make_part(written / "run1", "new")
    rename = Path.rename

    def once(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", interrupt)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        results.put_in_place(written, tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError) as told:
            results.prepare_folder(tmp_path, overwrite)
        assert str(told.value) == (
            f"{written}: replacing a run was cut short; move what you need out of it and remove it"
        )
    assert sorted(path.read_text() for path in tmp_path.rglob("train.csv")) == ["new", "old"]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "held", ["run1/summary.json", "run1/run1/train.csv", "avg/notes.txt", "run2/.unfinished/run1/train.csv"]
)
def test_what_only_has_the_name_of_a_run_is_left_alone(tmp_path: Path, held: str, overwrite: bool) -> None:
    make_part(tmp_path / "run3")
    (tmp_path / held).parent.mkdir(parents=True)
    (tmp_path / held).write_text("precious")
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path, overwrite)
    assert str(told.value) == (
        f"{tmp_path / held.split('/')[0]}: has the name of a part of a run and is none; give another folder, or "
        "rename it"
    )
    assert (tmp_path / held).read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"run3", held.split("/")[0]}


@pytest.mark.parametrize("there", [[], ["run1"]])
def test_a_folder_that_takes_nothing_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str]
) -> None:
    for name in there:
        make_part(tmp_path / name)
    make = Path.mkdir

    def mkdir(path: Path, *given: Any, **named: Any) -> None:
        if path.parent == tmp_path:  # as the system does for a folder of mode 555, but not to root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(InputError) as told:
        results.prepare_folder(tmp_path, overwrite=True)
    assert str(told.value) == f"{tmp_path}: no run folder could be made here (Permission denied)"


@pytest.mark.parametrize("name", ["pca.skops", "pca.partial.skops", "checkpoint.partial.pt", "split.csv"])
def test_a_run_that_was_cut_short_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / name).write_text("")
    written = results.prepare_folder(tmp_path, overwrite=True)
    make_part(written / "run2")
    results.put_in_place(written, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run2"]


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
    (run,) = train_runs(pairs, Settings("dummy"), [1])
    results.write_run(tmp_path, run, pairs, "dummy")
    found = torch.load(tmp_path / "run1" / "checkpoint.pt", weights_only=True)
    assert found == {"model": "dummy", "head": {}, "optimizer": {}, "epoch": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_is_told_in_a_line(
    tmp_path: Path, pairs: Pairs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with written_whole(path) as partial:
            if path.suffix == ".pt":
                partial.symlink_to("/dev/full")
            yield partial

    monkeypatch.setattr(results, "written_whole", full)
    with pytest.raises(OSError, match="No space left on device") as told:
        results.write_run(tmp_path, run, pairs, "original")
    assert told.value.errno == errno.ENOSPC
    assert not list((tmp_path / "run2").glob("checkpoint*"))


def test_a_file_name_that_is_not_utf8_is_logged_all_the_same(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    odd = Pairs(pairs.left, pairs.right, [(b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "a"), *pairs.names[1:]])
    results.write_run(tmp_path, run, odd, "original")
    assert columns(tmp_path / "run2" / "split.csv")["left_name"][0] == r"caf\udce9.jpg"


# ---- many runs


def test_the_average_is_that_of_the_runs_at_each_epoch(tmp_path: Path) -> None:
    results.write_average(tmp_path, [drawn_run([0.5, 1.0], [0.0, 0.5]), drawn_run([0.25, 0.5], [1.0, 0.75])])
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
    results.write_average(tmp_path, [drawn_run([0.5, 1.0], [0.0, 0.5])])
    assert columns(tmp_path / "avg" / "val.csv") == {"epoch": ["1", "2"], "top 1": ["0.0", "0.5"]}


def test_the_summary_holds_the_facts_and_the_metrics(tmp_path: Path) -> None:
    results.write_summary(tmp_path, {"top 1": {"mean": 0.5}}, {"device": "cpu"})
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found == {"device": "cpu", "metrics": {"top 1": {"mean": 0.5}}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_summary_never_holds_what_json_does_not_have(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_summary(tmp_path, {"Loss": {"mean": value}}, {})
    assert list(tmp_path.iterdir()) == []
