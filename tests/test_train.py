"""`train.py` as a user runs it, on features that are small enough for a second."""

from __future__ import annotations

import csv
import gc
import hashlib
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from adaptation import memory, trainer
from adaptation import plan as planning
from adaptation.data.pairs import Pairs
from adaptation.heads import HeadStack
from adaptation.losses import contrast
from adaptation.memory import GIB, Layout, Size
from adaptation.plan import Setup
from adaptation.reporting import run_folder as results
from adaptation.tiled_loss import Tiling
from adaptation.trainer import Settings
from common.machine import device
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from featuresExtractor.features.fields import HOW

PAIRS, NUMBERS, NOISY, EPOCHS, RUNS = 40, 8, 2, 80, 2
NAMES = [(f"{number:02d}.jpg", f"{number:02d}.png") for number in range(PAIRS)]
METRICS = [
    "Loss",
    *("top 1", "top 3"),
    *("recall 1 left-to-right", "recall 3 left-to-right", "recall 1 right-to-left", "recall 3 right-to-left"),
    *("MRR", "median rank"),
]


def numbers(views: int = 2) -> NDArray[np.float32]:
    """(views, pairs, sides, numbers): six numbers that partners share, and two louder ones that say nothing."""
    generator = np.random.default_rng(7)
    meaning = np.broadcast_to(generator.standard_normal((1, PAIRS, 1, NUMBERS - NOISY)), (views, PAIRS, 2, 6))
    noise = generator.standard_normal((views, PAIRS, 2, NUMBERS))
    return np.concatenate([meaning + 0.1 * noise[..., NOISY:], 3 * noise[..., :NOISY]], axis=-1).astype(np.float32)


def write_features(path: Path, features: NDArray[np.float32]) -> Path:
    row = row_type(("left", "right"), features.shape[-1], 8)
    names = NAMES[: features.shape[1]]
    with FeaturesWriter(path, row, len(names), len(features)) as writer:
        writer.put(0, [make_rows(row, names, block, view) for view, block in enumerate(features)])
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over so few numbers take ten times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(tmp_path_factory.mktemp("features") / "features.npy", numbers())


@pytest.fixture(scope="module")
def finished(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two runs."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert train.main([*arguments(features, folder), "-e", str(EPOCHS), "-r", str(RUNS)]) == 0
    return folder


def arguments(features: Path, folder: Path) -> list[str]:
    return ["-d", str(features), "-s", str(folder), "-t", "15", "--cpu"]


def columns(path: Path) -> dict[str, list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def curves(path: Path) -> dict[str, list[float]]:
    return {name: [float(value) for value in column] for name, column in columns(path).items()}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


# ---- the run folder


def test_the_run_folder_holds_what_is_said_of_it(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {"run1", "run2", "avg", "frozen", "summary.json", "curves.png"}
    for run in ("run1", "run2"):
        found = {re.sub(r"tfevents.*", "tfevents", path.name) for path in (finished / run).iterdir()}
        assert found == {
            *("checkpoint.pt", "events.out.tfevents", "frozen.csv", "similarity.safetensors"),
            *("split.csv", "train.csv", "val.csv"),
        }
    found = {re.sub(r"tfevents.*", "tfevents", path.name) for path in (finished / "avg").iterdir()}
    assert found == {"events.out.tfevents", "train.csv", "val.csv"}


def test_tensorboard_shows_the_fields_tags_over_epochs_from_one(finished: Path) -> None:
    for folder, prefix in ((finished / "run1", ""), (finished / "run2", ""), (finished / "avg", "Avg_")):
        found = scalars(folder)
        assert set(found) == {f"{prefix}{part}/{name}" for part in ("Train", "Test") for name in METRICS}
        assert all([step for step, _ in points] == list(range(1, EPOCHS + 1)) for points in found.values())


def test_tensorboard_and_logs_hold_the_same_numbers(finished: Path) -> None:
    for folder, prefix in ((finished / "run1", ""), (finished / "run2", ""), (finished / "avg", "Avg_")):
        events = scalars(folder)
        for part, file in (("Train", "train.csv"), ("Test", "val.csv")):
            logged = curves(folder / file)
            for name in METRICS:
                assert [value for _, value in events[f"{prefix}{part}/{name}"]] == pytest.approx(logged[name])


def test_the_average_is_that_of_the_runs(finished: Path) -> None:
    for file in ("train.csv", "val.csv"):
        one, other, mean = (curves(finished / folder / file) for folder in ("run1", "run2", "avg"))
        for name in METRICS:
            middle = [(a + b) / 2 for a, b in zip(one[name], other[name], strict=True)]
            assert mean[name] == pytest.approx(middle)
            spread = [statistics.stdev(both) for both in zip(one[name], other[name], strict=True)]
            assert mean[f"{name} sd"] == pytest.approx(spread)


def test_the_summary_tells_where_the_numbers_come_from(finished: Path, features: Path) -> None:
    found = summary_of(finished)
    assert found["settings"] == {
        "head": "original",
        "epochs": EPOCHS,
        "temperature": 15.0,
        "test_split": 0.25,
        "ks": [1, 3],
        "seed": 0,
        "batch_size": None,
        "precision": "fp32",
        "runs": RUNS,
        "subset": None,
    }
    sha256 = hashlib.sha256(features.read_bytes()).hexdigest()
    assert found["features"] == {"file": str(features), "sha256": sha256, "views": 2, "width": NUMBERS}
    assert found["pairs"] == {"train": 30, "test": 10}
    assert found["device"].startswith("cpu")
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_summary_sums_up_the_logs(finished: Path) -> None:
    logs = [curves(finished / run / "val.csv") for run in ("run1", "run2")]
    metrics = summary_of(finished)["metrics"]
    assert list(metrics) == METRICS
    for name, found in metrics.items():
        assert list(found) == ["last_epoch", "best_epoch_on_test", "frozen"]
        best = min if name in ("Loss", "median rank") else max
        expect_numbers(found["last_epoch"], [log[name][-1] for log in logs])
        expect_numbers(found["best_epoch_on_test"], [best(log[name]) for log in logs])
        assert found["best_epoch_on_test"]["epochs"] == [log[name].index(best(log[name])) + 1 for log in logs]
        assert len(found["frozen"]["runs"]) == RUNS


def expect_numbers(found: dict[str, Any], runs: list[float]) -> None:
    """Mean, deviation and interval of two runs: Student's t is 12.706 for one degree of freedom."""
    mean, half = sum(runs) / 2, 12.706205 * statistics.stdev(runs) / math.sqrt(2)
    assert found["runs"] == pytest.approx(runs)
    assert found["mean"] == pytest.approx(mean)
    assert found["sd"] == pytest.approx(statistics.stdev(runs))
    assert found["interval95"] == pytest.approx([mean - half, mean + half])


def test_the_plot_is_a_png(finished: Path) -> None:
    with Image.open(finished / "curves.png") as image:
        assert image.format == "PNG"
        image.load()
        assert image.width > image.height > 100


# ---- the learned head


def recalls(left: torch.Tensor, right: torch.Tensor) -> tuple[float, float]:
    """aR@1 and the mean reciprocal rank, by sorting."""
    similarities = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T
    forth, back = (
        [sorted(row, reverse=True).index(row[number]) + 1 for number, row in enumerate(matrix.tolist())]
        for matrix in (similarities, similarities.T)
    )
    found = sum(min(pair) == 1 for pair in zip(forth, back, strict=True)) / len(forth)
    return found, sum(1 / rank for rank in forth + back) / (2 * len(forth))


@pytest.mark.parametrize("run", ["run1", "run2"])
def test_the_checkpoint_and_the_split_give_the_last_test_metrics_again(
    finished: Path, features: Path, run: str
) -> None:
    checkpoint = torch.load(finished / run / "checkpoint.pt", weights_only=True)
    assert (checkpoint["model"], checkpoint["epoch"]) == ("original", EPOCHS)
    assert {"head", "optimizer"} < set(checkpoint)
    (weight,) = checkpoint["head"].values()
    split = columns(finished / run / "split.csv")
    tested = {name for name, part in zip(split["left_name"], split["set"], strict=True) if part == "test"}
    assert len(tested) == 10
    table = np.load(features)
    table = table[(table["view"] == 0) & np.isin(table["left_name"], sorted(tested))]
    left, right = (torch.from_numpy(table[side].copy()) @ weight.T for side in ("left", "right"))
    logged = curves(finished / run / "val.csv")
    assert recalls(left.relu(), right.relu()) == pytest.approx((logged["top 1"][-1], logged["MRR"][-1]))
    plain = (torch.from_numpy(table[side].copy()) for side in ("left", "right"))
    number = int(run.removeprefix("run")) - 1
    assert recalls(*plain)[0] == pytest.approx(summary_of(finished)["metrics"]["top 1"]["frozen"]["runs"][number])


def test_adaptation_improves_on_the_frozen_features(finished: Path) -> None:
    found = summary_of(finished)["metrics"]
    assert found["top 1"]["last_epoch"]["mean"] > found["top 1"]["frozen"]["mean"] + 0.15
    for name in ("Loss", "median rank"):
        assert found[name]["last_epoch"]["mean"] < 0.7 * found[name]["frozen"]["mean"]
    loss = curves(finished / "avg" / "train.csv")["Loss"]
    assert loss[-1] < loss[0]


def test_the_second_run_has_other_test_pairs(finished: Path) -> None:
    assert columns(finished / "run1" / "split.csv") != columns(finished / "run2" / "split.csv")


def same_run(one: Path, other: Path) -> bool:
    files = ("train.csv", "val.csv", "split.csv")
    heads = [torch.load(folder / "checkpoint.pt", weights_only=True)["head"] for folder in (one, other)]
    (weight,), (other_weight,) = (head.values() for head in heads)
    logs = all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    return logs and torch.equal(weight, other_weight)


def test_a_run_is_the_same_however_many_there_are(features: Path, tmp_path: Path) -> None:
    for runs in (1, 5):
        assert train.main([*arguments(features, tmp_path / str(runs)), "-e", "2", "-r", str(runs)]) == 0
    assert same_run(tmp_path / "1" / "run1", tmp_path / "5" / "run1")
    assert not same_run(tmp_path / "1" / "run1", tmp_path / "5" / "run2")


def test_the_seed_makes_the_numbers(features: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "3"), ("same", "3"), ("other", "4")):
        assert train.main([*arguments(features, tmp_path / name), "-e", "2", "--seed", seed]) == 0
    assert same_run(tmp_path / "one" / "run1", tmp_path / "same" / "run1")
    assert not same_run(tmp_path / "one" / "run1", tmp_path / "other" / "run1")


# ---- other ways to call it


def test_petersons_head_learns_a_weight_a_number(features: Path, tmp_path: Path) -> None:
    assert train.main([*arguments(features, tmp_path), "-e", "30", "--model", "peterson"]) == 0
    (weight,) = torch.load(tmp_path / "run1" / "checkpoint.pt", weights_only=True)["head"].values()
    assert weight.shape == (NUMBERS,)
    assert weight[-NOISY:].max() < weight[:-NOISY].min()  # what says nothing counts less
    loss = curves(tmp_path / "run1" / "train.csv")["Loss"]
    assert loss[-1] < loss[0]


def test_the_dummy_is_the_frozen_features_and_takes_one_look(features: Path, tmp_path: Path, finished: Path) -> None:
    assert train.main([*arguments(features, tmp_path), "-r", "2", "--model", "dummy"]) == 0
    assert curves(tmp_path / "run1" / "val.csv")["epoch"] == [1.0]
    for name, found in summary_of(tmp_path)["metrics"].items():
        assert found["last_epoch"] == found["frozen"]
        assert found["frozen"] == summary_of(finished)["metrics"][name]["frozen"]  # on the same splits


def test_one_run_has_no_interval(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*arguments(features, tmp_path), "-e", "2"]) == 0
    last = summary_of(tmp_path)["metrics"]["top 1"]["last_epoch"]
    assert (last["sd"], last["interval95"]) == (None, None)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("aR@1"))
    assert line.split()[3:5] == ["-", "-"]


