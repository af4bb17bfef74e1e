"""What remains of training to be used: a similarity of each run, and with `--final` one that learned from all pairs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from adaptation.data.pairs import Pairs
from adaptation.plan import FeatureSet, Setup, Work, layout_of
from adaptation.similarity.learned.file import NAME, Learned, read_similarity, write_similarity
from adaptation.similarity.learned.from_run import Trained, calibrate, learned_of
from adaptation.trainer import Run, train_final
from common.errors import InputError, printable
from common.machine.gpu import gpu_memory
from common.progress import Bar, progress

logger = logging.getLogger(__name__)

NO_MEMORY = "the GPU's memory does not hold all pairs; give less --memory, a --batch-size, or --cpu"

UNIT = "final"


def of_run(features: FeatureSet, run: Run, pairs: Pairs, setup: Setup) -> Learned:
    """Return the similarity of a run, calibrated on its own test pairs."""
    tested = Pairs(pairs.left[:1], pairs.right[:1], pairs.names).subset(run.split.test)
    learned = [pairs.names[index] for index in run.split.train.tolist()]
    metrics = {name: {"frozen": run.frozen[name], "last_epoch": values[-1]} for name, values in run.test.items()}
    counts = calibrate(run.head, run.pca, tested)
    trained = Trained(run.head, run.pca, learned, pairs.left.shape[-1])
    return learned_of(
        features.origin, trained, counts, setup.settings, {"runs": 1, "test_pairs": len(tested), **metrics}
    )


def check_finals(work: Work) -> None:
    """OutOfMemory where the memory does not hold the training on all pairs: better now than after the runs."""
    for features in work.sets:
        layout_of(features, work.setup, len(features.survey.names))


def train_finals(work: Work, records: Sequence[Mapping[str, Any]]) -> None:
    """Train a head on all pairs of each set that has none yet, and write its similarity, which tells the runs' metrics
    (in `records`) and is calibrated on their test pairs."""
    missing = [
        (features, record)
        for features, record in zip(work.sets, records, strict=True)
        if not (work.done and _exists(features.folder / NAME))
    ]
    if not missing:
        return
    work.staging.begin(work.plan, overwrite=True)
    epochs, full = len(missing) * work.setup.settings.steps, gpu_memory(NO_MEMORY, work.setup.device)
    with closing(work.staging), progress(epochs, "final", "epochs") as bar, full:
        for features, record in missing:
            _train(work, features, record, bar)


def _exists(path: Path) -> bool:
    """Whether there is a similarity; InputError for a file of its name that is none."""
    if not path.is_file():
        return False
    try:
        read_similarity(path)
    except InputError as error:
        raise InputError(f"{error}; remove the file to train it again with --final") from error
    return True


def _train(work: Work, features: FeatureSet, record: Mapping[str, Any], bar: Bar) -> None:
    """The final head of one set, unless an interrupted call wrote it."""
    setup, path = work.setup, work.staging.inside(features.folder) / NAME
    key = path.with_name(UNIT).relative_to(work.staging.path).as_posix()
    if key in work.staging.units and path.is_file():
        return
    runs = features.folder if work.done else work.staging.inside(features.folder)
    counts = torch.stack([_calibration(runs / f"run{number}" / NAME) for number in range(1, setup.runs + 1)]).sum(0)
    if features.origin.gap:
        logger.warning(f"note: {features.source.label}: its similarity cannot embed images: {features.origin.gap}")
    pairs = features.survey.load()
    pairs = pairs if setup.split_pca else pairs.to(setup.device)
    tiling = layout_of(features, setup, len(pairs)).tiling
    made = train_final(pairs, setup.settings, 0, bar.update, setup.split_pca, tiling)
    metrics = {
        name: {"frozen": each["frozen"]["mean"], "last_epoch": each["last_epoch"]["mean"]}
        for name, each in record["metrics"].items()
    }
    trained = Trained(made.head, made.pca, pairs.names, pairs.left.shape[-1])
    about = {"runs": setup.runs, "test_pairs": setup.tested, **metrics}
    write_similarity(path, learned_of(features.origin, trained, counts, setup.settings, about))
    work.staging.add(key, {})


def _calibration(path: Path) -> torch.Tensor:
    try:
        return read_similarity(path).calibration
    except InputError as error:
        message = "the runs here cannot be used for --final; --overwrite trains them again"
        raise InputError(f"{printable(str(path.parent.parent))}: {message} ({error})") from error
