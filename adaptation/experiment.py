"""From a plan to run folders: one model after the other, each looked through before and loaded when it is its turn."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adaptation import trainer
from adaptation.data.pairs import Pairs, Survey, survey
from adaptation.data.sources import TRAINING_PAIRS, Source, read_settings
from adaptation.data.split_pca import Reduction, check_components
from adaptation.data.splits import check_ks
from adaptation.memory import Layout, Size, head_sizes, lay_out
from adaptation.reporting import plots
from adaptation.reporting import run_folder as results
from adaptation.reporting.comparison import Entry, Record, compare
from adaptation.reporting.statistics import summary
from adaptation.reporting.tables import Conditions
from adaptation.trainer import Scores, Settings
from adaptation.unfinished import Unfinished
from common.console import table
from common.errors import InputError, OutOfMemory, listed, printable
from common.machine.device import device_name
from common.progress import Bar, progress
from common.record import differences
from common.storage.files import package_versions, read_facts

KS, KS_COMPARED = (1, 3), (1, 3, 5)


@dataclass(frozen=True)
class Model:
    """A features file that was looked through, and the folder of its runs."""

    source: Source
    survey: Survey
    folder: Path


@dataclass(frozen=True)
class Plan:
    """What all models of a call share: the settings of `runs` runs, `tested` test pairs in each, where they are
    computed, the reduction of each run's own, the CSV that chose the pairs, and the bytes of memory that may be used
    (None: chosen by what is free)."""

    settings: Settings
    runs: int
    tested: int
    device: torch.device
    reduction: Reduction | None = None
    subset: Path | None = None
    memory: float | None = None


def look_through(sources: Sequence[Source], subset: Path | None, skip: bool) -> list[Survey]:
    """Looks through all files; InputError when one cannot be trained on, or when they do not hold the same pairs."""
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
    one, two = set(first.names), set(other.names)
    told = [
        f"only {printable(str(found.path))} has {listed((' / '.join(name) for name in sorted(names)), 3)}"
        for found, names in ((first, one - two), (other, two - one))
        if names
    ]
    if told:
        raise InputError(
            f"the pairs are not the same: {'; '.join(told)}; extract the same images, or --subset what all have"
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


def check_reducible(model: Model, plan: Plan) -> None:
    """InputError when a run's own PCA cannot be fitted on the features: reduced already, or too few."""
    if plan.reduction is None:
        return
    if "pca" in read_facts(model.source.path):
        raise InputError(
            f"{printable(str(model.source.path))}: was reduced by extract.py, on all images; --pca-fit train takes "
            "the features.npy it was made from"
        )
    trained = len(model.survey.names) - plan.tested
    check_components(plan.reduction.components, model.source.path, model.survey.views, trained, model.survey.width)


def layout(model: Model, plan: Plan) -> Layout:
    """How the runs of a model share the memory; InputError when there is too little for one."""
    found, settings = model.survey, plan.settings
    width, trained = plan.reduction.components if plan.reduction else found.width, len(found.names) - plan.tested
    batch = min(settings.batch_size or trained, trained)
    size = Size(
        found.views,
        trained,
        plan.tested,
        batch,
        width,
        *head_sizes(settings.head, width),
        settings.loss == "contrastive",
    )
    return lay_out(size, plan.runs, plan.device, plan.memory, settings.precision == "bf16")


def check_disk(models: Sequence[Model], plan: Plan, top: Path) -> None:
    """InputError when the disk has no room for the checkpoints, which are the largest of what is written: a head's
    weights, and Adam's two moments of each."""
    widths = [plan.reduction.components if plan.reduction else model.survey.width for model in models]
    weights = sum(head_sizes(plan.settings.head, width)[1] for width in widths)
    needed = 3 * torch.float32.itemsize * weights * plan.runs
    there = next(folder for folder in (top, *top.resolve().parents) if folder.is_dir())
    if needed > (free := shutil.disk_usage(there).free):
        told = f"the checkpoints take {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free"
        raise InputError(f"{printable(str(top))}: {told}; make room, give another folder, or fewer --runs")


