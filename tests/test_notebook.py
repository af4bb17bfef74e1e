"""The notebook runs from top to bottom on the sample pairs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook client's own dependencies
def test_notebook_runs_and_adaptation_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(PROJECT / "example.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    before, after = (
        float(re.search(rf"{word} adaptation, partner first.*: ([\d.]+)", said)[1])  # type: ignore[index]
        for word in ("before", "after")
    )
    assert after > before + 0.1


def test_committed_notebook_holds_no_path_of_a_machine() -> None:
    text = (PROJECT / "example.ipynb").read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert str(PROJECT) not in text
