"""TensorBoard itself, while training runs, after it was killed, and when all is in its place."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slow.processes import ended, start
from tests.slow.test_killed_train import write_features

pytestmark = pytest.mark.slow

EPOCHS = 400
TRAIN = ["train.py", "-d", "features.npy", "-s", "runs/first", "-e", str(EPOCHS), "-r", "2", "-t", "15", "--cpu"]
SECONDS = 60


@pytest.fixture(params=["auto"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """`server(path)` is what TensorBoard answers, as it is started by default."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["--logdir", str(tmp_path / "runs"), "--port", str(port), "--reload_interval", "1"]
    command = [sys.executable, "-m", "tensorboard.main", *words, "--load_fast", request.param]

    def get(path: str, body: bytes | None = None) -> Any:
        asked = urllib.request.Request(f"http://localhost:{port}/data/{path}", body)
        asked.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            return json.load(answer)

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield get
        process.terminate()


def waited(look: Callable[[], Any]) -> Any:
    """What a look finds, as soon as it finds something."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if value := look():
                return value
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    raise AssertionError(f"nothing after {SECONDS} s")


def curve(server: Callable[[str], Any], run: str, tag: str = "Test/top 1") -> list[list[float]]:
    """(wall time, step, value) of each point."""
    points: list[list[float]] = server(f"plugin/scalars/scalars?{urllib.parse.urlencode({'run': run, 'tag': tag})}")
    return points


def test_curves_grow_and_a_killed_run_continues_its_own(server: Callable[..., Any], tmp_path: Path) -> None:
    write_features(tmp_path / "features.npy", 0)
    (tmp_path / "runs").mkdir()
    process = start(TRAIN, tmp_path, "after adaptation.reporting.events.EventsFile.add", 1)
    assert ended(process) == -signal.SIGKILL
    growing = "first/.unfinished/run1"
    assert waited(lambda: growing in server("runs") and curve(server, growing))
    assert ended(start(TRAIN, tmp_path)) == 0, (tmp_path / "log.txt").read_text()
    expected = {"first/run1", "first/run2", "first/avg", "first/frozen"}
    waited(lambda: set(server("runs")) == expected)
    points = waited(lambda: curve(server, "first/run1"))
    assert [step for _, step, _ in points][-1] == EPOCHS
    assert len({step for _, step, _ in points}) == len(points)
    assert points == sorted(points)
    frozen = curve(server, "first/frozen")
    assert [step for _, step, _ in frozen] == [1, EPOCHS]
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 9,
    }
    groups = server("plugin/hparams/session_groups", json.dumps(asked).encode())["sessionGroups"]
    assert sorted(group["hparams"]["run"] for group in groups) == [1, 2]
    assert groups[0]["hparams"]["temperature"] == 15
    assert {value["name"]["tag"] for value in groups[0]["metricValues"]} >= {"Test/top 1", "Test/MRR"}