def test_the_closing_table_shows_frozen_and_adapted_side_by_side(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments(features, tmp_path), "-e", "20", "-r", "2", "-k", "5", "1", "5"]) == 0
    out = capsys.readouterr().out
    assert "head original on cpu" in out
    assert "40 pairs, 2 views, 8 dimensions" in out
    assert "10 test pairs, mean of 2 runs" in out
    metrics = summary_of(tmp_path)["metrics"]
    assert [name for name in metrics if name.startswith("top")] == ["top 1", "top 5"]
    rows = [line.split() for line in out.splitlines()]
    for name, found in metrics.items():
        last = found["last_epoch"]
        low, high = (f"{bound:.3f}" for bound in last["interval95"])
        values = (found["frozen"]["mean"], last["mean"], last["sd"], found["best_epoch_on_test"]["mean"])
        frozen, mean, sd, best = (f"{value:.3f}" for value in values)
        assert [*name.replace("top ", "aR@").split(), frozen, mean, sd, low, "..", high, best] in rows
    assert str(tmp_path / "summary.json") in out
    assert f"tensorboard --logdir {tmp_path}" in out


def test_the_columns_of_the_closing_table_are_what_they_are_called(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "top 1": {
            "last_epoch": {"mean": 0.4, "sd": 0.05, "interval95": [0.3, 0.5]},
            "best_epoch_on_test": {"mean": 0.6},
            "frozen": {"mean": 0.2},
        }
    }
    setup = Setup(Settings(), 20, 1049, torch.device("cpu"))
    train._show_run(metrics, setup, Path("runs"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "1,049 test pairs, mean of 20 runs; adapted: head original, after the last epoch"
    assert re.split(r"\s{2,}", lines[2]) == ["test pairs", "frozen", "adapted", "sd", "95 % interval", "best epoch*"]
    assert re.split(r"\s{2,}", lines[4]) == ["aR@1", "0.200", "0.400", "0.050", "0.300 .. 0.500", "0.600"]
    assert lines[5] == "* picked on the test pairs, run by run: optimistic"


def test_a_subset_of_the_pairs_is_trained_on(features: Path, tmp_path: Path) -> None:
    subset = tmp_path / "some.csv"
    subset.write_text("name\n" + "\n".join(left for left, _ in NAMES[::2]) + "\n", encoding="utf-8")
    assert train.main([*arguments(features, tmp_path / "runs"), "-e", "2", "--subset", str(subset)]) == 0
    assert summary_of(tmp_path / "runs")["pairs"] == {"train": 15, "test": 5}
    assert columns(tmp_path / "runs" / "run1" / "split.csv")["left_name"] == [left for left, _ in NAMES[::2]]


ZEBRA = "'zebra.jpg' is wanted, and for example '00.jpg' is there"


def test_names_that_the_file_does_not_have_can_be_left_out(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = tmp_path / "some.csv"
    subset.write_text("name\n" + "\n".join(left for left, _ in NAMES[:20]) + "\nzebra.jpg\n", encoding="utf-8")
    call = [*arguments(features, tmp_path / "runs"), "-e", "2", "--subset", str(subset)]
    assert train.main(call) == 2
    told = f"{subset}: 1 of its names are not in {features}"
    assert one_line(capsys) == f"{told}: zebra.jpg ({ZEBRA}); --on-error skip leaves them out"
    assert train.main([*call, "--on-error", "skip"]) == 0
    assert f"{told} and are left out: zebra.jpg ({ZEBRA})" in capsys.readouterr().err.splitlines()
    assert summary_of(tmp_path / "runs")["pairs"] == {"train": 15, "test": 5}


def test_the_fields_old_file_gives_the_numbers_of_the_new_one(features: Path, tmp_path: Path) -> None:
    flat = numbers().reshape(2 * PAIRS, 2, NUMBERS)
    old = {"left": flat[:, 0], "right": flat[:, 1]}
    names = {f"{side}_name": [pair[number] for pair in NAMES] * 2 for number, side in enumerate(("left", "right"))}
    np.save(tmp_path / "old.npy", np.array({**old, **names}, dtype=object), allow_pickle=True)
    for name, file in (("old", tmp_path / "old.npy"), ("new", features)):
        assert train.main([*arguments(file, tmp_path / name), "-e", "3"]) == 0
    assert same_run(tmp_path / "old" / "run1", tmp_path / "new" / "run1")


def test_features_without_flips_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = write_features(tmp_path / "features.npy", numbers(views=1))
    assert train.main([*arguments(features, tmp_path / "runs"), "-e", "2"]) == 0
    assert summary_of(tmp_path / "runs")["features"]["views"] == 1
    assert "40 pairs, 1 view (no flipped copies recognised), 8 dimensions" in capsys.readouterr().out


def test_an_old_file_whose_second_half_is_of_other_pairs_is_told_to_have_no_flips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = numbers(views=1)[0]
    old = {"left": first[:, 0], "right": first[:, 1]}
    old_names = {f"{side}_name": [pair[number] for pair in NAMES] for number, side in enumerate(("left", "right"))}
    np.save(tmp_path / "old.npy", np.array({**old, **old_names}, dtype=object), allow_pickle=True)
    assert train.main([*arguments(tmp_path / "old.npy", tmp_path / "runs"), "-e", "2"]) == 0
    assert "40 pairs, 1 view (no flipped copies recognised), 8 dimensions" in capsys.readouterr().out


def test_fp32_is_asked_for_and_the_pairs_go_to_the_chosen_device(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    to, tf32, train_runs = Pairs.to, device.tf32, trainer.train_runs

    def moved(pairs: Pairs, where: torch.device) -> Pairs:
        calls.append(where)
        return to(pairs, torch.device("cpu"))

    def precision(allowed: bool) -> AbstractContextManager[None]:
        calls.append("tf32" if allowed else "full precision")
        return tf32(allowed)

    def trained(*given: Any, **named: Any) -> list[trainer.Run]:
        calls.append("train")
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        return train_runs(*given, **named)

    monkeypatch.setattr(Pairs, "to", moved)
    monkeypatch.setattr(device, "choose_device", lambda gpu: torch.device("meta") if gpu else None)
    monkeypatch.setattr(device, "tf32", precision)
    monkeypatch.setattr(trainer, "train_runs", trained)
    assert train.main(["-d", str(features), "-s", str(tmp_path), "-e", "1", "--gpu"]) == 0
    assert len(calls) == 3
    assert set(calls[:2]) == {"full precision", torch.device("meta")}
    assert calls[2] == "train"


@pytest.mark.gpu
def test_gpu_and_cpu_agree(features: Path, tmp_path: Path) -> None:
    for where in ("cpu", "gpu"):
        call = ["-d", str(features), "-s", str(tmp_path / where), "-t", "15", "-e", "20", f"--{where}"]
        assert train.main(call) == 0
        assert ("cuda" in summary_of(tmp_path / where)["device"]) == (where == "gpu")
    for file in ("train.csv", "val.csv"):
        one, other = (curves(tmp_path / where / "run1" / file)["Loss"] for where in ("cpu", "gpu"))
        assert one == pytest.approx(other, abs=1e-4)
    # without map_location: what was saved are tensors of the CPU
    checkpoint = torch.load(tmp_path / "gpu" / "run1" / "checkpoint.pt", weights_only=True)
    states = [value for state in checkpoint["optimizer"]["state"].values() for value in state.values()]
    tensors = [value for value in [*checkpoint["head"].values(), *states] if isinstance(value, torch.Tensor)]
    assert len(tensors) == 4  # W, and Adam's step and two moments
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_and_done_without(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["-d", str(features), "-s", str(tmp_path / "runs"), "-e", "2", "--gpu"]
    assert train.main(call) == 0
    assert re.search(r"^no GPU that torch can use was found.*: using the CPU$", capsys.readouterr().err, re.MULTILINE)
    assert summary_of(tmp_path / "runs")["device"].startswith("cpu")


def test_another_loss_is_recorded_and_does_not_continue_runs_of_the_default(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["-d", str(features), "-s", str(tmp_path / "runs"), "-e", "2", "--cpu"]
    assert train.main(call) == 0
    assert train.main([*call, "--loss", "sigmoid"]) == 2
    assert "loss: none there, sigmoid asked" in capsys.readouterr().err
    assert train.main([*call, "--loss", "sigmoid", "--overwrite"]) == 0
    assert summary_of(tmp_path / "runs")["settings"]["loss"] == "sigmoid"


def test_the_defaults_are_the_papers() -> None:
    args = train.build_parser().parse_args(["-d", "features.npy", "-s", "runs"])
    assert (args.model, args.epochs, args.runs, args.temperature) == ("original", 150, 1, 1.0)
    assert (args.test_split, args.k, args.seed, args.gpu) == (0.25, None, 0, None)
    assert (args.pca_fit, args.components) == ("extract", None)
    assert (args.batch_size, args.precision, args.memory) == (None, "fp32", None)


# ---- runs side by side, batches, precision, memory


@pytest.fixture
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that holds three runs."""
    monkeypatch.setattr(planning, "lay_out", lambda *given: replace(memory.lay_out(*given), runs=3))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("where", ["adaptation.trainer.train_epoch", "adaptation.data.pairs.Pairs.to"])
def test_a_gpu_that_does_not_hold_the_runs_is_told_in_one_line(
    where: str,
    error: Exception,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(where, full)
    assert train.main([*arguments(features, tmp_path), "-e", "1"]) == 2
    told = "the GPU's memory does not hold the runs; give less --memory, a --batch-size, or --cpu"
    assert capsys.readouterr().err.splitlines()[-1] == f"train.py: error: {told}"


def expect_alike(one: Path, other: Path) -> None:
    """Runs whose files hold the same but for rounding: their splits byte for byte."""
    assert (one / "split.csv").read_bytes() == (other / "split.csv").read_bytes()
    for file in ("train.csv", "val.csv"):
        found, expected = curves(one / file), curves(other / file)
        assert list(found) == list(expected)
        for name, curve in found.items():
            assert curve == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name
    found, expected = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other))
    assert (found["model"], found["epoch"]) == (expected["model"], expected["epoch"])
    torch.testing.assert_close(found["head"], expected["head"], rtol=1e-3, atol=1e-5)
    assert found["optimizer"].get("param_groups") == expected["optimizer"].get("param_groups")
    state, other_state = (checkpoint["optimizer"].get("state", {}) for checkpoint in (found, expected))
    torch.testing.assert_close(state, other_state, rtol=1e-3, atol=1e-6)


MORE = [
    [],
    ["--model", "peterson"],
    ["--model", "dummy"],
    ["--batch-size", "8"],
    ["--pca-fit", "train", "--components", "4"],
    ["--pca-fit", "train", "--components", "4", "--batch-size", "8"],
]


def test_an_apple_gpu_leaves_training_to_the_cpu(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert train.main(["-d", str(features), "-s", str(tmp_path / "run"), "-e", "1", "--gpu"]) == 0
    shown = capsys.readouterr()
    assert "training on an Apple GPU is not supported: using the CPU" in shown.err.splitlines()
    assert "head original on cpu (" in shown.out


@pytest.mark.parametrize("more", MORE)
def test_runs_side_by_side_are_written_as_one_after_the_other(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, more: list[str]
) -> None:
    call = ["-e", "4", "-r", "5", *more]
    assert train.main([*arguments(features, tmp_path / "single"), *call]) == 0
    capsys.readouterr()
    request.getfixturevalue("three_at_once")
    assert train.main([*arguments(features, tmp_path / "stacked"), *call]) == 0
    err = capsys.readouterr().err
    assert ("5/5" if "dummy" in more else "20/20") in err  # one bar: all epochs of all runs
    assert "runs 4-5/5" in err
    written = [
        {re.sub(r"tfevents.*", "tfevents", str(path.relative_to(folder))) for path in folder.rglob("*")}
        for folder in (tmp_path / "single", tmp_path / "stacked")
    ]
    assert written[0] == written[1]
    for run in range(1, 6):
        expect_alike(tmp_path / "stacked" / f"run{run}", tmp_path / "single" / f"run{run}")
    splits = {(tmp_path / "stacked" / f"run{run}" / "split.csv").read_bytes() for run in range(1, 6)}
    assert len(splits) == 5
    for name, found in summary_of(tmp_path / "stacked")["metrics"].items():
        for part, values in found.items():
            expected = summary_of(tmp_path / "single")["metrics"][name][part]
            assert values["runs"] == pytest.approx(expected["runs"], rel=1e-5, abs=1e-6)


def test_runs_go_in_groups_in_order(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, three_at_once: None
) -> None:
    done: list[object] = []
    train_runs, write_run = trainer.train_runs, results.write_run

    def trained(*given: Any, **named: Any) -> list[trainer.Run]:
        done.append(list(given[2]))
        return train_runs(*given, **named)

    def written(folder: Path, run: trainer.Run, *given: Any) -> None:
        done.append(run.number)
        write_run(folder, run, *given)

    monkeypatch.setattr(trainer, "train_runs", trained)
    monkeypatch.setattr(results, "write_run", written)
    assert train.main([*arguments(features, tmp_path), "-e", "1", "-r", "5"]) == 0
    assert done == [[1, 2, 3], 1, 2, 3, [4, 5], 4, 5]


def test_one_run_alone_is_told_as_one(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], three_at_once: None
) -> None:
    assert train.main([*arguments(features, tmp_path), "-e", "1", "-r", "4"]) == 0
    assert "run 4/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ([], Size(views=2, trained=30, tested=10, batch=30, width=8, embedding=1024, weights=8192)),
        (["--model", "peterson"], Size(views=2, trained=30, tested=10, batch=30, width=8, embedding=8, weights=8)),
        (["--batch-size", "7"], Size(views=2, trained=30, tested=10, batch=7, width=8, embedding=1024, weights=8192)),
        (["--batch-size", "99"], Size(views=2, trained=30, tested=10, batch=30, width=8, embedding=1024, weights=8192)),
        (
            ["--pca-fit", "train", "--components", "3", "--model", "dummy"],
            Size(views=2, trained=30, tested=10, batch=30, width=3, embedding=3, weights=0),
        ),
        (
            ["--test-split", "0.5"],
            Size(views=2, trained=20, tested=20, batch=20, width=8, embedding=1024, weights=8192),
        ),
    ],
)
def test_the_memory_is_laid_out_for_what_is_trained(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], size: Size
) -> None:
    seen: list[tuple[Any, ...]] = []

    def laid_out(*given: Any) -> Layout:
        seen.append(given)
        return memory.lay_out(*given)

    monkeypatch.setattr(planning, "lay_out", laid_out)
    call = [*arguments(features, tmp_path), "-e", "1", "-r", "2", "--memory", "0.5", *more]
    assert train.main([*call, "--precision", "bf16"]) == 0
    assert set(seen) == {(size, 2, torch.device("cpu"), 0.5 * GIB, True)}


def test_too_little_memory_is_told_in_one_line(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*arguments(features, tmp_path / "runs"), "--memory", "0.001"]) == 2
    # 2 * (2 * 30 + 10) * 8 features, ten times 30 * 1024, three times 30 * 30, eight times 8 * 1024: 376,556
    # numbers of four bytes
    assert one_line(capsys) == (
        "training on 30 pairs takes some 0.0014 GiB of memory, 0.001 GiB may be used; --memory allows more, "
        "--batch-size takes fewer pairs at a time"
    )
    assert not (tmp_path / "runs").exists()
    fewer = ["-e", "1", "--memory", "0.0012", "--batch-size", "20"]
    assert train.main([*arguments(features, tmp_path / "runs"), *fewer]) == 0


def test_similarities_that_are_computed_twice_change_no_number(
    features: Path, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Tiling] = []
    train_runs = trainer.train_runs

    def trained(*given: Any) -> list[trainer.Run]:
        used.append(given[5])
        return train_runs(*given)

    monkeypatch.setattr(trainer, "train_runs", trained)
    size = Size(views=2, trained=30, tested=10, batch=30, width=8, embedding=1024, weights=8192)
    between = (size.least(Tiling(keep=False)) + size.matrix / 2) / GIB
    call = ["-e", str(EPOCHS), "-r", str(RUNS), "--memory", repr(between)]
    assert train.main([*arguments(features, tmp_path), *call]) == 0
    assert used == [Tiling(keep=False)] * RUNS
    found, expected = summary_of(tmp_path)["metrics"], summary_of(finished)["metrics"]
    for name, parts in expected.items():
        for part, values in parts.items():
            assert found[name][part]["runs"] == pytest.approx(values["runs"], rel=1e-6, abs=1e-6)


def test_batches_are_trained_on_and_told(features: Path, tmp_path: Path, finished: Path) -> None:
    call = [*arguments(features, tmp_path), "-e", "20", "--batch-size", "8"]
    assert train.main(call) == 0
    assert summary_of(tmp_path)["settings"]["batch_size"] == 8
    checkpoint = torch.load(tmp_path / "run1" / "checkpoint.pt", weights_only=True)
    assert checkpoint["epoch"] == 20
    assert [state["step"] for state in checkpoint["optimizer"]["state"].values()] == [20 * 4]
    assert (tmp_path / "run1" / "split.csv").read_bytes() == (finished / "run1" / "split.csv").read_bytes()
    loss = curves(tmp_path / "run1" / "train.csv")["Loss"]
    assert loss[-1] < loss[0] < curves(finished / "run1" / "train.csv")["Loss"][0]  # among fewer


def test_a_batch_size_beyond_the_pairs_is_all_of_them(features: Path, tmp_path: Path) -> None:
    for name, more in (("all", []), ("batch", ["--batch-size", "30"])):
        assert train.main([*arguments(features, tmp_path / name), "-e", "3", *more]) == 0
    assert same_run(tmp_path / "all" / "run1", tmp_path / "batch" / "run1")


def test_tf32_is_for_a_gpu(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*arguments(features, tmp_path / "runs"), "--precision", "tf32"]) == 2
    assert one_line(capsys) == "--precision tf32: is for a GPU; a CPU takes fp32 or bf16"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_tf32_is_allowed_while_training_when_it_is_asked_for(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, allowed: bool
) -> None:
    flags: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    seen: dict[bool, list[list[bool]]] = {True: [], False: []}  # of steps and of tests

    def contrasted(*given: Any, **named: Any) -> Any:
        seen[torch.is_grad_enabled()].append([flag.allow_tf32 for flag in flags])
        return contrast(*given, **named)

    monkeypatch.setattr("adaptation.trainer.contrast", contrasted)
    monkeypatch.setitem(device.TAKEN, "cpu", ("fp32", "tf32", "bf16"))  # where it does nothing
    assert train.main([*arguments(features, tmp_path), "-e", "2", "--precision", precision]) == 0
    assert seen[True]
    assert all(each == [allowed, allowed] for each in seen[True])
    assert len(seen[False]) == 3  # two epochs, and the frozen features
    assert not any(map(any, seen[False]))
    assert [flag.allow_tf32 for flag in flags] == before
    assert summary_of(tmp_path)["settings"]["precision"] == precision


def test_bf16_learns_as_fp32_does(features: Path, tmp_path: Path, finished: Path) -> None:
    call = [*arguments(features, tmp_path), "-e", str(EPOCHS), "-r", str(RUNS), "--precision", "bf16"]
    assert train.main(call) == 0
    assert summary_of(tmp_path)["settings"]["precision"] == "bf16"
    for run in ("run1", "run2"):
        for file in ("train.csv", "val.csv"):
            found, expected = (curves(folder / run / file)["Loss"] for folder in (tmp_path, finished))
            assert found == pytest.approx(expected, rel=0.01)
            assert found != expected
    for name, found in summary_of(tmp_path)["metrics"].items():
        assert found["frozen"] == summary_of(finished)["metrics"][name]["frozen"]


@pytest.mark.parametrize("more", [[], ["--batch-size", "8"]])
def test_frozen_features_are_tested_the_same_in_every_precision(
    features: Path, tmp_path: Path, more: list[str]
) -> None:
    for precision in ("fp32", "bf16"):
        call = [*arguments(features, tmp_path / precision), "-r", "2", "--model", "dummy", "--precision", precision]
        assert train.main([*call, *more]) == 0
    for run in ("run1", "run2"):
        one, other = ((tmp_path / precision / run / "val.csv").read_bytes() for precision in ("fp32", "bf16"))
        assert one == other


def test_the_help_tells_what_the_flags_take_and_leave() -> None:
    told = " ".join(train.build_parser().format_help().split())
    assert "--batch-size N pairs in a step, at most; metrics of training then have the batch as their gallery" in told
    assert "--precision {fp32,tf32,bf16} arithmetic (default fp32, as in the paper); bf16 rounds the products" in told
    assert "--memory GIB memory for training; where it does not hold the pairs' similarities they are computed" in told


# ---- nothing is lost


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_run_that_is_there_stays_as_it_is(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [*arguments(features, tmp_path), "-e", "2"]
    assert train.main(call) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    assert train.main([*call, "--seed", "1"]) == 2
    assert one_line(capsys) == (
        f"{tmp_path}: already holds runs of other settings (seed: 0 there, 1 asked); give another folder, or "
        "--overwrite replaces them"
    )
    assert contents(tmp_path) == before


def test_overwriting_replaces_the_runs_and_leaves_other_files_alone(features: Path, tmp_path: Path) -> None:
    assert train.main([*arguments(features, tmp_path), "-e", "3", "-r", "3"]) == 0
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "run1").write_text("mine too")
    assert train.main([*arguments(features, tmp_path), "-e", "2", "--overwrite"]) == 0
    own = {"run1", "avg", "frozen", "summary.json", "curves.png"}
    assert {path.name for path in tmp_path.iterdir()} == own | {"notes.txt", "images"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "images" / "run1").read_text() == "mine too"
    assert len(scalars(tmp_path / "run1")["Train/Loss"]) == 2  # and no events of before


def test_the_old_run_stays_until_the_new_one_is_whole(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [*arguments(features, tmp_path), "-e", "2", "-r", "2", "--overwrite"]
    assert train.main(call) == 0
    before = contents(tmp_path)
    for module, step in ((trainer, "train_epoch"), (results, "write_average"), (results, "write_summary")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, interrupt)
            assert train.main([*call, "--seed", "1"]) == 130
        found = contents(tmp_path)
        assert {name: found[name] for name in found if not name.startswith(".unfinished/")} == before
    assert train.main([*call, "--seed", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "run2", "avg", "frozen", "summary.json", "curves.png"}
    assert summary_of(tmp_path)["settings"]["seed"] == 1
    assert "interrupted" in capsys.readouterr().err


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# ---- interrupted, and gone on with


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of a run folder whose bytes the numbers alone make: all but what TensorBoard reads, which has times."""
    return {name: without_flags(body) for name, (body, _) in contents(folder).items() if "tfevents" not in name}


def without_flags(body: bytes) -> bytes:
    """A record without the command line, which has the folder in it."""
    return re.sub(rb'(?s)\n  "flags": \{.*?\n  \},', b"", body)


@pytest.fixture
def trained_numbers(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Receives the numbers of the runs that are trained."""
    seen: list[list[int]] = []
    train_runs = trainer.train_runs

    def trained(*given: Any, **named: Any) -> list[trainer.Run]:
        seen.append(list(given[2]))
        return train_runs(*given, **named)

    monkeypatch.setattr(trainer, "train_runs", trained)
    return seen


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int, call: list[str]) -> None:
    """The command, interrupted when it has trained the run of that number."""
    write_run = results.write_run

    def written(folder: Path, run: trainer.Run, *given: Any) -> None:
        if run.number == number:
            raise KeyboardInterrupt
        write_run(folder, run, *given)

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_run", written)
        assert train.main(call) == 130


@pytest.mark.parametrize("more", MORE)
def test_runs_that_are_missing_are_trained_alone_and_nothing_tells_of_the_interruption(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_numbers: list[list[int]],
    more: list[str],
) -> None:
    rest = ["-e", "3", "-r", "4", *more]
    assert train.main([*arguments(features, tmp_path / "uncut"), *rest]) == 0
    call = [*arguments(features, tmp_path / "cut"), *rest]
    interrupted_at(monkeypatch, 3, call)
    told = "\ntrain.py: interrupted; the same command goes on with the runs that are missing\n"
    assert capsys.readouterr().err.endswith(told)
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [".unfinished"]
    trained_numbers.clear()
    assert train.main(call) == 0
    assert trained_numbers == [[3], [4]]
    out, err = capsys.readouterr()
    assert "going on with the runs that an interrupted call left" in out
    assert ("4/4" if "dummy" in more else "12/12") in err
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")
    assert scalars(tmp_path / "cut" / "avg") == scalars(tmp_path / "uncut" / "avg")


@pytest.mark.parametrize("name", ["train.csv", "val.csv", "frozen.csv"])
def test_a_run_that_was_damaged_meanwhile_is_trained_again(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained_numbers: list[list[int]], name: str
) -> None:
    rest = ["-e", "3", "-r", "3"]
    assert train.main([*arguments(features, tmp_path / "uncut"), *rest]) == 0
    call = [*arguments(features, tmp_path / "cut"), *rest]
    interrupted_at(monkeypatch, 3, call)
    log = tmp_path / "cut" / ".unfinished" / "run1" / name
    log.write_bytes(log.read_bytes()[:-40])
    trained_numbers.clear()
    assert train.main(call) == 0
    assert trained_numbers == [[1], [3]]
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")


def test_runs_side_by_side_that_are_missing_are_trained_together(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    three_at_once: None,
    trained_numbers: list[list[int]],
) -> None:
    call = [*arguments(features, tmp_path), "-e", "2", "-r", "5"]
    interrupted_at(monkeypatch, 2, call)
    trained_numbers.clear()
    assert train.main(call) == 0
    assert trained_numbers == [[2, 3, 4], [5]]


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
@pytest.mark.parametrize("step", ["write_average", "write_summary", "place"])
def test_what_is_trained_is_not_trained_again(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained_numbers: list[list[int]],
    step: str,
    more: list[str],
) -> None:
    rest = ["-e", "2", "-r", "2"]
    call = [*arguments(features, tmp_path / "cut"), *rest, *more]
    assert train.main([*arguments(features, tmp_path / "uncut"), *rest]) == 0
    if more:
        assert train.main([*call, "--seed", "7"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Staging if step == "place" else results, step, interrupt)
        assert train.main(call) == 130
    trained_numbers.clear()
    assert train.main(call) == 0
    assert trained_numbers == []
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")


@pytest.mark.parametrize("which", range(6))
def test_a_call_that_was_cut_short_while_it_placed_its_runs_ends_without_training(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_numbers: list[list[int]],
    which: int,
) -> None:
    rest = ["-e", "2", "-r", "2"]
    assert train.main([*arguments(features, tmp_path / "uncut"), *rest]) == 0
    table = capsys.readouterr().out.splitlines()[-16:-3]
    call = [*arguments(features, tmp_path / "cut"), *rest]
    complete, rename, done = Staging.complete, Path.rename, list[Path]()

    def some(path: Path, target: Path) -> Path:
        if len(done) == which:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    def completed(staging: Staging) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", some)
            return complete(staging)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "complete", completed)
        assert train.main(call) == 130
    trained_numbers.clear()
    capsys.readouterr()
    assert train.main(call) == 0
    assert trained_numbers == []
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {
        "run1",
        "run2",
        "avg",
        "frozen",
        "summary.json",
        "curves.png",
    }
    assert capsys.readouterr().out.splitlines()[-16:-3] == table


def test_the_very_same_runs_are_not_made_again(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trained_numbers: list[list[int]]
) -> None:
    call = [*arguments(features, tmp_path), "-e", "2", "-r", "2"]
    assert train.main(call) == 0
    table, before = capsys.readouterr().out.splitlines()[-16:], contents(tmp_path)
    assert train.main(call) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{tmp_path}: these very runs are here already; --overwrite makes them again"
    assert out[-16:] == table
    assert contents(tmp_path) == before
    assert train.main([*call, "--overwrite"]) == 0
    assert trained_numbers == [[1], [2]] * 2


def test_a_disk_without_room_for_the_checkpoints_is_seen_before_training(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    width = numbers().shape[-1]
    needed = 2 * 4 * 4 * 1024 * width  # runs; weights, twice, and two moments of each; bytes; the paper's head
    for free, code in ((needed - 1, 2), (needed, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert train.main([*arguments(features, tmp_path / "new" / "runs"), "-e", "1", "-r", "2"]) == code
        assert (tmp_path / "new" / "runs" / "summary.json").exists() == (code == 0)
        assert ("checkpoints and similarities take 0.00" in capsys.readouterr().err) == (code == 2)


def test_nothing_is_removed_behind_a_link_in_the_place_of_an_unfinished_run(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [*arguments(features, tmp_path / "runs"), "-e", "2", "-r", "3"]
    interrupted_at(monkeypatch, 2, call)
    unfinished = tmp_path / "runs" / ".unfinished"
    shutil.rmtree(unfinished / "run1")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photo.jpg").write_bytes(b"mine")
    (unfinished / "run1").symlink_to(tmp_path / "photos")
    assert train.main(call) == 2
    assert "is behind a link; remove the link" in capsys.readouterr().err
    assert (tmp_path / "photos" / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (["--seed", "1"], "seed: 0 there, 1 asked"),
        (["-r", "4"], "number of runs: 3 there, 4 asked"),
        (["-e", "3", "-r", "2"], "epochs: 2 there, 3 asked; number of runs: 3 there, 2 asked"),
        (["--pca-fit", "train", "--components", "2"], "PCA of each run: none there, 2 asked"),
        (["--subset"], "pairs: "),
        (["-d"], "features: "),
    ],
)
def test_unfinished_runs_of_other_settings_are_not_mixed_with(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained_numbers: list[list[int]],
    change: list[str],
    differing: str,
) -> None:
    if change == ["--subset"]:
        (tmp_path / "some.csv").write_text("name\n" + "\n".join(left for left, _ in NAMES[1:]) + "\n", encoding="utf-8")
        change = ["--subset", str(tmp_path / "some.csv")]
    if change == ["-d"]:
        values = numbers()
        values[0, 0, 0, 0] += 1
        change = ["-d", str(write_features(tmp_path / "features.npy", values))]
    folder = tmp_path / "runs"
    call = [*arguments(features, folder), "-e", "2", "-r", "3"]
    interrupted_at(monkeypatch, 2, call)
    before = contents(folder)
    capsys.readouterr()
    trained_numbers.clear()
    assert train.main([*call, *change]) == 2
    told = one_line(capsys)
    assert told.startswith(f"{folder / '.unfinished'}: unfinished work of other settings is here ({differing}")
    assert told.endswith("; give the settings that it was begun with, or --overwrite to begin anew")
    assert contents(folder) == before
    assert train.main([*call, *change, "--overwrite"]) == 0
    assert trained_numbers[0] == [1]
    assert not (folder / ".unfinished").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_in_one_line_and_what_is_done_is_kept(
    features: Path, tmp_path: Path, trained_numbers: list[list[int]], number: signal.Signals, code: int
) -> None:
    call = [*arguments(features, tmp_path / "cut"), "-e", "10", "-r", "60"]
    command, pipe = [sys.executable, str(SCRIPT), *call], subprocess.PIPE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        units = tmp_path / "cut" / ".unfinished" / "units.jsonl"
        while process.poll() is None and not (units.exists() and units.read_bytes().count(b"\n") >= 2):
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "train.py: interrupted; the same command goes on with the runs that are missing"
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [".unfinished"]
    done = Staging(tmp_path / "cut").units
    assert train.main(call) == 0
    assert len(trained_numbers) == 60 - len(done)
    assert {"run1", "run2"} <= done.keys()


def told_features(folder: Path) -> Path:
    """A features file and a `.json` that says its SHA-256, as `extract.py` writes them."""
    path = write_features(folder / "told" / "features.npy", numbers())
    facts = {"settings": {"model": "m"}, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    return path


@pytest.mark.parametrize("where", [200, -1, 0.5])
def test_a_changed_byte_is_seen_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained_numbers: list[list[int]], where: float
) -> None:
    path = told_features(tmp_path)
    contents = bytearray(path.read_bytes())
    told = hashlib.sha256(contents).hexdigest()
    contents[int(where * len(contents)) if isinstance(where, float) else where] ^= 1
    path.write_bytes(contents)
    assert train.main([*arguments(path, tmp_path / "runs"), "-e", "2"]) == 2
    found = hashlib.sha256(contents).hexdigest()
    assert one_line(capsys) == (
        f"{path}: was changed or damaged since it was written (its SHA-256 begins with {found[:8]}, and its .json says "
        f"{told[:8]}); get it again, or extract it again with --overwrite"
    )
    assert trained_numbers == []
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_what_its_json_says_is_trained_on(tmp_path: Path) -> None:
    path = told_features(tmp_path)
    assert train.main([*arguments(path, tmp_path / "runs"), "-e", "2"]) == 0
    assert summary_of(tmp_path / "runs")["features"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_experiments_called_like_runs_are_no_runs_of_the_folder_above(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    for name in ("run1", "run2"):
        assert train.main([*arguments(features, tmp_path / "exp" / name), "-e", "2"]) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    assert train.main([*arguments(features, tmp_path / "exp"), "-e", "2", *more]) == 2
    assert one_line(capsys).startswith(f"{tmp_path / 'exp' / 'run1'}: has the name of a part of a run and is none; ")
    assert contents(tmp_path) == before


def test_a_finished_run_leaves_no_weights_in_memory(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[weakref.ref[torch.Tensor]] = []
    train_runs = trainer.train_runs

    def trained(*given: Any, **named: Any) -> list[trainer.Run]:
        gc.collect()
        assert sum(weight() is not None for weight in weights) <= 1  # the last one's, which is dropped for the next
        runs = train_runs(*given, **named)
        weights.extend(weakref.ref(weight) for run in runs for weight in run.head.parameters())
        return runs

    stacks: list[weakref.ref[HeadStack]] = []

    def stacked(*given: Any) -> HeadStack:
        gc.collect()
        assert not any(stack() is not None for stack in stacks)
        made = HeadStack(*given)
        stacks.append(weakref.ref(made))
        return made

    monkeypatch.setattr(trainer, "train_runs", trained)
    monkeypatch.setattr(trainer, "HeadStack", stacked)
    assert train.main([*arguments(features, tmp_path), "-e", "1", "-r", "4"]) == 0
    assert len(weights) == len(stacks) == 4


@pytest.mark.parametrize("wrong", [["-k", "11"], ["--test-split", "1"], ["--subset", "nowhere.csv"]])
def test_wrong_input_costs_no_run_that_is_there(features: Path, tmp_path: Path, wrong: list[str]) -> None:
    call = [*arguments(features, tmp_path), "-e", "2", "--overwrite"]
    assert train.main(call) == 0
    before = contents(tmp_path)
    assert train.main([*call, *wrong]) == 2
    assert contents(tmp_path) == before


# ---- wrong input


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the one line on stderr says."""
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1
    return error.removeprefix("train.py: error: ").removesuffix("\n")


SHARE = ": give a share between 0 and 1, such as 0.25"
GALLERY = ": the 10 test pairs are the gallery; k from 1 to 10 is possible"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--test-split", "0"], f"--test-split 0{SHARE}"),
        (["--test-split", "1"], f"--test-split 1{SHARE}"),
        (["--test-split", "1.5"], f"--test-split 1.5{SHARE}"),
        (["--test-split", "-0.5"], f"--test-split -0.5{SHARE}"),
        (["--test-split", "0.02"], "--test-split 0.02 of 40 pairs leaves no test pair; --test-split 0.03 leaves 1"),
        (["--test-split", "nan"], f"--test-split nan{SHARE}"),
        (["-k", "11"], f"-k 11{GALLERY}"),
        (["-k", "1", "3", "4199"], f"-k 4199{GALLERY}"),
    ],
)
def test_settings_that_the_pairs_do_not_admit(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], told: str
) -> None:
    assert train.main([*arguments(features, tmp_path / "runs"), *changes]) == 2
    assert one_line(capsys) == told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["-k", "0"], "argument -k: '0' is not a whole number above 0"),
        (["-k", "1.5"], "argument -k: '1.5' is not a whole number above 0"),
        (["-e", "0"], "argument -e/--epochs: '0' is not a whole number above 0"),
        (["-r", "-1"], "argument -r/--runs: '-1' is not a whole number above 0"),
        (["-t", "0"], "argument -t/--temperature: '0' is not a number above 0"),
        (["-t", "nan"], "argument -t/--temperature: 'nan' is not a number above 0"),
        (["-t", "inf"], "argument -t/--temperature: 'inf' is not a number above 0"),
        (["-t", "-3"], "argument -t/--temperature: '-3' is not a number above 0"),
        (["-t", "warm"], "argument -t/--temperature: 'warm' is not a number above 0"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number"),
        (["--test-split", "half"], "argument --test-split: invalid float value: 'half'"),
        (["--gpu"], "argument --gpu: not allowed with argument --cpu"),
        (["--batch-size", "0"], "argument --batch-size: '0' is not a whole number above 0"),
        (["--batch-size", "half"], "argument --batch-size: 'half' is not a whole number above 0"),
        (["--precision", "fp16"], "argument --precision: invalid choice: 'fp16'"),
        (["--memory", "0"], "argument --memory: '0' is not a number above 0"),
        (["--memory", "8GB"], "argument --memory: '8GB' is not a number above 0"),
    ],
)
def test_settings_that_have_no_meaning(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([*arguments(features, tmp_path / "runs"), *changes])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"train.py: error: {told}")
    assert not (tmp_path / "runs").exists()


def no_file(path: Path) -> None:
    """Writes nothing."""


def folder(path: Path) -> None:
    path.mkdir()


def text(path: Path) -> None:
    path.write_text("left,right\n")


def plain_array(path: Path) -> None:
    np.save(path, np.zeros((3, 4), np.float32))


def other_fields(path: Path) -> None:
    np.save(path, np.zeros(3, [("a", "f4"), ("b", "f4")]))


def other_types(path: Path) -> None:
    np.save(path, np.zeros(3, [*row_type(("left", "right"), 4, 5).descr[:-1], ("view", "f8")]))


def no_rows(path: Path) -> None:
    np.save(path, np.zeros(0, row_type(("left", "right"), 4, 5)))


def cut(path: Path) -> None:
    write_features(path, numbers())
    path.write_bytes(path.read_bytes()[:-100])


def flat_folder(path: Path) -> None:
    np.save(path, np.zeros(3, row_type(("features",), 4, 5)))


def not_finite(path: Path) -> None:
    values = numbers()
    values[1, 5, 1, 2] = np.nan
    write_features(path, values)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (no_file, "no features file could be read here (No such file or directory)"),
        (
            folder,
            "no features files here; extract.py -p adapt or adapt-pca N makes <model>/features.npy (a file of -p pca N "
            "must be given itself)",
        ),
        (text, f"not a .npy or .npz file; extract.py writes the features file, and {HOW}"),
        (
            plain_array,
            "one array (float32, shape (3, 4)), not rows with fields; give the arrays of both sides, -d LEFT.npy "
            f"RIGHT.npy --paired, or: {HOW}",
        ),
        (other_fields, f"has no field left or left_ebds; its fields are a, b; {HOW}"),
        (
            other_types,
            "field view: float64, shape (3,); whole numbers of shape (3,) are expected, 0 for an original and 1 for "
            f"its flipped view. {HOW}",
        ),
        (no_rows, "holds no pairs, or no numbers for them; extract it again"),
        (cut, "cut short or damaged: its header promises 80 rows; extract it again"),
        (flat_folder, "features of a flat folder; training needs pairs (a folder with left/ and right/)"),
        (
            not_finite,
            "05.jpg / 05.png, right, view 1: nan at index 2, not a finite number; replace or leave out its image and "
            "extract it again",
        ),
    ],
)
def test_a_file_that_is_no_features_file_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None], told: str
) -> None:
    path = tmp_path / "features.npy"
    write(path)
    assert train.main(arguments(path, tmp_path / "runs")) == 2
    assert one_line(capsys) == f"{path}: {told}"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "{csv}: no names found; one name a line is expected, below a header or without one"),
        ("name\n", "{csv}: no names found; one name a line is expected, below a header or without one"),
        (
            "name\n00.jpg\nzebra.jpg\n",
            f"{{csv}}: 1 of its names are not in {{npy}}: zebra.jpg ({ZEBRA}); --on-error skip leaves them out",
        ),
        ("name\nzebra.jpg\n", f"{{csv}}: none of its 1 names is among the 40 there; {ZEBRA}"),
        (
            "a,b\n1,2\n",
            "{csv}: columns a, b; expected one column, or one called TLL_obj, left_name, name; give the one with the "
            "names the header 'name', or leave it alone in the file",
        ),
    ],
)
def test_a_subset_that_names_no_pairs_of_the_file(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], written: str, told: str
) -> None:
    subset = tmp_path / "some.csv"
    subset.write_text(written)
    assert train.main([*arguments(features, tmp_path / "runs"), "--subset", str(subset)]) == 2
    assert one_line(capsys) == told.format(csv=subset, npy=features)
    assert not (tmp_path / "runs").exists()


