"""`train.py` killed at any moment: finished runs are kept, and the numbers are those of an uninterrupted call."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from tests.slow.processes import ROOT, contents, ended, start

pytestmark = pytest.mark.slow

SINGLE = ["train.py", "-d", "../a/features.npy", "-s", "runs", "-e", "12", "-r", "4", "-t", "15", "--cpu"]
COMPARED = ["train.py", "-d", "../a", "../b", "-s", "runs", "-e", "8", "-r", "3", "-t", "15", "--cpu"]
REPLACED = [*SINGLE, "--overwrite", "--seed", "3"]
FINAL = [*SINGLE, "--final"]
COMMANDS = {"single": SINGLE, "compared": COMPARED, "replaced": REPLACED, "final": FINAL, "later": FINAL}
KILLS = 10


def write_features(path: Path, seed: int) -> None:
    """Sixty pairs of two views with something in common."""
    generator, row = np.random.default_rng(seed), row_type(("left", "right"), 24, 8)
    common = generator.standard_normal((60, 1, 24))
    with FeaturesWriter(path, row, 60, 2) as writer:
        vectors = (common + generator.standard_normal((2, 60, 2, 24))).astype(np.float32)
        names = [(f"{number:03d}.jpg",) * 2 for number in range(60)]
        writer.put(0, [make_rows(row, names, block, view) for view, block in enumerate(vectors)])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the features of two models; beside them is what each command makes when nothing happens."""
    place = tmp_path_factory.mktemp("killed")
    write_features(place / "a" / "features.npy", 0)
    write_features(place / "b" / "features.npy", 1)
    for name in COMMANDS:
        prepare(place, name, place / name)
        assert ended(start(COMMANDS[name], place / name)) == 0, (place / name / "log.txt").read_text()
    return place


def prepare(place: Path, name: str, folder: Path) -> None:
    """What a command finds in its folder: runs to replace, more of them than will be, and a file of the user's; or runs
    that only want a final head."""
    if name == "replaced":
        shutil.copytree(place / "single", folder)
        shutil.copytree(folder / "runs" / "run4", folder / "runs" / "run7")
        (folder / "runs" / "notes.txt").write_text("mine")
    if name == "later":
        shutil.copytree(place / "single", folder)


def same(place: Path, name: str, folder: Path) -> bool:
    return contents(folder) == contents(place / name)


def finish(name: str, folder: Path) -> None:
    """The same command again; one that was killed when all was done has nothing to do."""
    assert ended(start(COMMANDS[name], folder)) == 0, (folder / "log.txt").read_text()


def test_uninterrupted_commands_make_what_is_expected(place: Path) -> None:
    runs = place / "replaced" / "runs"
    assert sorted(path.name for path in runs.iterdir()) == [
        *("avg", "curves.png", "frozen", "notes.txt", "run1", "run2", "run3", "run4", "summary.json")
    ]
    assert json.loads((runs / "summary.json").read_text())["settings"]["seed"] == 3
    assert len(contents(place / "compared")) > 40


@pytest.mark.parametrize("seed", range(len(COMMANDS)))
def test_killed_at_random_moments(place: Path, seed: int) -> None:
    """Again and again until it comes to its end, in the same folder, and then in another one."""
    generator, kills, rounds = random.Random(seed), 0, 0
    name = list(COMMANDS)[seed]
    begun = time.monotonic()
    prepare(place, name, place / f"timed {seed}")
    assert ended(start(COMMANDS[name], place / f"timed {seed}")) == 0
    seconds = time.monotonic() - begun
    while kills < KILLS // 3 + 1:
        folder, rounds = place / f"random {seed} {rounds}", rounds + 1
        prepare(place, name, folder)
        while True:
            process = start(COMMANDS[name], folder)
            process.join(generator.uniform(0, 1.1 * seconds))
            if process.exitcode is None:
                process.kill()
                kills += 1
            if ended(process) == 0:
                break
            assert process.exitcode == -signal.SIGKILL, (folder / "log.txt").read_text()
        assert same(place, name, folder), (folder / "log.txt").read_text()


