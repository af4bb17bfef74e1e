"""Runs that grow, and how they take the place of others: whenever that is cut short, the same folder comes of it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from adaptation.reporting import run_folder as results
from adaptation.unfinished import Unfinished
from common.errors import InputError

PLAN = {"settings": {"ks": (1, 3), "seed": 0}, "number of runs": 2}
STRANGERS = ("runs", "run", "run1.txt", "my run1", "average", "summary.json.bak", "notes.txt")


def make_part(path: Path, word: str) -> None:
    """Something of the name's kind, as a run leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text(word)
    else:
        path.mkdir()
        (path / "train.csv").write_text(word)


def contents(folder: Path) -> dict[str, str | None]:
    """Everything below a folder: the words in files, and None for folders."""
    paths = folder.rglob("*")
    return {
        path.relative_to(folder).as_posix(): path.read_text(errors="replace") if path.is_file() else None
        for path in paths
    }


def begun(folder: Path, *new: str) -> Unfinished:
    """A room with new parts in it."""
    room = Unfinished(folder)
    assert not room.begin(PLAN, overwrite=True)
    for name in new:
        make_part(room.path / name, "new")
    return room


def refused(room: Unfinished, plan: dict[str, Any]) -> str:
    with pytest.raises(InputError) as told:
        room.begin(plan, overwrite=False)
    return str(told.value)


# ---- to begin


def test_a_new_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    room = Unfinished(folder)
    assert not room.begin(PLAN, overwrite=False)
    assert list(folder.iterdir()) == [room.path]
    assert room.inside(folder) == room.path
    assert room.inside(folder / "vit") == room.path / "vit"


def test_the_same_plan_goes_on_with_what_is_there(tmp_path: Path) -> None:
    before = contents(begun(tmp_path, "run1").path)
    for overwrite in (False, True):
        assert Unfinished(tmp_path).begin(PLAN, overwrite)
        assert contents(tmp_path / ".unfinished") == before


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"settings": {"ks": (1,), "seed": 0}}, "ks: [1, 3] there, [1] asked"),
        ({"number of runs": 3}, "number of runs: 2 there, 3 asked"),
        (
            {"settings": {"seed": 1}, "features": 1},
            "seed: 0 there, 1 asked; ks: [1, 3] there, none asked; ",
        ),
        ({"features": []}, "features: none there, [] asked"),
    ],
)
def test_another_plan_is_refused_with_what_differs_and_begins_anew_when_asked(
    tmp_path: Path, change: dict[str, Any], differing: str
) -> None:
    room = begun(tmp_path, "run1")
    before = contents(tmp_path)
    told = refused(room, {**PLAN, **change})
    assert told.startswith(f"{room.path}: unfinished runs of other settings are here ({differing}")
    assert told.endswith("; give the settings that they were begun with, or --overwrite to begin anew")
    assert contents(tmp_path) == before
    assert not room.begin({**PLAN, **change}, overwrite=True)
    assert list(contents(room.path)) == ["plan.json"]
    assert Unfinished(tmp_path).begin({**PLAN, **change}, overwrite=False)


def test_what_is_in_the_folder_stays_until_the_new_is_placed(tmp_path: Path) -> None:
    make_part(tmp_path / "run1", "old")
    for seed in range(2):
        room = Unfinished(tmp_path)
        assert not room.begin({**PLAN, "seed": seed}, overwrite=True)
        make_part(room.path / "run1", "half")
        assert (tmp_path / "run1" / "train.csv").read_text() == "old"


def test_a_room_that_got_no_plan_is_begun_anew(tmp_path: Path) -> None:
    """It was cut short before anything was in it."""
    room = Unfinished(tmp_path)
    room.path.mkdir()
    (room.path / "plan.partial.json").write_text("{")
    assert not room.begin(PLAN, overwrite=False)
    assert list(contents(room.path)) == ["plan.json"]


@pytest.mark.parametrize("written", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_no_plan_tells_of_is_left_alone(tmp_path: Path, written: bytes | None) -> None:
    room = begun(tmp_path, "run1")
    (room.path / "plan.json").unlink()
    if written is not None:
        (room.path / "plan.json").write_bytes(written)
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="move what you need out of it and remove it"):
            room.begin(PLAN, overwrite)
    assert contents(tmp_path) == before


def test_a_link_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no folder of its own"):
        Unfinished(tmp_path / "runs").begin(PLAN, overwrite=True)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model").symlink_to(tmp_path / "elsewhere")
    room = Unfinished(tmp_path / "runs")
    with pytest.raises(InputError, match="is a link to another place"):
        room.inside(tmp_path / "runs" / "model")
    room.path.mkdir()
    (room.path / "placing.json").write_text('{"new": [], "old": ["model/x"]}')
    room.complete()
    assert (tmp_path / "elsewhere" / "x").exists()


