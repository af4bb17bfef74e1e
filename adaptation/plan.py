"""Features and settings -> the runs that they take: every check before the first epoch. Nothing is written."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptation.data.pairs import Survey, survey
from adaptation.data.sources import Source
from adaptation.data.split_pca import SplitPCA, check_components
from adaptation.data.splits import check_ks
from adaptation.memory import Layout, Size, head_sizes, lay_out
from adaptation.reporting.report import check_report
from adaptation.reporting.run_folder import check_folder, read_summary
from adaptation.similarity.learned.origin import Origin
from adaptation.trainer import Settings
from common.errors import InputError, listed, printable
from common.machine.device import arithmetic_of
from common.machine.resources import require_disk
from common.record import differences, package_versions, read_record
from common.storage.files import sha256
from common.storage.staging import Staging

logger = logging.getLogger(__name__)

KS, KS_COMPARED = (1, 3), (1, 3, 5)
PROGRAM = ("heads", "losses", "metrics", "ranks", "tiled_loss", "trainer", "data/stack")  # modules of this package


@dataclass(frozen=True)
class FeatureSet:
    """The features of one model, which were looked through, the folder of their runs, and their `origin`: networks and
    PCA."""

    source: Source
    survey: Survey
    folder: Path
    origin: Origin = field(default_factory=lambda: Origin([]))


@dataclass(frozen=True)
class Setup:
    """What all runs of a call share: `settings`, how many `runs` each model has, `tested` test pairs in each, where
    they are computed, the PCA of each split, the CSV that chose the pairs, the bytes of memory that may be used (None:
    chosen by what is free), and the command line, for the record."""

    settings: Settings
    runs: int
    tested: int
    device: torch.device
    split_pca: SplitPCA | None = None
    subset: Path | None = None
    memory: float | None = None
    flags: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Work:
    """The runs of `sets` that go to the folder `top`. They grow in `staging` under `plan`, with a memory layout for
    each set. `done` says that these very runs are in their places, `resumed` that some of them are finished."""

    sets: Sequence[FeatureSet]
    setup: Setup
    top: Path
    plan: Mapping[str, Any]
    staging: Staging
    layouts: Sequence[Layout]
    done: bool
    resumed: bool = False

    @property
    def compared(self) -> bool:
        """Whether several models are set side by side."""
        return len(self.sets) > 1

    def key(self, features: FeatureSet, run: int) -> str:
        """Return the name of a run as a unit of work: `run3`, or `model/run3`."""
        return (features.folder / f"run{run}").relative_to(self.top).as_posix()


def look_through(sources: Sequence[Source], subset: Path | None, skip: bool) -> list[Survey]:
    """Look through all files; InputError when one cannot be trained on, or when they do not hold the same pairs."""
    surveys: list[Survey] = []
    for source in sources:
        try:
            surveys.append(survey(source.path, subset, skip, source.right))
        except InputError as error:  # which may have the name of a folder in it that nobody has looked at
            raise InputError(printable(str(error))) from error
        _check_same_pairs(surveys[0], surveys[-1])
    return surveys


def _check_same_pairs(first: Survey, other: Survey) -> None:
    """InputError that names a few of the pairs which only one of two files has."""
    left, right = set(first.names), set(other.names)
    lines = [
        f"only {printable(str(each.path))} has {listed((' / '.join(name) for name in sorted(names)), 3)}"
        for each, names in ((first, left - right), (other, right - left))
        if names
    ]
    if lines:
        raise InputError(
            f"the pairs are not the same: {'; '.join(lines)}; extract the same images, or --subset what all have"
        )


def choose_ks(given: Sequence[int] | None, tested: int, compared: bool) -> tuple[int, ...]:
    """Return the k of aR@k, ascending; of the default those that the test pairs admit.

    InputError for one that is asked for and has no meaning.
    """
    if given is None:
        return tuple(k for k in (KS_COMPARED if compared else KS) if k <= tested)
    ks = tuple(sorted(set(given)))
    check_ks(ks, tested)
    return ks


def plan(sets: Sequence[FeatureSet], setup: Setup, top: Path, overwrite: bool) -> Work:
    """Return the work of all runs; InputError for what keeps them from being done, or from going to `top`."""
    for features in sets:
        _check_reducible(features, setup)
    staging, begun = Staging(top), _plan_of(sets, setup)
    if not overwrite and all(_is_of(features, begun) for features in sets):
        return Work(sets, setup, top, begun, staging, [], done=True)
    if len(sets) > 1:
        check_report(top, overwrite)
    for features in sets:
        _check_same(features, begun, overwrite)
        check_folder(features.folder, overwrite)
        staging.inside(features.folder)
    layouts = [layout_of(features, setup, len(features.survey.names) - setup.tested) for features in sets]
    _check_disk(sets, setup, top)
    return Work(sets, setup, top, begun, staging, layouts, False, staging.resumes(begun, overwrite))


def _check_reducible(features: FeatureSet, setup: Setup) -> None:
    """InputError when a PCA of each split cannot be fitted on the features: reduced already, or too few."""
    if setup.split_pca is None:
        return
    if "pca" in read_record(features.source.path):
        raise InputError(
            f"{printable(str(features.source.path))}: was reduced by extract.py; --pca-fit train takes "
            "the features.npy it was made from"
        )
    trained = len(features.survey.names) - setup.tested
    check_components(
        setup.split_pca.components, features.source.path, features.survey.views, trained, features.survey.width
    )


def layout_of(features: FeatureSet, setup: Setup, trained: int) -> Layout:
    """Return how the runs of a set, which learn from so many pairs, share the memory; InputError when there is too
    little for one."""
    survey, settings = features.survey, setup.settings
    width = setup.split_pca.components if setup.split_pca else survey.width
    batch = min(settings.batch_size or trained, trained)
    sizes = head_sizes(settings.head, width)
    tiles = settings.loss == "contrastive"
    size = Size(survey.views, trained, setup.tested, batch, width, *sizes, tiles)
    return lay_out(size, setup.runs, setup.device, setup.memory, settings.precision == "bf16")


def _check_disk(sets: Sequence[FeatureSet], setup: Setup, top: Path) -> None:
    """InputError when the disk does not hold the checkpoints and similarities, which are the largest of what is
    written: a head's weights, twice, Adam's two moments of each, and PCAs."""
    widths = [setup.split_pca.components if setup.split_pca else features.survey.width for features in sets]
    weights = sum(head_sizes(setup.settings.head, width)[1] for width in widths)
    pcas = sum(_pca_size(features, setup.split_pca) for features in sets)
    needed = setup.runs * (4 * torch.float32.itemsize * weights + torch.float64.itemsize * pcas)
    require_disk(needed, top, "checkpoints and similarities take", "make room, give another folder, or fewer --runs")


def _pca_size(features: FeatureSet, split_pca: SplitPCA | None) -> int:
    """Values of the PCA that each run writes: its own in two files, or that of extract.py in one."""
    if split_pca:
        return 2 * split_pca.components * features.survey.width
    return 0 if features.origin.pca is None else int(features.origin.pca.components_.size)


def _check_same(features: FeatureSet, begun: Mapping[str, Any], overwrite: bool) -> None:
    """InputError for runs of other settings in the place of a set, which names the settings with both values."""
    existing = _recorded_plan(features)
    differing = differences(existing, begun) if existing else []
    if differing and not overwrite:
        raise InputError(
            f"{printable(str(features.folder))}: already holds runs of other settings ({'; '.join(differing)}); give "
            "another folder, or --overwrite replaces them"
        )


def _is_of(features: FeatureSet, begun: Mapping[str, Any]) -> bool:
    """Whether the runs in the place of a set are those of this plan."""
    existing = _recorded_plan(features)
    return bool(existing) and not differences(existing, begun)


def _recorded_plan(features: FeatureSet) -> dict[str, Any]:
    existing = (read_summary(features.folder) or {}).get("plan")
    return existing if isinstance(existing, dict) else {}


def program() -> str:
    """Return the SHA-256 of the sources that the numbers of a run are made with: whoever changes a head, a loss or a
    metric is not shown the runs of before, and does not resume them."""
    folder, digests = Path(__file__).parent, hashlib.sha256()
    for name in PROGRAM:
        digests.update(sha256(folder / f"{name}.py").encode())
    return digests.hexdigest()


def _plan_of(sets: Sequence[FeatureSet], setup: Setup) -> dict[str, Any]:
    """What runs must have in common to stand side by side."""
    names = json.dumps(sets[0].survey.names).encode()
    return {
        "settings": setup.settings.record(),
        "number of runs": setup.runs,
        "pairs": hashlib.sha256(names).hexdigest(),
        "PCA of each run": setup.split_pca.components if setup.split_pca else None,
        "device": arithmetic_of(setup.device),
        "versions": package_versions(),
        "program": program(),
        "features": [[features.source.label, features.survey.sha256] for features in sets],
    }
