"""`similarity.py` killed at any moment: the same command resumes, and ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.slow.processes import contents, ended, start

pytestmark = pytest.mark.slow

IMAGES, NEW, KILLS = 40, 12, 10
MODEL = ["-m", "../learned/run", "--cpu", "-b", "4"]
EMBED = ["similarity.py", "embed", *MODEL, "-d", "../more", "-s", "out"]
SEARCH = ["similarity.py", "search", *MODEL, "-q", "../few", "-g", "../more", "-k", "3", "-s", "out", "--html"]
SCORE = ["similarity.py", "score", *MODEL, "-d", "../pairs", "-s", "out", "--html"]
COMMANDS = {"embed": EMBED, "added": EMBED, "search": SEARCH, "score": SCORE}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, image: Callable[..., Path]) -> Path:
    """A folder with a similarity and images, and what each command makes when nothing happens."""
    place = tmp_path_factory.mktemp("killed")
    for number in range(16):
        for side in ("left", "right"):
            image(place / "pairs" / side / f"{number:02d}.png", (40, 33 + number), number)
    for number in range(IMAGES):
        image(place / "images" / f"{number:02d}.png", (45, 33 + number), 100 + number)
    for number in range(6):
        image(place / "few" / f"q{number}.png", (45, 40), 200 + number)
    learned = place / "learned"
    extracted = ["extract.py", "-d", "../pairs", "-s", "f", "--model", "tiny", "--weights", "random", "--cpu"]
    assert ended(start([*extracted, "-p", "adapt-pca", "8"], learned, tiny=True)) == 0
    trained = ["train.py", "-d", "f/tiny", "-s", "run", "-e", "3", "-r", "2", "-k", "1", "--final", "--cpu"]
    assert ended(start(trained, learned, tiny=True)) == 0, (learned / "log.txt").read_text()
    shutil.copytree(place / "images", place / "more")
    assert ended(start([*EMBED], place / "before", tiny=True)) == 0, (place / "before" / "log.txt").read_text()
    for number in range(NEW):
        image(place / "more" / f"{number:02d}b.png", (45, 33 + number), 300 + number)
    for name, command in COMMANDS.items():
        prepare(place, name, place / name)
        assert ended(start(command, place / name, tiny=True)) == 0, (place / name / "log.txt").read_text()
    return place


def prepare(place: Path, name: str, folder: Path) -> None:
    """What a command finds in its folder: nothing, or the embeddings of fewer images."""
    if name == "added":
        shutil.copytree(place / "before", folder)


def same(place: Path, name: str, folder: Path) -> bool:
    return contents(folder) == contents(place / name)


def finished(folder: Path) -> bool:
    """Whether a search or a score was killed when its results were taking their places: the next call ends that."""
    last = (folder / "log.txt").read_text().strip().splitlines()[-1]
    return "already holds " in last


def test_images_that_were_added_make_the_embeddings_of_all(place: Path) -> None:
    ours, theirs = contents(place / "added"), contents(place / "embed")
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} <= {"out/embeddings.npy", "out/embeddings.json"} | {
        "out/frozen.npy",
        "out/frozen.json",
    }  # the last digits of features depend on which images go through the network together


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(place: Path, name: str) -> None:
    """Again and again until it comes to its end, in the same folder, and then in another one."""
    generator, kills, rounds = random.Random(name), 0, 0
    begun = time.monotonic()
    prepare(place, name, place / f"timed {name}")
    assert ended(start(COMMANDS[name], place / f"timed {name}", tiny=True)) == 0
    seconds = time.monotonic() - begun
    while kills < KILLS // 3 + 1:
        folder, rounds = place / f"random {name} {rounds}", rounds + 1
        prepare(place, name, folder)
        while True:
            process = start(COMMANDS[name], folder, tiny=True)
            process.join(generator.uniform(0, 1.1 * seconds))
            if process.exitcode is None:
                process.kill()
                kills += 1
            if ended(process) == 0 or finished(folder):
                break
            assert process.exitcode == -signal.SIGKILL, (folder / "log.txt").read_text()
        assert same(place, name, folder), (folder / "log.txt").read_text()


POINTS: list[tuple[str, Iterable[int]]] = [
    ("before featuresExtractor.extractor._write", [1, 3]),
    ("after featuresExtractor.units.Unit.record", [3]),
    ("half common.storage.staging.Staging.add", [2]),
    ("before featuresExtractor.pipeline.publish", [1]),
    ("before adaptation.similarity.folders.embedded._rows", [1, 2]),
    ("after adaptation.similarity.folders.embedded._write_states", [1]),
    ("before pathlib.Path.rename", range(1, 9)),
    ("after pathlib.Path.rename", range(1, 9, 2)),
    ("before shutil.rmtree", [1, 2]),
]


@pytest.mark.parametrize(("point", "call"), [(point, call) for point, calls in POINTS for call in calls])
@pytest.mark.parametrize("name", ["embed", "added"])
def test_killed_at_a_certain_call(place: Path, name: str, point: str, call: int) -> None:
    folder = place / f"{name} {point} {call}"
    prepare(place, name, folder)
    before = contents(folder)
    killed = ended(start(COMMANDS[name], folder, point, call, tiny=True))
    assert killed == -signal.SIGKILL, (folder / "log.txt").read_text()
    if "rename" not in point and "rmtree" not in point:  # what was there stays until the new is whole
        assert {key: body for key, body in contents(folder).items() if key in before} == before
    assert ended(start(COMMANDS[name], folder, tiny=True)) == 0, (folder / "log.txt").read_text()
    assert same(place, name, folder), (folder / "log.txt").read_text()


RESULTS: list[tuple[str, str, Iterable[int]]] = [
    ("search", "after pathlib.Path.rename", range(1, 14, 3)),
    ("search", "before adaptation.similarity.folders.results.write_results", [1]),
    ("search", "after common.storage.files.write_csv", [1]),
    ("search", "before adaptation.pages.page.render", [1]),
    ("search", "before common.storage.staging.Staging._bring", [1, 2, 3, 4, 5]),
    ("score", "after pathlib.Path.rename", range(1, 10, 2)),
    ("score", "before common.storage.staging.Staging._bring", [1, 2, 3]),
]


@pytest.mark.parametrize(
    ("name", "point", "call"), [(name, point, call) for name, point, calls in RESULTS for call in calls]
)
def test_results_of_a_killed_call_are_all_there_or_none(place: Path, name: str, point: str, call: int) -> None:
    folder = place / f"results {name} {point} {call}"
    assert ended(start(COMMANDS[name], folder, point, call, tiny=True)) == -signal.SIGKILL
    again = ended(start(COMMANDS[name], folder, tiny=True))
    assert again == 0 or finished(folder), (folder / "log.txt").read_text()
    assert same(place, name, folder), (folder / "log.txt").read_text()


FULL = {
    "added": [
        "featuresExtractor.features.features_file.FeaturesWriter.put",
        "adaptation.similarity.folders.embedded._fill",
        "adaptation.similarity.folders.embedded._write_states",
    ],
    "search": [
        "featuresExtractor.features.features_file.FeaturesWriter.put",
        "adaptation.similarity.folders.results.write_csv",
        "adaptation.similarity.folders.results.write_page",
    ],
}


@pytest.mark.parametrize(("name", "point"), [(name, f"full {point}") for name in FULL for point in FULL[name]])
def test_a_full_disk_is_one_line_and_the_same_command_resumes(place: Path, name: str, point: str) -> None:
    folder = place / f"{name} {point}"
    prepare(place, name, folder)
    before = contents(folder)
    assert ended(start(COMMANDS[name], folder, point, tiny=True)) == 2, (folder / "log.txt").read_text()
    told = (folder / "log.txt").read_text()
    assert told.strip().splitlines()[-1] == "similarity.py: error: writing: No space left on device"
    assert "Traceback" not in told
    assert {key: body for key, body in contents(folder).items() if key in before} == before
    assert ended(start(COMMANDS[name], folder, tiny=True)) == 0, (folder / "log.txt").read_text()
    assert same(place, name, folder), (folder / "log.txt").read_text()