def test_a_room_without_a_finished_run_is_not_left_behind(tmp_path: Path) -> None:
    room = begun(tmp_path)
    (room.path / "run1.partial").mkdir()
    room.close()
    assert not room.path.exists()
    room = begun(tmp_path, "model/run2")
    room.close()
    assert room.path.exists()


@pytest.mark.parametrize("there", [[], ["run1"]])
def test_a_folder_that_takes_nothing_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: list[str]
) -> None:
    for name in there:
        make_part(tmp_path / name, "old")
    make = Path.mkdir

    def mkdir(path: Path, *given: Any, **named: Any) -> None:
        if path.parent == tmp_path:  # as the system does for a folder of mode 555, but not to root
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(InputError) as told:
        Unfinished(tmp_path).begin(PLAN, overwrite=True)
    assert str(told.value) == f"{tmp_path}: no run folder could be made here (Permission denied)"


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    assert refused(Unfinished(below), PLAN) == f"{below}: no run folder could be made here (Not a directory)"


# ---- to place


def test_placing_replaces_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run1", "run20", "avg", "summary.json", "curves.png"):
        make_part(tmp_path / name, "old")
    for name in STRANGERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    room = begun(tmp_path, "run1", "summary.json")
    room.place(results.own_parts(room.path), results.own_parts(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "summary.json", *STRANGERS}
    assert (tmp_path / "run1" / "train.csv").read_text() == (tmp_path / "summary.json").read_text() == "new"
    assert all((tmp_path / name / "file").read_text() == name for name in STRANGERS)


def test_placing_in_the_place_of_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "runs"
    make_part(elsewhere, "kept")
    folder.mkdir()
    for name in ("run1", "run2"):
        (folder / name).symlink_to(elsewhere)
    room = begun(folder, "run1")
    room.place([room.path / "run1"], [folder / "run1", folder / "run2"])
    assert contents(folder) == {"run1": None, "run1/train.csv": "new"}
    assert not (folder / "run1").is_symlink()
    assert (elsewhere / "train.csv").read_text() == "kept"


def test_where_no_placing_was_begun_nothing_is_placed(tmp_path: Path) -> None:
    Unfinished(tmp_path).complete()
    assert list(tmp_path.iterdir()) == []
    make_part(tmp_path / "run1", "old")
    room = begun(tmp_path, "run1")
    before = contents(tmp_path)
    room.complete()
    assert contents(tmp_path) == before


NEW = ["run1", "run2", "avg", "summary.json", "vit/run1", "vit/summary.json", "comparison.txt"]
OLD = ["run1", "run2", "run3", "avg", "summary.json", "vit/run1", "vit/run2", "comparison.txt", "comparison.svg"]
FOREIGN = ["notes.txt", "run9.txt", "vit/notes.txt", "other/run1"]


def to_be_placed(folder: Path) -> Unfinished:
    """Old parts, foreign ones beside them, and a room with new ones, some of them where there was nothing."""
    for name in OLD:
        make_part(folder / name, "old")
    for name in FOREIGN:
        make_part(folder / name, "mine")
    return begun(folder, *NEW)


def place(room: Unfinished) -> None:
    room.place([room.path / name for name in NEW], [room.folder / name for name in OLD])


def placed() -> dict[str, str | None]:
    expected: dict[str, str | None] = {"vit": None, "other": None}
    for names, word in ((NEW, "new"), (FOREIGN, "mine")):
        for name in names:
            expected |= {name: word} if Path(name).suffix else {name: None, f"{name}/train.csv": word}
    return expected


class PowerCut(Exception):
    """Everything ends."""


def cut_before(monkeypatch: pytest.MonkeyPatch, which: int) -> list[Path]:
    """From the rename of this number on all of them fail; returns those that were done."""
    done: list[Path] = []
    rename = Path.rename

    def counted(path: Path, target: Path) -> Path:
        if len(done) >= which:
            raise PowerCut
        done.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", counted)
    return done


def test_placing_is_many_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = to_be_placed(tmp_path)
    done = cut_before(monkeypatch, 1000)
    place(room)
    assert len(done) == RENAMES
    assert contents(tmp_path) == placed()


RENAMES = len(OLD) + len(NEW) + 1


@pytest.mark.parametrize("which", range(RENAMES))
def test_placing_that_is_cut_short_is_completed_to_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    room = to_be_placed(tmp_path)
    with monkeypatch.context() as patch:
        cut_before(patch, which)
        with pytest.raises(PowerCut):
            place(room)
    everything = contents(tmp_path).values()
    assert [*everything].count("new") == len(NEW)
    assert [*everything].count("old") == len(OLD)  # nothing is removed before all is in its place
    for _ in range(2):
        Unfinished(tmp_path).complete()
        assert contents(tmp_path) == placed()


@pytest.mark.parametrize("which", range(RENAMES))
def test_placing_may_be_cut_short_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    room = to_be_placed(tmp_path)
    for _ in range(3):
        with monkeypatch.context() as patch:
            cut_before(patch, which // 3)
            with pytest.raises(PowerCut):
                (room.complete if (room.path / "placing.json").exists() else lambda: place(room))()
    room.complete()
    assert contents(tmp_path) == placed()


@pytest.mark.parametrize("removed", range(4))
def test_what_was_replaced_is_removed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    room = to_be_placed(tmp_path)
    unlink, done = os.unlink, list[object]()

    def counted(*given: Any, **named: Any) -> None:
        if given[0] == "train.csv":
            if len(done) >= removed:
                raise PowerCut
            done.append(given)
        unlink(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", counted)
        with pytest.raises(PowerCut):
            place(room)
    assert contents(tmp_path) != placed()
    assert not room.path.exists()  # half of it would be taken for unfinished runs
    Unfinished(tmp_path).complete()
    assert contents(tmp_path) == placed()


# ---- lists of anyone's


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("which", ["new", "old"])
@pytest.mark.parametrize(
    "way", ["../precious", "run1/../../precious", "vit/../../precious", ".unfinished/../../precious"]
)
def test_a_hostile_list_moves_nothing_outside(tmp_path: Path, way: str, which: str, absolute: bool) -> None:
    folder, precious = tmp_path / "runs", tmp_path / "precious"
    folder.mkdir()
    make_part(precious, "kept")
    make_part(folder / "run1", "old")
    room = begun(folder, "run2")
    lists = {"new": ["run2"], "old": ["run1"]}
    lists[which].append(str(precious) if absolute else way)
    (room.path / "placing.json").write_text(json.dumps(lists))
    room.complete()
    assert contents(tmp_path) == {
        **{"precious": None, "precious/train.csv": "kept"},
        **{"runs": None, "runs/run2": None, "runs/run2/train.csv": "new"},
    }


@pytest.mark.parametrize("target", ["../stolen", "{top}/stolen"])
def test_a_hostile_list_takes_nothing_out(tmp_path: Path, target: str) -> None:
    room = begun(tmp_path / "runs", "run1")
    name = target.format(top=tmp_path)
    make_part(tmp_path / "runs" / "stolen", "part")  # where ../stolen leads to from within the room
    (room.path / "placing.json").write_text(json.dumps({"new": [name], "old": []}))
    room.complete()
    assert not (tmp_path / "stolen").exists()
    assert (tmp_path / "runs" / "stolen" / "train.csv").read_text() == "part"


@pytest.mark.parametrize("name", ["", ".", "./", ".unfinished", "a\0b", "\ud800"])
@pytest.mark.parametrize("which", ["new", "old"])
def test_a_senseless_name_is_left_out(tmp_path: Path, which: str, name: str) -> None:
    make_part(tmp_path / "run1", "old")
    room = begun(tmp_path, "run1")
    lists = {"new": ["run1"], "old": ["run1"]}
    lists[which].insert(0, name)
    (room.path / "placing.json").write_text(json.dumps(lists))
    room.complete()
    assert contents(tmp_path) == {"run1": None, "run1/train.csv": "new"}


@pytest.mark.parametrize("written", ["{}", '{"new": 3, "old": null}', '{"new": {"run1": 1}}', '{"old": "run1"}'])
def test_a_list_that_is_none_moves_nothing(tmp_path: Path, written: str) -> None:
    make_part(tmp_path / "run1", "old")
    room = begun(tmp_path)
    (room.path / "placing.json").write_text(written)
    room.complete()
    assert contents(tmp_path) == {"run1": None, "run1/train.csv": "old"}


@pytest.mark.parametrize("written", [b"", b"{", b"\xff", b"[]", b"[" * 100_000])
def test_half_a_list_is_no_list(tmp_path: Path, written: bytes) -> None:
    make_part(tmp_path / "run1", "old")
    room = begun(tmp_path, "run1")
    (room.path / "placing.json").write_bytes(written)
    room.complete()
    assert (tmp_path / "run1" / "train.csv").read_text() == "old"
    assert room.begin(PLAN, overwrite=False)
