"""Results take their places together, and a folder serves one process at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptation.pages.content import Page
from adaptation.similarity.folders.results import results_in, write_results
from common.errors import InputError
from common.storage.staging import Staging

Run = Callable[..., int]


def test_results_are_a_csv_and_a_page(tmp_path: Path) -> None:
    with results_in(tmp_path / "out", "a.csv", overwrite=False):
        write_results(tmp_path / "out", "a.csv", iter([("x", "y"), (1, "two\nlines")]), Page("Title", [], 1, 0))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.csv", "page.html"}
    assert (tmp_path / "out" / "a.csv").read_bytes() == b'x,y\r\n1,"two\nlines"\r\n'
    assert "Title" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


def test_results_that_are_there_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    with (
        pytest.raises(InputError, match=r"already holds page\.html; give another"),
        results_in(tmp_path, "a.csv", False),
    ):
        raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_nothing_is_left_of_an_error(tmp_path: Path) -> None:
    def rows() -> object:
        yield ("x",)
        raise InputError("half of it")

    with pytest.raises(InputError, match="half"), results_in(tmp_path / "out", "a.csv", False):
        raise InputError("half")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="half"), results_in(tmp_path / "out", "a.csv", False):
        write_results(tmp_path / "out", "a.csv", rows(), None)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "a.csv").exists()
    with results_in(tmp_path / "out", "a.csv", False):
        write_results(tmp_path / "out", "a.csv", [("x",)], None)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.csv"]


def test_results_that_were_cut_short_while_they_took_their_places_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Staging._bring

    def half(self: Staging, new: dict[str, str]) -> None:
        whole(self, dict([*new.items()][:1]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, results_in(tmp_path, "a.csv", False):
        patch.setattr(Staging, "_bring", half)
        with pytest.raises(KeyboardInterrupt):
            write_results(tmp_path, "a.csv", [("x",)], Page("Title", [], 1, 0))
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(InputError, match=r"already holds a\.csv, page\.html"), results_in(tmp_path, "a.csv", False):
        raise AssertionError
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "page.html"}


@pytest.mark.parametrize("command", ["search", "score"])
def test_a_folder_in_use_and_a_file_in_its_place_are_refused(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    pairs = tmp_path / "pairs"
    words = {"search": ("-q", pairs / "left", "-g", pairs / "right"), "score": ("-d", pairs)}[command]
    with results_in(tmp_path / "out", "a.csv", False):
        assert run(command, *words, "-s", tmp_path / "out") == 2
    assert "another process is writing here" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "out").write_text("mine")
    assert run(command, *words, "-s", tmp_path / "out") == 2
    assert "out: is a file; -s takes a folder" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "out").read_text() == "mine"
