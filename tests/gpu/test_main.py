"""`make test-gpu` where there is no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_without_a_gpu_one_line_says_so_and_nothing_fails() -> None:
    root = Path(__file__).resolve().parents[2]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    call = [sys.executable, "-m", "tests.gpu"]
    done = subprocess.run(call, cwd=root, env=hidden, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert line.startswith("no GPU that torch can use was found (")
    assert line.endswith("): the tests that need one are skipped")