POINTS: dict[str, list[tuple[str, Iterable[int]]]] = {
    "single": [
        ("before adaptation.trainer.train_epoch", [1, 30]),
        ("before adaptation.reporting.run_folder.write_events", [1, 2]),
        ("after torch.save", [3]),
        ("before common.storage.staging.Staging.add", [1, 3]),
        ("half common.storage.staging.Staging.add", [2]),
        ("after common.storage.staging.Staging.add", [4]),
        ("before pathlib.Path.replace", range(1, 26, 5)),
        ("before pathlib.Path.rename", range(1, 8, 2)),
        ("after pathlib.Path.rename", range(1, 8, 2)),
        ("before adaptation.reporting.plots.write_curves", [1]),
        ("after adaptation.reporting.run_folder.write_summary", [1]),
    ],
    "compared": [
        ("before adaptation.reporting.run_folder.write_average", [2]),
        ("before pathlib.Path.rename", range(1, 17, 3)),
        ("after pathlib.Path.rename", range(2, 17, 4)),
        ("after adaptation.experiment.write_report", [1]),
        ("before shutil.rmtree", [1]),
    ],
    "replaced": [
        ("before pathlib.Path.rename", range(1, 16)),
        ("after pathlib.Path.rename", range(7, 15, 2)),
        ("before shutil.rmtree", [1]),
    ],
    "final": [
        ("before adaptation.final.train_final", [1]),
        ("before adaptation.final.write_similarity", [1]),
        ("after adaptation.final.write_similarity", [1]),
        ("before pathlib.Path.rename", range(2, 9, 3)),
    ],
    "later": [
        ("after adaptation.final.write_similarity", [1]),
        ("before pathlib.Path.rename", [1, 2]),
        ("after pathlib.Path.rename", [1, 2]),
    ],
}


@pytest.mark.parametrize(
    ("name", "point", "call"),
    [(name, point, call) for name, points in POINTS.items() for point, calls in points for call in calls],
)
def test_killed_at_a_certain_call(place: Path, name: str, point: str, call: int) -> None:
    folder = place / f"{name} {point} {call}"
    prepare(place, name, folder)
    assert ended(start(COMMANDS[name], folder, point, call)) == -signal.SIGKILL, (folder / "log.txt").read_text()
    finish(name, folder)
    assert same(place, name, folder), (folder / "log.txt").read_text()


def test_finished_runs_are_not_done_again(place: Path) -> None:
    folder = place / "kept"
    ended(start(SINGLE, folder, "before adaptation.trainer.train_runs", 3))
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "runs" / ".unfinished").glob("run*/train.csv")}
    assert (folder / "runs" / ".unfinished" / "units.jsonl").read_bytes().count(b"\n") == 2
    assert ended(start(SINGLE, folder, "before adaptation.trainer.train_runs", 3)) == 0  # two calls were enough
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("run[12]/train.csv")}
    assert before == after


def test_runs_that_are_there_stay_until_all_new_ones_are(place: Path) -> None:
    folder = place / "stay"
    prepare(place, "replaced", folder)
    before = contents(folder)
    ended(start(REPLACED, folder, "after adaptation.reporting.run_folder.write_summary", 1))
    now = contents(folder)
    assert {name: body for name, body in now.items() if ".unfinished" not in name and ".lock" not in name} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_end(place: Path, number: signal.Signals, code: int) -> None:
    """The command itself, as a user starts it: one line that says how to go on, and it goes on."""
    folder = place / f"asked {code}"
    folder.mkdir()
    words = [sys.executable, str(ROOT / "train.py"), *SINGLE[1:], "-r", "400"]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    units = folder / "runs" / ".unfinished" / "units.jsonl"
    while not (units.exists() and units.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert told.splitlines()[-1] == "train.py: interrupted; the same command goes on with the runs that are missing"
    assert "Traceback" not in told
    assert not (folder / "runs" / ".lock").exists()
