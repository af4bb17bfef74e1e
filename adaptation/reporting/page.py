"""The page of a run folder: the test pairs of the first run, what was found for each, failures first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptation.data.splits import draw_split, seeds_of
from adaptation.pages.content import Page
from adaptation.pages.page import write_page
from adaptation.pages.pairs import pair_queries
from adaptation.plan import FeatureSet, Work
from adaptation.reporting.run_folder import PAGE
from adaptation.similarity.learned.file import NAME
from adaptation.similarity.similarity import Similarity
from common.errors import InputError, printable
from common.record import read_record

K = 10  # images that each measure finds


def find_images_of(features: FeatureSet, given: Path | None) -> Path:
    """Return the folder with left/ and right/ that holds the images of a features file: the one that is given, or the
    one that extract.py recorded. InputError where the images are not there."""
    recorded = read_record(features.source.path).get("folder")
    folder = given or (Path(recorded) if isinstance(recorded, str) else None)
    if folder is None or not any(path is not None for path in paths_of(folder, features.survey.names[0])):
        where = f"the images are not in {printable(str(folder))}" if folder else "no record says where the images are"
        raise InputError(f"--html: {where}; give --images PATH, the folder with left/ and right/")
    return folder


def paths_of(folder: Path, names: tuple[str, str]) -> tuple[Path | None, Path | None]:
    """Return the files of a pair, as far as they exist. A name may be anyone's and leads out of nothing."""
    left, right = (_inside(folder / side, name) for side, name in zip(("left", "right"), names, strict=True))
    return left, right


def _inside(folder: Path, name: str) -> Path | None:
    path = folder / name
    return path if ".." not in Path(name).parts and not Path(name).is_absolute() and path.is_file() else None


def write_pages(work: Work, folders: Sequence[Path]) -> None:
    """Write the page of each set that has none yet; `folders` hold the images of each."""
    missing = [
        (features, folder)
        for features, folder in zip(work.sets, folders, strict=True)
        if not (work.done and (features.folder / PAGE).is_file())
    ]
    if missing:
        work.staging.begin(work.plan, overwrite=True)
    for features, folder in missing:
        runs = features.folder if work.done else work.staging.inside(features.folder)
        write_page(work.staging.inside(features.folder) / PAGE, _page(work, features, runs, folder))


def _page(work: Work, features: FeatureSet, runs: Path, folder: Path) -> Page:
    """The test pairs of the first run, in both directions."""
    setup, pairs = work.setup, features.survey.load()
    settings = setup.settings
    head = settings.head if dict(settings.code).get(settings.head) else None
    if not (runs / "run1" / NAME).is_file():
        message = f"--html: no {NAME} in run1, which an earlier version trained; --overwrite trains the runs again"
        raise InputError(f"{printable(str(features.folder))}: {message}")
    similarity = Similarity.load(runs / "run1" / NAME, device=setup.device, head=head)
    tested = pairs.subset(draw_split(len(pairs), settings.test_split, seeds_of(settings.seed, 1)[0]).test)
    reduced = setup.split_pca is None and features.origin.pca is not None
    left, right = (similarity.vectors(side[0].numpy(), reduced) for side in (tested.left, tested.right))
    paths = [paths_of(folder, names) for names in tested.names]
    queries = pair_queries(left, right, tested.names, paths, K, setup.device)
    trained = len(pairs) - len(tested)
    notes = [
        f"{features.source.label}, head {settings.head.rpartition(':')[2]}: run 1 of {setup.runs}, "
        f"{settings.steps:,} epochs on {trained:,} pairs",
        f"These are its {len(tested):,} test pairs, which it has not learned from; queries that it answers worst come "
        "first.",
    ]
    return Page("Test pairs of run 1", queries, min(K, len(tested)), len(tested), notes)
