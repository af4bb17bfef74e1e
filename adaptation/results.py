"""The run folder: TensorBoard, logs as CSV, checkpoints, splits, the summary and a plot of the curves.

run1/ .. runN/   TensorBoard events, train.csv, val.csv, split.csv, checkpoint.pt (tensors alone)
avg/             TensorBoard events and logs of the runs' mean, with the standard deviation in the logs
summary.json     each test metric: last epoch, best epoch, frozen features
curves.png       aR@k over the epochs, train and test, beside the frozen features
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptation.pairs import Pairs
from adaptation.trainer import Curves, Run
from common.errors import InputError
from common.files import write_json, written_whole

OWN_FILES = ("summary.json", "curves.png")
OWN_FOLDERS = re.compile(r"run\d+|avg")


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Makes `folder` ready for new runs. Runs that are there are an InputError, or removed when `overwrite`; nothing
    else in the folder is touched."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; -s takes a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no run folder could be made here ({error.strerror})") from error
    there = sorted(path for path in folder.iterdir() if path.name in OWN_FILES or OWN_FOLDERS.fullmatch(path.name))
    if there and not overwrite:
        raise InputError(
            f"{folder}: already holds a run ({there[0].name}); give another folder, or --overwrite to replace it"
        )
    for path in there:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def write_run(folder: Path, run: Run, pairs: Pairs, head: str) -> None:
    """Writes `run<number>/`."""
    target = folder / f"run{run.number}"
    target.mkdir()
    _write_events(target, {"Train": run.train, "Test": run.test})
    _write_csv(target / "train.csv", _log(run.train))
    _write_csv(target / "val.csv", _log(run.test))
    _write_csv(target / "split.csv", _split_rows(run, pairs))
    state = {
        "model": head,
        "head": _on_cpu(run.head.state_dict()),
        "optimizer": _on_cpu(run.optimiser.state_dict()) if run.optimiser else {},
        "epoch": len(run.train["Loss"]),
    }
    with written_whole(target / "checkpoint.pt") as partial:
        torch.save(state, partial)


def _on_cpu(state: Any) -> Any:
    """A state dict with its tensors on the CPU, so that a machine without a GPU can load it."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _write_events(folder: Path, curves: Mapping[str, Curves]) -> None:
    """TensorBoard events: `<set>/<metric>` over the epochs, which count from 1."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    for name, metrics in curves.items():
        for metric, values in metrics.items():
            for epoch, value in enumerate(values, 1):
                writer.add_scalar(f"{name}/{metric}", value, epoch)
    writer.close()


def _log(curves: Curves) -> Iterable[Sequence[object]]:
    """A row an epoch under the names of the metrics."""
    yield ["epoch", *curves]
    yield from ([epoch, *values] for epoch, values in enumerate(zip(*curves.values(), strict=True), 1))


def _split_rows(run: Run, pairs: Pairs) -> Iterable[Sequence[object]]:
    """Every pair and the set it was in."""
    tested = set(run.split.test.tolist())
    yield ["left_name", "right_name", "set"]
    yield from ([*names, "test" if index in tested else "train"] for index, names in enumerate(pairs.names))


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    # a file name that is not UTF-8 (Python marks its bytes) is written with escapes
    with (
        written_whole(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(rows)


def write_average(folder: Path, runs: Sequence[Run]) -> None:
    """Writes `avg/`: the mean of the runs at each epoch, and in the logs their standard deviation too."""
    target = folder / "avg"
    target.mkdir()
    means: dict[str, Curves] = {}
    for name, file, curves in (
        ("Avg_Train", "train.csv", [run.train for run in runs]),
        ("Avg_Test", "val.csv", [run.test for run in runs]),
    ):
        values = {metric: np.array([run[metric] for run in curves]) for metric in curves[0]}  # runs x epochs
        means[name] = {metric: array.mean(0).tolist() for metric, array in values.items()}
        if len(runs) > 1:
            sds = {f"{metric} sd": array.std(0, ddof=1).tolist() for metric, array in values.items()}
        _write_csv(target / file, _log(means[name] | (sds if len(runs) > 1 else {})))
    _write_events(target, means)


def write_summary(folder: Path, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Writes `summary.json`."""
    write_json(folder / "summary.json", {**facts, "metrics": metrics})


def write_curves(folder: Path, runs: Sequence[Run], ks: Sequence[int]) -> None:
    """Draws aR@k over the epochs, mean of the runs and the band of one standard deviation, as `curves.png`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(ks), 4), layout="constrained")
    for k, axes in zip(ks, figure.subplots(1, len(ks), squeeze=False)[0], strict=True):
        metric = f"top {k}"
        for name, colour, curves in (
            ("train", "tab:grey", [run.train[metric] for run in runs]),
            ("test", "tab:blue", [run.test[metric] for run in runs]),
        ):
            mean, sd = np.mean(curves, axis=0), np.std(curves, axis=0)
            epochs = np.arange(1, len(mean) + 1)
            axes.plot(epochs, mean, color=colour, label=name, marker="." if len(mean) == 1 else "")
            axes.fill_between(epochs, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
        frozen = float(np.mean([run.frozen[metric] for run in runs]))
        axes.axhline(frozen, color="tab:orange", linestyle="--", label="frozen features, test")
        axes.set(title=f"aR@{k}", xlabel="epoch", ylim=(0, 1))
        axes.legend(loc="lower right")
    with written_whole(folder / "curves.png") as partial:
        figure.savefig(partial, dpi=120)
