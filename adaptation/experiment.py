"""From a plan to run folders: `run` trains, `summarise` sums up, `publish` puts all in place.

One path for one model or many. All of it may be cut short anywhere; the same call resumes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from adaptation import final, trainer
from adaptation.data.pairs import Pairs
from adaptation.data.sources import TRAINING_PAIRS, read_settings
from adaptation.memory import Layout
from adaptation.metrics import METRICS
from adaptation.plan import FeatureSet, Setup, Work
from adaptation.reporting import plots, run_folder
from adaptation.reporting.comparison import Entry, compare
from adaptation.reporting.events import EventsFile
from adaptation.reporting.report import report_files, write_report
from adaptation.reporting.statistics import summary
from adaptation.reporting.tables import Conditions
from adaptation.similarity.learned.file import NAME, write_similarity
from adaptation.trainer import Scores
from common.console import table
from common.errors import InputError, printable
from common.machine.device import device_name
from common.machine.gpu import gpu_memory
from common.progress import Bar, progress
from common.record import make_record

logger = logging.getLogger(__name__)

NO_MEMORY = "the GPU's memory does not hold the runs; give less --memory, a --batch-size, or --cpu"


def run(work: Work) -> list[list[Scores]]:
    """Train the runs of all sets, but for those that are finished, and return the scores of all."""
    if work.resumed:
        logger.info("going on with the runs that an interrupted call left")
    _announce(work)
    work.staging.begin(work.plan, overwrite=True)  # which was checked
    epochs = len(work.sets) * work.setup.runs * work.setup.settings.steps
    full = gpu_memory(NO_MEMORY, work.setup.device)
    with closing(work.staging), progress(epochs, "train", "epochs") as bar, full:
        return [_train(work, features, layout, bar) for features, layout in zip(work.sets, work.layouts, strict=True)]


def _announce(work: Work) -> None:
    """Say what is about to run."""
    setup, first = work.setup, work.sets[0].survey
    message = f"head {setup.settings.head} on {device_name(setup.device)}, {len(first.names):,} pairs"
    fitted = f"; PCA to {setup.split_pca.components:,} on each run's training pairs" if setup.split_pca else ""
    if not work.compared:
        seen = f"{first.views} views" if first.views > 1 else "1 view (no flipped copies recognised)"
        logger.info(f"{message}, {seen}, {first.width:,} dimensions{fitted}")
        return
    rows = [
        [each.source.label, f"{each.survey.width:,}", str(each.survey.views), printable(str(each.source.path))]
        for each in work.sets
    ]
    header = ("model", "dimensions", "views", "file")
    logger.info(f"{message}, {len(work.sets)} models{fitted}\n{table(header, rows)}")


def _train(work: Work, features: FeatureSet, layout: Layout, bar: Bar) -> list[Scores]:
    """The scores of the runs of a set; as many as the memory holds go side by side, and each is written when done."""
    setup, steps = work.setup, work.setup.settings.steps
    done = _finished(work, features)
    bar.update(len(done) * steps)
    numbers = range(1, setup.runs + 1)
    if missing := [number for number in numbers if number not in done]:
        pairs = features.survey.load()
        pairs = pairs if setup.split_pca else pairs.to(setup.device)
        for first in range(0, len(missing), layout.runs):
            some = missing[first : first + layout.runs]
            bar.set_postfix_str(f"{features.source.label}, {_shown(some)}/{setup.runs}", refresh=False)
            done |= _train_some(work, features, pairs, some, layout, bar)
    return [done[number] for number in numbers]


def _finished(work: Work, features: FeatureSet) -> dict[int, Scores]:
    """The scores of the runs that an interrupted call finished."""
    steps, keys = work.setup.settings.steps, {run: work.key(features, run) for run in range(1, work.setup.runs + 1)}
    folders = {run: work.staging.own(key) for run, key in keys.items() if key in work.staging.units}
    scores = {run: run_folder.read_scores(folder, steps) for run, folder in folders.items()}
    return {number: each for number, each in scores.items() if each is not None}


def _train_some(
    work: Work, features: FeatureSet, pairs: Pairs, numbers: Sequence[int], layout: Layout, bar: Bar
) -> dict[int, Scores]:
    """Train and write the runs of these numbers; their heads, which are large, end here."""
    setup, folder, on_epoch = work.setup, work.staging.inside(features.folder), partial(bar.update, len(numbers))
    events = {number: _events(work, features, number) for number in numbers}
    finished = trainer.train_runs(
        pairs,
        setup.settings,
        numbers,
        on_epoch,
        setup.split_pca,
        layout.tiling,
        lambda progress: events[progress.run].add(progress),
    )
    for each in finished:
        events[each.number].end()
        run_folder.write_run(folder, each, pairs, setup.settings.head)
        write_similarity(folder / f"run{each.number}" / NAME, final.of_run(features, each, pairs, setup))
        work.staging.add(work.key(features, each.number), {})
    return {each.number: each.scores() for each in finished}


def _events(work: Work, features: FeatureSet, number: int) -> EventsFile:
    """The events of a run, with its settings in the HPARAMS tab."""
    settings = work.setup.settings
    events = EventsFile(work.staging.own(work.key(features, number)))
    names = [name.format(k=k) for name in METRICS for k in (settings.ks if "{k}" in name else (0,))]
    events.begin(
        {"features": features.source.label, "run": number, **settings.record()}, [f"Test/{name}" for name in names]
    )
    return events


def _shown(numbers: Sequence[int]) -> str:
    """`run 3` or `runs 1-20`."""
    return f"run {numbers[0]}" if len(numbers) == 1 else f"runs {numbers[0]}-{numbers[-1]}"


def summarise(work: Work, scores: Sequence[Sequence[Scores]]) -> list[dict[str, Any]]:
    """Write what sums up the runs of each set, and where there are several the comparison. Return each summary."""
    records = [_summarise_set(work, features, runs) for features, runs in zip(work.sets, scores, strict=True)]
    if work.compared:
        _write_comparison(work, records)
    return records


def _summarise_set(work: Work, features: FeatureSet, runs: Sequence[Scores]) -> dict[str, Any]:
    folder, setup = work.staging.inside(features.folder), work.setup
    run_folder.write_average(folder, runs)
    run_folder.write_frozen(folder, runs, setup.settings.steps)
    plots.write_curves(folder, runs, setup.settings.ks)
    record = _record(work, features=_features_record(features, setup), plan=work.plan)
    run_folder.write_summary(folder, record | {"metrics": summary(runs)})
    return record | {"metrics": summary(runs)}


def _record(work: Work, **contents: Any) -> dict[str, Any]:
    """The record of runs, with what holds for all sets of a call."""
    setup, pairs = work.setup, len(work.sets[0].survey.names)
    subset = str(setup.subset) if setup.subset else None
    return make_record(
        setup.settings.record() | {"runs": setup.runs, "subset": subset},
        setup.flags or {},
        pairs={"train": pairs - setup.tested, "test": setup.tested},
        device=device_name(setup.device),
        **contents,
    )


def _features_record(features: FeatureSet, setup: Setup) -> dict[str, Any]:
    """Which features runs were made from."""
    survey = features.survey
    record = {"file": str(features.source.path), "sha256": survey.sha256, "views": survey.views, "width": survey.width}
    if survey.right:
        record["right"] = str(survey.right)
    if setup.split_pca:
        record["pca"] = {"fitted_on": TRAINING_PAIRS, "components": setup.split_pca.components}
    return record


def _write_comparison(work: Work, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the files of a comparison."""
    setup, settings = work.setup, work.setup.settings
    entries = [_entry(each, record["metrics"], setup) for each, record in zip(work.sets, records, strict=True)]
    pairs = len(work.sets[0].survey.names)
    conditions = Conditions(pairs, setup.tested, setup.runs, settings.head, settings.steps, settings.temperature)
    models = [
        {
            "model": entry.label,
            "folder": entry.folder,
            **record["features"],
            "made_with": read_settings(each.source.path),
        }
        for each, entry, record in zip(work.sets, entries, records, strict=True)
    ]
    write_report(work.staging.path, compare(entries, settings.ks), conditions, _record(work, models=models))


