"""`extract.py` killed at any moment: the same command ends with the very bytes of an uninterrupted run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conftest import draw_image
from tests.slow.processes import ROOT, contents, ended, start

pytestmark = pytest.mark.slow

COMMON = ["extract.py", "-s", "features", "-b", "4", "--model", "timm/test_resnet", "--weights", "random", "--cpu"]
JOINED = [*COMMON, "-d", "../pairs", "-p", "adapt-pca", "8"]
BY_LAYER = [*COMMON, "-d", "../pairs", "-p", "pca", "4"]
WITH_GAPS = [*COMMON, "-d", "../damaged", "-p", "save", "--on-error", "skip"]
SIDE_BY_SIDE = [*JOINED, "--model", "timm/test_vit", "--concat"]
COMMANDS = {"joined": JOINED, "by layer": BY_LAYER, "with gaps": WITH_GAPS, "side by side": SIDE_BY_SIDE}
KILLS = 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pairs, and with others among which some are damaged behind their headers; beside them is what each
    command makes of them when nothing happens."""
    place = tmp_path_factory.mktemp("killed")
    for side, seed in (("left", 0), ("right", 100)):
        for number in range(30):
            draw_image(place / "pairs" / side / f"{number:02d}.png", (40, 30), seed + number)
    shutil.copytree(place / "pairs", place / "damaged")
    for name in ("left/03.png", "right/04.png", "left/17.png", "right/29.png"):
        path = place / "damaged" / name
        body = bytearray(path.read_bytes())
        body[60:80] = bytes(20)  # within the compressed pixels: the header, and the end, are good
        path.write_bytes(body)
    for name, command in COMMANDS.items():
        assert ended(start(command, place / name)) == 0, (place / name / "log.txt").read_text()
    return place


def same(place: Path, name: str, folder: Path) -> bool:
    return contents(folder) == contents(place / name)


def test_command_makes_the_same_bytes_twice(place: Path) -> None:
    for name, command in COMMANDS.items():
        assert ended(start(command, place / f"twice {name}")) == 0
        assert same(place, name, place / f"twice {name}")
    assert len(contents(place / "with gaps")) > 2


@pytest.mark.parametrize("seed", range(len(COMMANDS)))
def test_killed_at_random_moments(place: Path, seed: int) -> None:
    """Again and again until it comes to its end, in the same folder, and then in another one."""
    generator, kills, rounds = random.Random(seed), 0, 0
    name = list(COMMANDS)[seed]
    begun = time.monotonic()
    assert ended(start(COMMANDS[name], place / f"timed {seed}")) == 0
    seconds = time.monotonic() - begun
    while kills < KILLS // 3 + 1:
        folder, rounds = place / f"random {seed} {rounds}", rounds + 1
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
    "joined": [
        ("half common.storage.staging.Staging.add", [1, 3]),
        ("before common.storage.staging.Staging.add", [1, 2, 9]),
        ("before featuresExtractor.images.loader.read_item", [1, 13]),
        ("before featuresExtractor.backbones.inference.Forward._fill", [1, 5]),
        ("after featuresExtractor.features.features_file.FeaturesWriter.put", [1, 4, 15]),
        ("before featuresExtractor.features.features_file.FeaturesWriter.seal", [1, 2]),
        ("after featuresExtractor.features.features_file.FeaturesWriter.seal", [1, 2]),
        ("before featuresExtractor.pca.Moments.add", [2]),
        ("after featuresExtractor.pca.Projection.__call__", [1]),
        ("before pathlib.Path.replace", [1, 2, 3, 4, 5]),
        ("after pathlib.Path.replace", [1, 2, 3, 4, 5]),
        ("before pathlib.Path.rename", [1, 2, 3, 4, 5, 6]),
        ("after pathlib.Path.rename", [1, 2, 3, 4, 5, 6]),
        ("before shutil.rmtree", [1]),
    ],
    "by layer": [
        ("before pathlib.Path.replace", range(1, 9, 2)),
        ("after pathlib.Path.replace", range(2, 9, 3)),
        ("before pathlib.Path.rename", range(1, 18, 3)),
        ("after pathlib.Path.rename", range(2, 18, 4)),
    ],
    "with gaps": [
        ("before featuresExtractor.features.features_file.FeaturesWriter._closed_up", [1, 2]),
        ("after featuresExtractor.features.features_file.FeaturesWriter._closed_up", [1, 2]),
        ("before featuresExtractor.pipeline._seal", [1]),
        ("after featuresExtractor.pipeline._seal", [1]),
        ("before pathlib.Path.rename", [1, 2, 3, 4, 5, 6, 7]),
        ("after pathlib.Path.rename", [1, 3, 5, 7]),
        ("before pathlib.Path.replace", [2, 3, 4, 5]),
        ("after pathlib.Path.replace", [1, 2, 3, 4]),
    ],
    "side by side": [
        ("before featuresExtractor.concat._join", [1]),
        ("after featuresExtractor.features.features_file.FeaturesWriter.put", [17]),
        ("after featuresExtractor.concat._join", [1]),
        ("before featuresExtractor.pca.Moments.add", [1]),
        ("before pathlib.Path.rename", range(7, 13)),
        ("after pathlib.Path.rename", [8, 10, 12]),
        ("after pathlib.Path.replace", [8, 9, 10, 11]),
    ],
}


