"""The run folder, read back by other means than it was written."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from adaptation.curves import Progress
from adaptation.data.pairs import Pairs
from adaptation.reporting import run_folder as results
from adaptation.reporting.events import EventsFile
from adaptation.trainer import Run, Scores, Settings, train_runs
from common.errors import InputError
from common.storage.files import written_whole

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
        results.check_folder(tmp_path, overwrite=False)
    assert (
        str(told.value) == f"{tmp_path}: already holds a run ({own}); give another folder, or --overwrite to replace it"
    )
    assert results.check_folder(tmp_path, overwrite=True) == [tmp_path / own]
    assert [path.name for path in tmp_path.iterdir()] == [own]


STRANGERS = ("runs", "run", "run1.txt", "my run1", "average", "summary.json.bak", "notes.txt", "run1.partial")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "held", ["run1/summary.json", "run1/run1/train.csv", "avg/notes.txt", "run2/.unfinished/run1/train.csv"]
)
def test_what_only_has_the_name_of_a_run_is_left_alone(tmp_path: Path, held: str, overwrite: bool) -> None:
    make_part(tmp_path / "run3")
    (tmp_path / held).parent.mkdir(parents=True)
    (tmp_path / held).write_text("precious")
    with pytest.raises(InputError) as told:
        results.check_folder(tmp_path, overwrite)
    assert str(told.value) == (
        f"{tmp_path / held.split('/')[0]}: has the name of a part of a run and is none; give another folder, or "
        "rename it"
    )
    assert (tmp_path / held).read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"run3", held.split("/")[0]}


@pytest.mark.parametrize("name", ["pca.skops", "frozen.csv", "checkpoint.pt", "split.csv", "events.out.tfevents.1"])
def test_a_run_that_was_cut_short_is_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "run1").mkdir()
    (tmp_path / "run1" / name).write_text("")
    assert results.own_parts(tmp_path) == [tmp_path / "run1"]


def test_strangers_are_no_run(tmp_path: Path) -> None:
    for name in STRANGERS:
        (tmp_path / name).mkdir()
    assert results.check_folder(tmp_path, overwrite=False) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as told:
        results.check_folder(tmp_path / "file", overwrite=True)
    assert str(told.value) == f"{tmp_path / 'file'}: is a file; -s takes a folder"


# ---- a run


def test_a_run_has_its_files(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    found = {path.name for path in (tmp_path / "run2").iterdir()}
    assert found == {"checkpoint.pt", "split.csv", "train.csv", "val.csv", "frozen.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["run2"]


def test_a_run_that_was_cut_short_is_written_anew(
    tmp_path: Path, pairs: Pairs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            results.write_run(tmp_path, run, pairs, "original")
    results.write_run(tmp_path, run, pairs, "original")
    assert [path.name for path in tmp_path.iterdir()] == ["run2"]
    assert len(list((tmp_path / "run2").glob("*.partial*"))) == 0
    assert results.read_scores(tmp_path / "run2", len(run.train["Loss"])) == run.scores()


def test_a_run_takes_the_place_of_a_damaged_one(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    make_part(tmp_path / "run2", "damaged")
    (tmp_path / "run2" / "stale.csv").touch()
    (tmp_path / "run2" / "folder").mkdir()
    results.write_run(tmp_path, run, pairs, "original")
    assert results.read_scores(tmp_path / "run2", 3) == run.scores()
    assert not (tmp_path / "run2" / "stale.csv").exists()


# ---- a run, read again


@pytest.mark.parametrize("head", ["original", "dummy"])
def test_a_run_is_read_as_it_was_written(tmp_path: Path, pairs: Pairs, head: str) -> None:
    (run,) = train_runs(pairs, replace(SETTINGS, head=head), [2])
    results.write_run(tmp_path, run, pairs, head)
    found = results.read_scores(tmp_path / "run2", 1 if head == "dummy" else 3)
    assert found == run.scores()
    assert found is not None
    for one, other in ((found.train, run.train), (found.test, run.test), (found.frozen, run.frozen)):
        assert list(one) == list(other)


ODD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 1e-7, 123456789.123456789]


def test_no_digit_is_lost(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    odd = replace(run, train={"Loss": ODD}, test={"Loss": ODD[::-1]}, frozen={"Loss": ODD[2], "MRR": ODD[0]})
    results.write_run(tmp_path, odd, pairs, "original")
    found = results.read_scores(tmp_path / "run2", len(ODD))
    assert found is not None
    assert list(map(repr, found.train["Loss"])) == list(map(repr, ODD))
    assert list(map(repr, found.test["Loss"])) == list(map(repr, ODD[::-1]))
    assert found.frozen == odd.frozen


@pytest.mark.parametrize("epochs", [0, 2, 4])
def test_a_run_of_other_epochs_is_none(tmp_path: Path, pairs: Pairs, run: Run, epochs: int) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    assert results.read_scores(tmp_path / "run2", epochs) is None


def without_last_line(log: bytes) -> bytes:
    return b"".join(log.splitlines(keepends=True)[:-1])


def last_line_twice(log: bytes) -> bytes:
    return log + log.splitlines(keepends=True)[-1]


def cut(log: bytes) -> bytes:
    return log[: log.rindex(b",")]


def zeros(log: bytes) -> bytes:
    return bytes(len(log))  # as some file systems leave it after a power cut


def one_long_line(log: bytes) -> bytes:
    return log + bytes(200_000)


def words(log: bytes) -> bytes:
    return log.replace(b".", b"x")


def not_utf8(log: bytes) -> bytes:
    return b"\xff" + log


def empty(_: bytes) -> bytes:
    return b""


DAMAGES = [without_last_line, last_line_twice, cut, zeros, one_long_line, words, not_utf8, empty]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train.csv", "val.csv", "frozen.csv"])
def test_a_damaged_log_is_none(
    tmp_path: Path, pairs: Pairs, run: Run, name: str, damage: Callable[[bytes], bytes]
) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    path = tmp_path / "run2" / name
    path.write_bytes(damage(path.read_bytes()))
    assert results.read_scores(tmp_path / "run2", 3) is None


@pytest.mark.parametrize("name", ["train.csv", "val.csv", "frozen.csv"])
def test_a_missing_log_is_none(tmp_path: Path, pairs: Pairs, run: Run, name: str) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    (tmp_path / "run2" / name).unlink()
    assert results.read_scores(tmp_path / "run2", 3) is None


def test_where_there_is_no_run_there_are_no_scores(tmp_path: Path) -> None:
    assert results.read_scores(tmp_path / "run1", 3) is None


@pytest.mark.parametrize(("prefix", "file"), [("Train", "train.csv"), ("Test", "val.csv")])
def test_logs_hold_the_curves(tmp_path: Path, pairs: Pairs, run: Run, prefix: str, file: str) -> None:
    results.write_run(tmp_path, run, pairs, "original")
    curves = run.train if prefix == "Train" else run.test
    logged = columns(tmp_path / "run2" / file)
    assert logged.pop("epoch") == ["1", "2", "3"]
    assert {name: [float(value) for value in column] for name, column in logged.items()} == curves


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
    assert not list(tmp_path.rglob("checkpoint*"))


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


def test_frozen_features_are_constant_curves_of_the_same_tags(tmp_path: Path) -> None:
    runs = [Scores(frozen={"top 1": share}) for share in (0.25, 0.75)]
    for _ in range(2):
        results.write_frozen(tmp_path, runs, 150)
    constant = [(1, 0.5), (150, 0.5)]
    assert scalars(tmp_path / "frozen") == {"Test/top 1": constant, "Avg_Test/top 1": constant}
    assert len(list((tmp_path / "frozen").iterdir())) == 1


def test_curves_of_a_run_that_was_cut_short_stay(tmp_path: Path, pairs: Pairs, run: Run) -> None:
    epochs = len(run.train["Loss"])
    EventsFile(tmp_path / "run2").add(Progress(2, 1, run.train, run.test, [0.0] * epochs))
    before = scalars(tmp_path / "run2")
    results.write_run(tmp_path, run, pairs, "original")
    assert scalars(tmp_path / "run2") == before
    assert len(before["Train/Loss"]) == epochs


def test_one_run_is_its_own_average_and_has_no_deviation(tmp_path: Path) -> None:
    results.write_average(tmp_path, [drawn_run([0.5, 1.0], [0.0, 0.5])])
    assert columns(tmp_path / "avg" / "val.csv") == {"epoch": ["1", "2"], "top 1": ["0.0", "0.5"]}


def test_the_summary_holds_the_record(tmp_path: Path) -> None:
    results.write_summary(tmp_path, {"device": "cpu", "metrics": {"top 1": {"mean": 0.5}}})
    found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert found == {"device": "cpu", "metrics": {"top 1": {"mean": 0.5}}}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_summary_never_holds_what_json_does_not_have(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write_summary(tmp_path, {"metrics": {"Loss": {"mean": value}}})
    assert list(tmp_path.iterdir()) == []


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    results.write_summary(tmp_path, {"device": "cpu", "metrics": {"top 1": {"mean": 1 / 3, "sd": None}}})
    assert results.read_summary(tmp_path) == {"device": "cpu", "metrics": {"top 1": {"mean": 1 / 3, "sd": None}}}


@pytest.mark.parametrize("written", [None, b"", b'{"metrics": {', b"\xff"])
def test_a_summary_that_cannot_be_read_is_none(tmp_path: Path, written: bytes | None) -> None:
    if written is not None:
        (tmp_path / "summary.json").write_bytes(written)
    assert results.read_summary(tmp_path) is None


def test_an_average_takes_the_place_of_one_that_is_there(tmp_path: Path) -> None:
    make_part(tmp_path / "avg", "old")
    (tmp_path / "avg" / "events.out.tfevents.1").touch()
    results.write_average(tmp_path, [drawn_run([0.5], [0.0])])
    assert columns(tmp_path / "avg" / "val.csv") == {"epoch": ["1"], "top 1": ["0.0"]}
    assert len(list((tmp_path / "avg").iterdir())) == 3
