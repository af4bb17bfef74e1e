"""The run folder: TensorBoard, logs as CSV, checkpoints, splits, the summary and a plot of the curves.

run1/ .. runN/   TensorBoard events, train.csv, val.csv, split.csv, checkpoint.pt (tensors alone), and with a PCA of the
                 run's own pca.skops
avg/             TensorBoard events and logs of the runs' mean, with the standard deviation in the logs
summary.json     each test metric: last epoch, best epoch, frozen features
curves.png       aR@k over the epochs, train and test, beside the frozen features
.unfinished/     new runs that are to replace those in the folder, until they are all there
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptation.pairs import Pairs
from adaptation.trainer import Curves, Run, Scores
from common.errors import InputError
from common.files import written_whole
from featuresExtractor.pca import save_pca

OWN_FILES = ("summary.json", "curves.png")
OWN_FOLDERS = re.compile(r"run\d+|avg")
OWN_CONTENTS = re.compile(r"(checkpoint|train|val|split|pca)(\.partial)?\.(pt|csv|skops)|events\.out\.tfevents\..*")
COMPARISON = "comparison.json"  # where several models are compared
UNFINISHED, REPLACED = ".unfinished", "replaced"


def prepare_folder(folder: Path, overwrite: bool) -> Path:
    """Makes `folder` ready for new runs and returns where to write them.

    Runs that are there are an InputError. With `overwrite` they stay until `put_in_place` replaces them, and the new
    ones are written to a folder within. Nothing else in the folder is touched.
    """
    unfinished = folder / UNFINISHED
    try:
        there = check_folder(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        if unfinished.exists():
            shutil.rmtree(unfinished)  # of a run that was interrupted
        unfinished.mkdir()  # always, since a folder that takes nothing is better found now than after a run
        if not there:
            unfinished.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: no run folder could be made here ({error.strerror})") from error
    return unfinished if there else folder


def check_folder(folder: Path, overwrite: bool) -> list[Path]:
    """The runs in `folder` and what sums them up. InputError where they may not be replaced; nothing is made."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; -s takes a folder")
    if (folder / COMPARISON).exists():
        raise InputError(f"{folder}: holds a comparison of models ({COMPARISON}); give another folder for a single run")
    there = own_parts(folder) if folder.exists() else []
    if there and not overwrite:
        raise InputError(
            f"{folder}: already holds a run ({there[0].name}); give another folder, or --overwrite to replace it"
        )
    unfinished = folder / UNFINISHED
    if (unfinished / REPLACED).exists():
        raise InputError(f"{unfinished}: replacing a run was cut short; move what you need out of it and remove it")
    return there


def own_parts(folder: Path) -> list[Path]:
    """The runs in `folder`, their average and what sums them up; InputError when something else has such a name."""
    parts = sorted(path for path in folder.iterdir() if path.name in OWN_FILES or OWN_FOLDERS.fullmatch(path.name))
    for path in parts:
        if not (path.is_file() if path.name in OWN_FILES else _is_run(path)):
            raise InputError(f"{path}: has the name of a part of a run and is none; give another folder, or rename it")
    return parts


def _is_run(path: Path) -> bool:
    """Whether `path` is a folder as `write_run` or `write_average` makes it, and not one that holds runs itself."""
    if not path.is_dir():
        return False
    held = list(path.iterdir())
    alone = not any(part.is_dir() or part.name in OWN_FILES for part in held)
    return alone and (not held or any(OWN_CONTENTS.fullmatch(part.name) for part in held))


def put_in_place(written: Path, folder: Path) -> None:
    """Replaces the runs in `folder` by those that are all in `written`, where `prepare_folder` wanted them."""
    if written == folder:
        return
    new, replaced = own_parts(written), written / REPLACED
    replaced.mkdir()
    for path in own_parts(folder):
        path.rename(replaced / path.name)
    for path in new:
        path.rename(folder / path.name)
    shutil.rmtree(written)


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
    checkpoint = io.BytesIO()  # for a full disk is an OSError to Python and a RuntimeError without a reason to torch
    torch.save(state, checkpoint)
    with written_whole(target / "checkpoint.pt") as partial:
        partial.write_bytes(checkpoint.getbuffer())
    if run.pca is not None:
        save_pca(run.pca, target / "pca.skops")


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


def write_average(folder: Path, runs: Sequence[Scores]) -> None:
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
    """Writes `summary.json`; ValueError for numbers that are not finite, which JSON does not have."""
    text = json.dumps({**facts, "metrics": metrics}, indent=2, allow_nan=False)
    with written_whole(folder / "summary.json") as partial:
        partial.write_text(f"{text}\n", encoding="utf-8")