@pytest.mark.parametrize(
    ("name", "point", "call"),
    [(name, point, call) for name, points in POINTS.items() for point, calls in points for call in calls],
)
def test_killed_at_a_certain_call(place: Path, name: str, point: str, call: int) -> None:
    folder = place / f"{name} {point} {call}"
    assert ended(start(COMMANDS[name], folder, point, call)) == -signal.SIGKILL, (folder / "log.txt").read_text()
    assert ended(start(COMMANDS[name], folder)) == 0, (folder / "log.txt").read_text()
    assert same(place, name, folder), (folder / "log.txt").read_text()


def test_only_the_batches_in_flight_are_done_again(place: Path) -> None:
    folder = place / "in flight"
    ended(start(JOINED, folder, "after common.storage.staging.Staging.add", 9))
    assert ended(start(JOINED, folder)) == 0
    assert "going on: 18 of 30 pairs are done" in (folder / "log.txt").read_text()


def test_overwriting_is_gone_on_with_too(place: Path) -> None:
    """What was there stays whole until the new is."""
    folder = place / "overwritten"
    shutil.copytree(place / "joined", folder)
    again = [*JOINED, "--overwrite", "-p", "adapt"]
    ended(start(again, folder, "after common.storage.staging.Staging.add", 4))
    before, now = contents(place / "joined"), contents(folder)
    assert all(now[name] == body for name, body in before.items())
    assert ended(start(again, folder)) == 0
    assert "going on: 8 of 30 pairs are done" in (folder / "log.txt").read_text()
    left = contents(folder)
    assert left["features/timm-test_resnet/features.npy"] == before["features/timm-test_resnet/features.npy"]
    assert not [name for name in left if "unfinished" in name or "pca" in name]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_end(place: Path, number: signal.Signals, code: int) -> None:
    """The command itself, as a user starts it: one line that says how to go on, and it goes on."""
    folder = place / f"asked {code}"
    folder.mkdir()
    words = [sys.executable, str(ROOT / "extract.py"), *JOINED[1:]]
    words[words.index("-b") + 1] = "2"
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = folder / "features" / "timm-test_resnet" / ".unfinished" / "features" / "units.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert told.splitlines()[-1] == "extract.py: interrupted; the same command goes on from here"
    assert "Traceback" not in told
    assert journal.exists()
    words[words.index("-b") + 1] = "2"
    assert subprocess.run(words, cwd=folder, check=False, capture_output=True).returncode == 0
    assert not [path for path in folder.rglob("*") if path.name in (".unfinished", ".lock")]