def room_for(
    models: Sequence[Model],
    plan: Plan,
    top: Path,
    overwrite: bool,
    check: Callable[[Path, bool], None] = lambda folder, overwrite: None,
) -> tuple[Unfinished, bool]:
    """Where the runs of all models grow, within the folder `top`; and whether all of them are in their places already.

    InputError before the first epoch where a folder holds runs that may not be replaced, or where `check` sees what
    keeps them from going to `top`.
    """
    room, facts = Unfinished(top), _plan_facts(models, plan)
    room.complete()
    if not overwrite and all(_is_of(model, facts) for model in models):
        print(f"{printable(str(top))}: these very runs are here already; --overwrite makes them again")
        return room, True
    check(top, overwrite)
    for model in models:
        _check_same(model, facts, overwrite)
        results.check_folder(model.folder, overwrite)
        room.inside(model.folder)
        layout(model, plan)
    check_disk(models, plan, top)
    if room.begin(facts, overwrite):
        print("going on with the runs that an interrupted call left")
    return room, False


def _check_same(model: Model, facts: Mapping[str, Any], overwrite: bool) -> None:
    """InputError for runs of other settings in a model's place, which names the settings with both values."""
    there = (results.read_summary(model.folder) or {}).get("plan")
    differing = differences(there, facts) if isinstance(there, dict) else []
    if differing and not overwrite:
        raise InputError(
            f"{printable(str(model.folder))}: already holds runs of other settings ({'; '.join(differing)}); give "
            "another folder, or --overwrite replaces them"
        )


def _is_of(model: Model, facts: Mapping[str, Any]) -> bool:
    """Whether the runs in a model's place are those of this plan."""
    there = (results.read_summary(model.folder) or {}).get("plan")
    return isinstance(there, dict) and not differences(there, facts)


def _plan_facts(models: Sequence[Model], plan: Plan) -> dict[str, Any]:
    """What runs must have in common to stand side by side."""
    names = json.dumps(models[0].survey.names).encode()
    return {
        "settings": plan.settings.record(),
        "number of runs": plan.runs,
        "pairs": hashlib.sha256(names).hexdigest(),
        "PCA of each run": plan.reduction.components if plan.reduction else None,
        "device": plan.device.type,
        "versions": package_versions(),
        "features": [[model.source.label, model.survey.sha256] for model in models],
    }


def run_models(models: Sequence[Model], plan: Plan, room: Unfinished) -> list[dict[str, Any]]:
    """Runs all models and writes their run folders into the `room`, but for what is there; returns what each
    `summary.json` holds."""
    layouts, facts = [layout(model, plan) for model in models], _plan_facts(models, plan)
    _announce(models, plan)
    with closing(room), progress(len(models) * plan.runs * plan.settings.steps, "train", "epochs") as bar:
        return [
            _run_model(model, room.inside(model.folder), plan, facts, how, bar)
            for model, how in zip(models, layouts, strict=True)
        ]


def read_models(models: Sequence[Model]) -> list[dict[str, Any]]:
    """What `run_models` returned when it wrote the runs that are in their places."""
    found = [results.read_summary(model.folder) for model in models]
    if None in found:
        raise InputError(f"{printable(str(models[found.index(None)].folder))}: its summary.json cannot be read")
    return [one for one in found if one is not None]


def parts(models: Sequence[Model], room: Unfinished) -> tuple[list[Path], list[Path]]:
    """The parts of all models' runs: the new ones in the `room`, and those in the places that they are to take."""
    new = [path for model in models for path in results.own_parts(room.inside(model.folder))]
    old = [path for model in models if model.folder.exists() for path in results.own_parts(model.folder)]
    return new, old


def _announce(models: Sequence[Model], plan: Plan) -> None:
    """Says what is about to run."""
    first = models[0].survey
    told = f"head {plan.settings.head} on {device_name(plan.device)}, {len(first.names):,} pairs"
    fitted = f"; PCA to {plan.reduction.components:,} on each run's training pairs" if plan.reduction else ""
    if len(models) == 1:
        seen = f"{first.views} views" if first.views > 1 else "1 view (no flipped copies recognised)"
        print(f"{told}, {seen}, {first.width:,} numbers a side{fitted}")
        return
    rows = [
        [model.source.label, f"{model.survey.width:,}", str(model.survey.views), printable(str(model.source.path))]
        for model in models
    ]
    print(f"{told}, {len(models)} models{fitted}\n{table(('model', 'numbers a side', 'views', 'file'), rows)}")


