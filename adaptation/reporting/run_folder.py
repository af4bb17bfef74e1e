"""The run folder: TensorBoard, logs as CSV, checkpoints, splits, the summary and a plot of the curves.

run1/ .. runN/   TensorBoard events (which grow while it trains), train.csv, val.csv, frozen.csv, split.csv,
                 checkpoint.pt (tensors alone), similarity.safetensors (all that embeds new images), and with a PCA of
                 the run's own pca.skops
similarity.safetensors   with --final: a head that has learned from all pairs
page.html        with --html: the test pairs of the first run, to look at
avg/             TensorBoard events and logs of the runs' mean, with the standard deviation in the logs
frozen/          TensorBoard events of the frozen features: constant curves
summary.json     each test metric: last epoch, best epoch, frozen features
curves.png       aR@k over the epochs, train and test, beside the frozen features
.unfinished/     all of these, until they are whole
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptation.curves import Curves
from adaptation.data.pairs import Pairs
from adaptation.reporting.events import PATTERN, write_events
from adaptation.trainer import Run, Scores
from common.errors import InputError
from common.storage.files import read_json, sync_folder, write_csv, write_json, written_whole
from featuresExtractor.pca import save_pca

SUMMING_UP = ("summary.json", "curves.png")
PAGE = "page.html"
OWN_FILES = (*SUMMING_UP, "similarity.safetensors", PAGE)
OWN_FOLDERS = re.compile(r"run\d+|avg|frozen")
OWN_CONTENTS = re.compile(
    r"(checkpoint|train|val|frozen|split|pca|similarity)\.(pt|csv|skops|safetensors)|events\.out\.tfevents\..*"
)
COMPARISON = "comparison.json"  # where several models are compared


def check_folder(folder: Path, overwrite: bool) -> list[Path]:
    """The runs in `folder` and what sums them up. InputError where they may not be replaced; nothing is made."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; -s takes a folder")
    if (folder / COMPARISON).exists():
        raise InputError(f"{folder}: holds a comparison of models ({COMPARISON}); give another folder for a single run")
    existing = own_parts(folder) if folder.exists() else []
    if existing and not overwrite:
        raise InputError(
            f"{folder}: already holds a run ({existing[0].name}); give another folder, or --overwrite to replace it"
        )
    return existing


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
    alone = not any(part.is_dir() or part.name in SUMMING_UP for part in held)
    return alone and (not held or any(OWN_CONTENTS.fullmatch(part.name) for part in held))


def write_run(folder: Path, run: Run, pairs: Pairs, head: str) -> None:
    """Write `run<number>/`."""
    target = folder / f"run{run.number}"
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():  # what an interrupted call left, but for the curves, which it may continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not path.match(PATTERN):
            path.unlink()
    write_csv(target / "train.csv", _log(run.train))
    write_csv(target / "val.csv", _log(run.test))
    write_csv(target / "frozen.csv", [list(run.frozen), list(run.frozen.values())])
    write_csv(target / "split.csv", _split_rows(run, pairs))
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
    sync_folder(target)


def read_scores(folder: Path, epochs: int) -> Scores | None:
    """The numbers of a finished run; None where there is none in `folder`, or not one of so many epochs."""
    try:
        logs = [_read_csv(folder / f"{name}.csv") for name in ("train", "val", "frozen")]
        train, test, frozen = ({name: values for name, values in log.items() if name != "epoch"} for log in logs)
        scores = Scores(train=train, test=test, frozen={name: value for name, (value,) in frozen.items()})
    except (OSError, ValueError, csv.Error):
        return None
    whole = {len(values) for values in (*train.values(), *test.values())} == {epochs} and bool(frozen)
    return scores if whole else None


def _read_csv(path: Path) -> Curves:
    """The columns of a log. Python writes a float so that the same one is read again."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return {name: list(map(float, column)) for name, column in zip(header, columns, strict=True)}


def _on_cpu(state: Any) -> Any:
    """A state dict with its tensors on the CPU, so that a machine without a GPU can load it."""
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


def _log(curves: Curves) -> Iterable[Sequence[object]]:
    """A row an epoch under the names of the metrics."""
    yield ["epoch", *curves]
    yield from ([epoch, *values] for epoch, values in enumerate(zip(*curves.values(), strict=True), 1))


def _split_rows(run: Run, pairs: Pairs) -> Iterable[Sequence[object]]:
    """Every pair and the set it was in."""
    tested = set(run.split.test.tolist())
    yield ["left_name", "right_name", "set"]
    yield from ([*names, "test" if index in tested else "train"] for index, names in enumerate(pairs.names))


def write_average(folder: Path, runs: Sequence[Scores]) -> None:
    """Write `avg/`: the mean of the runs at each epoch, and in the logs their standard deviation too."""
    target = folder / "avg"
    if target.exists():  # which an interrupted call left
        shutil.rmtree(target)
    means: dict[str, Curves] = {}
    for name, file, curves in (
        ("Avg_Train", "train.csv", [run.train for run in runs]),
        ("Avg_Test", "val.csv", [run.test for run in runs]),
    ):
        values = {metric: np.array([run[metric] for run in curves]) for metric in curves[0]}  # runs x epochs
        means[name] = {metric: array.mean(0).tolist() for metric, array in values.items()}
        if len(runs) > 1:
            sds = {f"{metric} sd": array.std(0, ddof=1).tolist() for metric, array in values.items()}
        write_csv(target / file, _log(means[name] | (sds if len(runs) > 1 else {})))
    write_events(target, means)


def write_frozen(folder: Path, runs: Sequence[Scores], epochs: int) -> None:
    """Write `frozen/`: TensorBoard events of the frozen features, the mean of the runs, as constant curves."""
    target = folder / "frozen"
    if target.exists():
        shutil.rmtree(target)
    steps = sorted({1, epochs})
    means = {name: [float(np.mean([run.frozen[name] for run in runs]))] * len(steps) for name in runs[0].frozen}
    write_events(target, {"Test": means, "Avg_Test": means}, steps)


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What `write_summary` wrote; None where it did not."""
    try:
        return read_json(folder / "summary.json")
    except (OSError, ValueError):
        return None


def write_summary(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `summary.json`; ValueError for numbers that are not finite, which JSON does not have."""
    write_json(folder / "summary.json", record)
