"""What is recorded: what differs from it, beside sentences written by hand, and whether files are those recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from common import record
from common.errors import InputError
from common.record import differences
from common.storage import files

ASKED = {"settings": {"temperature": 15.0, "ks": (1, 3)}, "number of runs": 5, "weights": {"sha256": "ab" * 32}}
RECORDED: dict[str, Any] = json.loads(json.dumps(ASKED))


def test_the_same_settings_differ_in_nothing() -> None:
    assert differences(RECORDED, ASKED) == []
    assert differences({**RECORDED, "more": 1}, ASKED) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"number of runs": 8}, ["number of runs: 5 there, 8 asked"]),
        ({"settings": {"temperature": 5.0, "ks": (1, 3)}}, ["temperature: 15.0 there, 5.0 asked"]),
        (
            {"settings": {"temperature": 5.0, "ks": (1,)}},
            ["temperature: 15.0 there, 5.0 asked", "ks: [1, 3] there, [1] asked"],
        ),
        ({"weights": {"sha256": "cd" * 32}}, ["weights sha256: abababab there, cdcdcdcd asked"]),
        ({"weights": {"seed": 0}}, ["weights seed: none there, 0 asked", "weights sha256: abababab there, none asked"]),
        ({"device": "cpu"}, ["device: none there, cpu asked"]),
        ({"settings": "x" * 70}, ['settings: {"temperature": 15.0, "ks": [1, 3]} there, ' + "x" * 57 + "... asked"]),
    ],
)
def test_what_differs_is_named_with_both_values(change: dict[str, Any], expected: list[str]) -> None:
    assert differences(RECORDED, {**ASKED, **change}) == expected


def test_what_differs_in_a_list_of_settings_is_named_with_its_place() -> None:
    recorded = {"backbones": [{"model": "a", "weights": {"seed": 0}}, {"model": "b"}]}
    asked = {"backbones": [{"model": "a", "weights": {"seed": 5}}, {"model": "c"}]}
    expected = ["backbones 1 weights seed: 0 there, 5 asked", "backbones 2 model: b there, c asked"]
    assert differences(recorded, asked) == expected
    (whole,) = differences(recorded, {"backbones": asked["backbones"][:1]})
    assert whole.startswith("backbones: [{")


def test_versions_of_installed_packages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PACKAGES", ("numpy", "no-such-package"))
    assert record.package_versions() == {"numpy": numpy.__version__}


# ---- what is said about a file


def features_file(folder: Path, told: object) -> Path:
    path = folder / "features.npy"
    path.write_bytes(b"abc")
    path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")
    return path


ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("told", [{"sha256": ABC}, {"sha256": None}, {}])
def test_a_file_is_whole_when_its_json_says_so_or_says_nothing(tmp_path: Path, told: dict[str, Any]) -> None:
    path = features_file(tmp_path, told)
    assert record.check_whole(path, record.read_record(path)) == ABC


@pytest.mark.parametrize("sha256", ["0123456789abcdef", "", 0, 7, [], {}, False, "\x1b[2J\n"])
def test_a_file_of_which_the_json_says_something_else_is_refused(tmp_path: Path, sha256: object) -> None:
    path = features_file(tmp_path, {"sha256": sha256})
    with pytest.raises(InputError) as told:
        record.check_whole(path, record.read_record(path))
    assert str(told.value) == (
        f"{path}: was changed or damaged since it was written (its SHA-256 begins with ba7816bf, and its .json says "
        f"{str(sha256)[:8]}); get it again, or extract it again with --overwrite"
    )


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        record.check_whole(tmp_path / "no.npy", {})
    assert str(told.value) == f"{tmp_path / 'no.npy'}: no features file could be read here (No such file or directory)"


def test_without_a_json_there_are_no_facts(tmp_path: Path) -> None:
    assert record.read_record(tmp_path / "features.npy") == {}


@pytest.mark.parametrize("written", [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"3", b"null"])
def test_a_json_that_cannot_be_read_is_damaged(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "features.json").write_bytes(written)
    with pytest.raises(ValueError, match=r"."):
        files.read_json(tmp_path / "features.json")
    with pytest.raises(InputError, match=r"features\.json: damaged"):
        record.read_record(tmp_path / "features.npy")


def test_a_json_of_holes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "features.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="no JSON file of ours"):
        files.read_json(tmp_path / "features.json")


def test_record_holds_settings_flags_and_versions(tmp_path: Path) -> None:
    made = record.make_record({"seed": 0}, {"data": tmp_path, "batch": 4}, pairs=3)
    assert list(made) == ["settings", "pairs", "flags", "versions"]
    assert json.loads(json.dumps(made)) == made
    assert (made["flags"], made["pairs"]) == ({"data": str(tmp_path), "batch": 4}, 3)
    assert made["versions"]["numpy"] == numpy.__version__
