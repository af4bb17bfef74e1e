"""Files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from common import files
from common.errors import InputError
from common.files import held


def write_half(path: Path) -> None:
    """Begins to write `path`, and fails."""
    with files.written_whole(path) as partial:
        partial.write_text("half")
        raise RuntimeError("power cut")


def test_unfinished_file_keeps_its_suffix() -> None:
    assert files.partial_name(Path("a/features.npy")) == Path("a/features.partial.npy")


def test_file_gets_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with files.written_whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="power cut"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_read_back(tmp_path: Path) -> None:
    value = {"names": ["été\x00", "\udcff"], "mean": 0.1, "none": None}
    files.write_json(tmp_path / "facts.json", value)
    text = (tmp_path / "facts.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("\n")


def test_sha256_of_the_standards_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected


def test_versions_of_installed_packages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PACKAGES", ("numpy", "no-such-package"))
    assert files.package_versions() == {"numpy": numpy.__version__}


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "run"
    with held(folder), pytest.raises(InputError, match=r"out/run: another process is writing here"), held(folder):
        pass
    with held(folder):
        assert folder.is_dir()


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: is a file; -s takes a folder"), held(tmp_path / "file"):
        pass
    with (
        pytest.raises(InputError, match=r"no folder can be made here \(Not a directory\)"),
        held(tmp_path / "file" / "x"),
    ):
        pass


def test_what_blocks_elsewhere_is_not_told_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), files.held(tmp_path):
        raise BlockingIOError
