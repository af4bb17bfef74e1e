"""Nothing is asked of a network that was not asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("common", "featuresExtractor", "adaptation", "demo", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if path.name != "__main__.py"
)
DEAF = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
"""


def test_imports_ask_nothing() -> None:
    code = f"{DEAF}\nimport importlib\nfor name in {MODULES}: importlib.import_module(name)\nimport extract, train"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_ask_nothing_where_the_weights_are_here(tmp_path: Path, pairs: Callable[..., Path]) -> None:
    words = [
        "-d",
        str(pairs(6)),
        "-s",
        str(tmp_path / "features"),
        "-p",
        "adapt",
        "--model",
        "efficientnet_lite0",
        "--cpu",
    ]
    train = ["-d", str(tmp_path / "features"), "-s", str(tmp_path / "run"), "-e", "1", "-k", "1", "--cpu"]
    code = f"{DEAF}\nimport extract, train\nsys.exit(extract.main({words}) or train.main({train}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hubs_client_tells_nobody() -> None:
    code = "import common, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "True\n", done.stderr


def test_tests_reach_no_other_machine() -> None:
    with socket.socket() as connection, pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        connection.connect(("192.0.2.1", 80))
