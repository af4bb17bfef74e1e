"""The notebook runs from top to bottom, on the sample pairs and on pairs of one's own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PROJECT = Path(__file__).resolve().parent.parent


Notebook = nbformat.NotebookNode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the notebook client's own dependencies


def execute(notebook: Notebook, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Runs a notebook in `folder`; returns the number of its figures and all that it printed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    return figures, "".join(output.text for output in outputs if output.output_type == "stream")


def read() -> Notebook:
    """The committed notebook."""
    notebook: Notebook = nbformat.read(PROJECT / "example.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def test_notebook_runs_and_adaptation_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, said = execute(read(), tmp_path, monkeypatch)
    assert figures == 3
    before, after = (
        float(re.search(rf"{word} adaptation, partner first.*: ([\d.]+)", said)[1])  # type: ignore[index]
        for word in ("before", "after")
    )
    assert after > before + 0.1


def test_notebook_runs_on_a_few_pairs_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: Callable[..., Path]
) -> None:
    own = tmp_path / "my pairs"
    for number in range(12):
        suffixes = (".jpg", ".png") if number % 2 else (".png", ".jpg")
        name = "un café" if number == 5 else f"photo{number}"
        image(own / "left" / (name + suffixes[0]), (80 + 9 * number, 60), 2 * number)
        image(own / "right" / (name + suffixes[1]), (50, 90 - 3 * number), 2 * number + 1)
    notebook = read()
    (cell,) = (cell for cell in notebook.cells if "\nPAIRS = SAMPLE" in cell.source)
    cell.source = re.sub("PAIRS = SAMPLE.*", f"PAIRS = Path({str(own)!r})", cell.source)
    figures, said = execute(notebook, tmp_path, monkeypatch)
    assert figures == 3
    assert "12 pairs" in said
    assert "partner first among 3 " in said
    assert not (tmp_path / "notebook-output" / "pairs").exists()


def test_committed_notebook_holds_no_path_of_a_machine() -> None:
    text = (PROJECT / "example.ipynb").read_text(encoding="utf-8")
    assert "site-packages" not in text
    assert str(PROJECT) not in text
