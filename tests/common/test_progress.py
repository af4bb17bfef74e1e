"""The bar, on a terminal and in a log file."""

from __future__ import annotations

import sys

import pytest

from common.progress import progress


def test_bar_tells_work_unit_and_total_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(12, "extract", "images") as bar:
        bar.update(12)
    out, err = capsys.readouterr()
    assert out == ""
    assert "extract: 100%" in err
    assert "12/12" in err
    assert "images/s" in err


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0.1), (False, 20.0)])
def test_log_files_get_few_lines(terminal: bool, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress(1, "extract", "images") as bar:
        assert bar.mininterval == seconds