def _entry(features: FeatureSet, metrics: Mapping[str, Any], setup: Setup) -> Entry:
    """A set as it is compared: after its PCA, where each run has one."""
    width = setup.split_pca.components if setup.split_pca else features.survey.width
    protocol = TRAINING_PAIRS if setup.split_pca else features.source.protocol
    return Entry(features.source.label, features.folder.name, width, protocol, metrics)


def publish(work: Work) -> None:
    """Put all that is new in its place by one list of renames: runs, what sums them up, a comparison, final heads."""
    staging, new, old = work.staging, list[str](), list[str]()
    for features in work.sets:
        grown = staging.inside(features.folder)
        parts = run_folder.own_parts(grown) if grown.exists() else []
        new += [path.relative_to(staging.path).as_posix() for path in parts]
        existing = run_folder.own_parts(features.folder) if features.folder.exists() and not work.done else []
        old += [path.relative_to(work.top).as_posix() for path in existing]
    if work.compared and not work.done:
        new += [path.name for path in report_files(staging.path)]
        old += [path.name for path in report_files(work.top)]
    if new:
        staging.place(dict(zip(new, new, strict=True)), old)


def published(work: Work) -> list[dict[str, Any]]:
    """Return the summaries of runs that are in their places."""
    logger.info(f"{printable(str(work.top))}: these very runs are here already; --overwrite makes them again")
    records = [run_folder.read_summary(features.folder) for features in work.sets]
    if None in records:
        folder = work.sets[records.index(None)].folder
        raise InputError(f"{printable(str(folder))}: its summary.json cannot be read")
    return [record for record in records if record is not None]
