"""Files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from common.storage import files


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


def test_what_an_interrupted_process_left_is_not_written_on(tmp_path: Path) -> None:
    path, partial = tmp_path / "file.txt", tmp_path / "file.partial.txt"
    partial.write_text("longer than the new contents")
    with files.written_whole(path) as given:
        assert given == partial
        assert not partial.exists()
        partial.write_text("new")
    assert path.read_text() == "new"


def test_a_link_in_the_place_of_an_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("precious")
    (tmp_path / "file.partial.txt").symlink_to(elsewhere)
    with files.written_whole(tmp_path / "file.txt") as partial:
        partial.write_text("new")
    assert not (tmp_path / "file.txt").is_symlink()
    assert (tmp_path / "file.txt").read_text() == "new"
    assert elsewhere.read_text() == "precious"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_is_no_fault_and_a_broken_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(_: int) -> None:
        raise OSError(code, os.strerror(code))

    files.sync_folder(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fsync", fails)
    if code == errno.EINVAL:
        files.sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            files.sync_folder(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_holds_no_number_that_json_does_not_have(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", {"numbers": [1.0, value]})
    assert list(tmp_path.iterdir()) == []