def _run_model(
    model: Model, folder: Path, plan: Plan, shared: Mapping[str, Any], how: Layout, bar: Bar
) -> dict[str, Any]:
    """The runs of a model, written to `folder`."""
    if there := results.read_summary(folder):
        bar.update(plan.runs * plan.settings.steps)
        return there
    runs = _train(model, folder, plan, how, bar)
    results.write_average(folder, runs)
    plots.write_curves(folder, runs, plan.settings.ks)
    metrics, facts = summary(runs), {**_facts(model, plan), "plan": shared}
    results.write_summary(folder, metrics, facts)
    return {**facts, "metrics": metrics}


def _train(model: Model, folder: Path, plan: Plan, how: Layout, bar: Bar) -> list[Scores]:
    """The numbers of the runs; as many as the memory holds go side by side, and each is written when done. Those that
    are there are read."""
    numbers, steps = range(1, plan.runs + 1), plan.settings.steps
    done = {number: there for number in numbers if (there := results.read_scores(folder / f"run{number}", steps))}
    bar.update(len(done) * steps)
    if missing := [number for number in numbers if number not in done]:
        pairs = model.survey.load()
        pairs = pairs if plan.reduction else pairs.to(plan.device)
        for first in range(0, len(missing), how.runs):
            some = missing[first : first + how.runs]
            bar.set_postfix_str(f"{model.source.label}, {_shown(some)}/{plan.runs}", refresh=False)
            done |= zip(some, _train_some(pairs, some, folder, plan, how, bar), strict=True)
    return [done[number] for number in numbers]


def _train_some(pairs: Pairs, numbers: Sequence[int], folder: Path, plan: Plan, how: Layout, bar: Bar) -> list[Scores]:
    """Trains and writes the runs of these numbers; their heads, which are large, end here."""
    on_epoch = partial(bar.update, len(numbers))
    try:
        finished = trainer.train_runs(pairs, plan.settings, numbers, on_epoch, plan.reduction, how.tiling)
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            "the GPU's memory does not hold the runs; give less --memory, a --batch-size, or --cpu"
        ) from error
    for run in finished:
        results.write_run(folder, run, pairs, plan.settings.head)
    return [run.scores() for run in finished]


def _shown(numbers: Sequence[int]) -> str:
    """`run 3` or `runs 1-20`."""
    return f"run {numbers[0]}" if len(numbers) == 1 else f"runs {numbers[0]}-{numbers[-1]}"


def _facts(model: Model, plan: Plan) -> dict[str, Any]:
    """What the numbers in a `summary.json` were made from."""
    path, found = model.source.path, model.survey
    features = {"file": str(path), "sha256": found.sha256, "views": found.views, "width": found.width}
    if found.right:
        features["right"] = str(found.right)
    if plan.reduction:
        features["pca"] = {"fitted_on": TRAINING_PAIRS, "components": plan.reduction.components}
    return {**shared_facts(plan, len(found.names)), "features": features}


def shared_facts(plan: Plan, pairs: int) -> dict[str, Any]:
    """What holds for all models of a call."""
    subset = str(plan.subset) if plan.subset else None
    return {
        "settings": plan.settings.record() | {"runs": plan.runs, "subset": subset},
        "pairs": {"train": pairs - plan.tested, "test": plan.tested},
        "device": device_name(plan.device),
        "versions": package_versions(),
    }


def compared(
    models: Sequence[Model], found: Sequence[dict[str, Any]], plan: Plan
) -> tuple[list[Record], Conditions, dict[str, Any]]:
    """From what each `summary.json` holds the records of a comparison, what they share, and where they come from."""
    pairs, settings = len(models[0].survey.names), plan.settings
    entries = [_entry(model, one["metrics"], plan) for model, one in zip(models, found, strict=True)]
    conditions = Conditions(pairs, plan.tested, plan.runs, settings.head, settings.steps, settings.temperature)
    features = [
        {"model": entry.label, "folder": entry.folder, **one["features"], "made_with": read_settings(model.source.path)}
        for model, entry, one in zip(models, entries, found, strict=True)
    ]
    return compare(entries, settings.ks), conditions, {**shared_facts(plan, pairs), "models": features}


def _entry(model: Model, metrics: dict[str, Any], plan: Plan) -> Entry:
    """A model as it is compared: after its reduction, where each run has one."""
    width = plan.reduction.components if plan.reduction else model.survey.width
    protocol = TRAINING_PAIRS if plan.reduction else model.source.protocol
    return Entry(model.source.label, model.folder.name, width, protocol, metrics)