def test_a_subset_that_is_not_there(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*arguments(features, tmp_path / "runs"), "--subset", str(tmp_path / "no.csv")]) == 2
    assert one_line(capsys).startswith(f"{tmp_path / 'no.csv'}: no CSV file could be read here (")


def test_a_temperature_that_no_float_holds(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*arguments(features, tmp_path / "runs"), "-e", "2", "-t", "1e38"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: error: "))
    assert line == "train.py: error: the loss is not finite at a temperature (-t) of 1e+38; give a smaller one"
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_is_a_file(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("mine")
    assert train.main([*arguments(features, tmp_path / "runs"), "--overwrite"]) == 2
    assert one_line(capsys) == f"{tmp_path / 'runs'}: is a file; -s takes a folder"
    assert (tmp_path / "runs").read_text() == "mine"


def test_no_call_without_features_and_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([])
    assert ended.value.code == 2
    assert "the following arguments are required: -d/--data, -s/--save" in capsys.readouterr().err


# ---- help, quickly

SCRIPT = Path(train.__file__)


def imported_by_help(script: Path) -> set[str]:
    """The packages that `script -h` imports, as the interpreter itself reports them."""
    command = [sys.executable, "-X", "importtime", str(script), "-h"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "usage: train.py" in ended.stdout
    reported = [
        line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")
    ]
    return {name.split(".")[0] for name in reported}


def test_help_imports_nothing_heavy() -> None:
    found = imported_by_help(SCRIPT)
    assert "argparse" in found
    assert not found & {"torch", "numpy", "scipy", "matplotlib", "tensorboard", "adaptation", "featuresExtractor"}


@pytest.mark.parametrize("before", ["import torch", "def f():\n    import torch\nf()", "import adaptation.heads"])
def test_a_help_that_imports_torch_would_be_noticed(tmp_path: Path, before: str) -> None:
    source = SCRIPT.read_text(encoding="utf-8")
    future = "from __future__ import annotations\n"
    assert future in source
    (tmp_path / "train.py").write_text(source.replace(future, f"{future}{before}\n"), encoding="utf-8")
    assert "torch" in imported_by_help(tmp_path / "train.py")


def test_help_answers_within_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, str(SCRIPT), "-h"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_a_second_command_on_the_same_folder_is_refused(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(tmp_path):
        assert train.main([*arguments(features, tmp_path), "-e", "2", "--overwrite"]) == 2
    assert one_line(capsys).startswith(f"{tmp_path}: another process is writing here")
    assert contents(tmp_path) == {}


# ---- tiny sets, small temperatures, odd folders


@pytest.mark.parametrize("pairs", [4, 5, 7, 8, 12])
def test_few_pairs_work_with_all_defaults(tmp_path: Path, pairs: int) -> None:
    file = write_features(tmp_path / "features.npy", numbers()[:, :pairs])
    assert train.main(["-d", str(file), "-s", str(tmp_path / "run"), "-e", "2"]) == 0
    tested = pairs // 4
    assert summary_of(tmp_path / "run")["settings"]["ks"] == [k for k in (1, 3) if k <= tested]


@pytest.mark.parametrize("pairs", [2, 3])
def test_fewer_pairs_get_advice_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str], pairs: int) -> None:
    file = write_features(tmp_path / "features.npy", numbers()[:, :pairs])
    call = ["-d", str(file), "-s", str(tmp_path / "run"), "-e", "2"]
    assert train.main(call) == 2
    advice = re.search(r"--test-split 0.25 of .* leaves no test pair; (--test-split \S+) leaves 1", one_line(capsys))
    assert advice
    assert train.main([*call, *advice[1].split()]) == 0


@pytest.mark.parametrize(("temperature", "told"), [("0.07", "-t 14.3"), ("0.5", "-t 2"), ("1", None), ("15", None)])
def test_a_temperature_below_one_gets_a_note(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], temperature: str, told: str | None
) -> None:
    assert train.main([*arguments(features, tmp_path / "run"), "-e", "1", "-t", temperature]) == 0
    error = capsys.readouterr().err
    assert (f"note: -t {temperature}: t multiplies the cosine here" in error) == (told is not None)
    if told:
        assert f"CLIP's temperature of {temperature} is {told}\n" in error


def test_the_printed_command_can_be_pasted(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my runs" / "it's $HOME & more"
    assert train.main([*arguments(features, folder), "-e", "1"]) == 0
    (printed,) = re.findall(r"tensorboard --logdir (.*)", capsys.readouterr().out)
    pasted = subprocess.run(["sh", "-c", f"printf %s {printed}"], capture_output=True, text=True, check=True)
    assert pasted.stdout == str(folder)
