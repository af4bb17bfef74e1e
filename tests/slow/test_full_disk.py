"""A full disk, and one that takes nothing: a clear error, nothing half-written, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import draw_image
from tests.slow.processes import contents, ended, start
from tests.slow.test_killed_train import write_features

pytestmark = pytest.mark.slow

EXTRACT = ["extract.py", "-d", "../pairs", "-s", "out", "-b", "4", "--model", "timm/test_resnet", "--cpu"]
EXTRACT += ["--weights", "random", "-p", "adapt-pca", "8"]
TRAIN = ["train.py", "-d", "../features.npy", "-s", "out", "-e", "3", "-r", "3", "--cpu"]
FULL = "No space left on device"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs and features, and what both commands make of them when there is room."""
    place = tmp_path_factory.mktemp("full")
    for side, seed in (("left", 0), ("right", 100)):
        for number in range(30):
            draw_image(place / "pairs" / side / f"{number:02d}.png", (40, 30), seed + number)
    write_features(place / "features.npy", 0)
    for name, command in (("extract", EXTRACT), ("train", TRAIN)):
        assert ended(start(command, place / name)) == 0, (place / name / "log.txt").read_text()
    return place


def last_line(folder: Path) -> str:
    return (folder / "log.txt").read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "point", "call"),
    [
        ("extract", "featuresExtractor.features.features_file.FeaturesWriter.put", 1),
        ("extract", "featuresExtractor.features.features_file.FeaturesWriter.put", 7),
        ("extract", "featuresExtractor.features.features_file.FeaturesWriter.seal", 1),
        ("extract", "common.storage.staging.Staging.add", 1),
        ("extract", "common.storage.staging.Staging.add", 4),
        ("extract", "common.storage.files.finish_file", 1),
        ("extract", "common.storage.files.finish_file", 2),
        ("extract", "featuresExtractor.pca.save_pca", 1),
        ("train", "adaptation.reporting.events.EventsFile._append", 1),
        ("train", "adaptation.reporting.events.EventsFile._append", 3),
        ("train", "adaptation.reporting.events.EventsFile._append", 6),
        ("train", "common.storage.files.finish_file", 1),
        ("train", "common.storage.files.finish_file", 4),
        ("train", "adaptation.reporting.run_folder.write_csv", 6),
        ("train", "adaptation.reporting.plots.write_curves", 1),
    ],
)
def test_disk_that_is_full_at_a_certain_write(place: Path, name: str, point: str, call: int) -> None:
    folder, command = place / f"{name} {point} {call}", EXTRACT if name == "extract" else TRAIN
    assert ended(start(command, folder, f"full {point}", call)) == 2, (folder / "log.txt").read_text()
    assert FULL in last_line(folder)
    assert "Traceback" not in (folder / "log.txt").read_text()
    assert ended(start(command, folder)) == 0, (folder / "log.txt").read_text()
    assert contents(folder) == contents(place / name)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk(options)` mounts a small file system in memory; where the machine does not allow that the test is left
    out."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", folder], check=False, capture_output=True)


def test_disk_that_fills_up_meanwhile(place: Path, disk: Callable[[str], Path]) -> None:
    small, folder = disk("size=4m"), place / "fills"
    folder.mkdir()
    (folder / "out").symlink_to(small)
    process = start(EXTRACT, folder)
    journal, filler = small / "timm-test_resnet/.unfinished/features/units.jsonl", small / "filler"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert process.is_alive()
        time.sleep(0.001)
    with filler.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert ended(process) == 2, (folder / "log.txt").read_text()
    assert FULL in last_line(folder)
    assert "pairs are done and kept" in (folder / "log.txt").read_text()
    assert not (small / "timm-test_resnet" / "features.npy").exists()
    assert ended(start(EXTRACT, folder)) == 2, (folder / "log.txt").read_text()  # and again while it is full
    filler.unlink()
    assert ended(start(EXTRACT, folder)) == 0, (folder / "log.txt").read_text()
    assert contents(small) == {name.removeprefix("out/"): body for name, body in contents(place / "extract").items()}


def test_disk_that_is_too_small_is_seen_before_the_start(place: Path, disk: Callable[[str], Path]) -> None:
    small, folder = disk("size=200k"), place / "small"
    folder.mkdir()
    (folder / "out").symlink_to(small)
    assert ended(start([*EXTRACT, "-p", "save"], folder)) == 2
    assert "GB are free; -p adapt keeps the layers' means alone" in last_line(folder)
    assert list(small.iterdir()) == []


@pytest.mark.parametrize("command", [EXTRACT, TRAIN], ids=["extract", "train"])
def test_disk_that_takes_nothing(place: Path, disk: Callable[[str], Path], command: list[str]) -> None:
    small, folder = disk("ro"), place / f"read-only {command[0]}"
    folder.mkdir()
    (folder / "out").symlink_to(small)
    assert ended(start(command, folder)) == 2, (folder / "log.txt").read_text()
    assert os.strerror(30) in last_line(folder)
    assert "Traceback" not in (folder / "log.txt").read_text()
