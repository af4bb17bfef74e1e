"""What the demonstration refuses, and that its table shows what its command asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

import train
from demo import __main__ as demo


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("file", "{path}: is a file; give a folder"),
        ("file/below", "{path}: no folder could be made here (Not a directory)"),
        ("folder", "{path}: not empty and not made by the demonstration; give another folder"),
    ],
)
def test_a_place_that_is_no_folder_for_it_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, expected: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    assert demo.main([str(tmp_path / given)]) == 2
    assert capsys.readouterr().err == f"demo: error: {expected.format(path=tmp_path / given)}\n"
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "mine"


def test_the_table_shows_the_k_of_the_command() -> None:
    words = demo.TRAIN.format(features="features", run="run").split()
    assert train.build_parser().parse_args(words[1:]).k == list(demo.KS)
