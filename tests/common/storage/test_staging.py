"""Work that grows, and how it takes the place of other work: wherever that is cut short, the folder is the same."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.storage.staging import Staging

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


def begun(folder: Path, *new: str) -> Staging:
    """A staging with new parts in it."""
    staging = Staging(folder)
    assert not staging.begin(PLAN, overwrite=True)
    for name in new:
        make_part(staging.path / name, "new")
    return staging


def same(*names: str) -> dict[str, str]:
    """New parts that keep their names."""
    return dict(zip(names, names, strict=True))


def refused(staging: Staging, plan: dict[str, Any]) -> str:
    with pytest.raises(InputError) as told:
        staging.begin(plan, overwrite=False)
    return str(told.value)


# ---- to begin


def test_a_new_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    staging = Staging(folder)
    assert not staging.begin(PLAN, overwrite=False)
    assert list(folder.iterdir()) == [staging.path]
    assert staging.inside(folder) == staging.path
    assert staging.inside(folder / "vit") == staging.path / "vit"


def test_the_same_plan_goes_on_with_what_is_there(tmp_path: Path) -> None:
    before = contents(begun(tmp_path, "run1").path)
    for overwrite in (False, True):
        assert Staging(tmp_path).begin(PLAN, overwrite)
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
    staging = begun(tmp_path, "run1")
    before = contents(tmp_path)
    told = refused(staging, {**PLAN, **change})
    assert told.startswith(f"{staging.path}: unfinished work of other settings is here ({differing}")
    assert told.endswith("; give the settings that it was begun with, or --overwrite to begin anew")
    assert contents(tmp_path) == before
    assert not staging.begin({**PLAN, **change}, overwrite=True)
    assert list(contents(staging.path)) == ["plan.json"]
    assert Staging(tmp_path).begin({**PLAN, **change}, overwrite=False)


def test_what_is_in_the_folder_stays_until_the_new_is_placed(tmp_path: Path) -> None:
    make_part(tmp_path / "run1", "old")
    for seed in range(2):
        staging = Staging(tmp_path)
        assert not staging.begin({**PLAN, "seed": seed}, overwrite=True)
        make_part(staging.path / "run1", "half")
        assert (tmp_path / "run1" / "train.csv").read_text() == "old"


def test_a_staging_that_got_no_plan_is_begun_anew(tmp_path: Path) -> None:
    """It was cut short before anything was in it."""
    staging = Staging(tmp_path)
    staging.path.mkdir()
    (staging.path / "plan.partial.json").write_text("{")
    assert not staging.begin(PLAN, overwrite=False)
    assert list(contents(staging.path)) == ["plan.json"]


@pytest.mark.parametrize("written", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_no_plan_tells_of_is_left_alone(tmp_path: Path, written: bytes | None) -> None:
    staging = begun(tmp_path, "run1")
    (staging.path / "plan.json").unlink()
    if written is not None:
        (staging.path / "plan.json").write_bytes(written)
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="move what you need out of it and remove it"):
            staging.begin(PLAN, overwrite)
    assert contents(tmp_path) == before


def test_a_link_is_no_staging(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ".unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is no folder of its own"):
        Staging(tmp_path / "runs").begin(PLAN, overwrite=True)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "x").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model").symlink_to(tmp_path / "elsewhere")
    staging = Staging(tmp_path / "runs")
    with pytest.raises(InputError, match="is a link to another place"):
        staging.inside(tmp_path / "runs" / "model")
    staging.path.mkdir()
    (staging.path / "placing.json").write_text('{"new": [], "old": ["model/x"]}')
    staging.complete()
    assert (tmp_path / "elsewhere" / "x").exists()


def test_work_without_a_unit_that_is_done_is_not_left_behind(tmp_path: Path) -> None:
    staging = begun(tmp_path)
    (staging.path / "run1").mkdir()
    staging.close()
    assert not staging.path.exists()
    staging = begun(tmp_path, "model/run2")
    staging.add("model/run2", {})
    staging.close()
    assert staging.path.exists()


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
        Staging(tmp_path).begin(PLAN, overwrite=True)
    assert str(told.value) == f"{tmp_path}: no folder can be made here (Permission denied)"


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    assert refused(Staging(below), PLAN) == f"{below}: no folder can be made here (Not a directory)"


# ---- to place


def test_placing_replaces_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run1", "run20", "avg", "summary.json", "curves.png"):
        make_part(tmp_path / name, "old")
    for name in STRANGERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    staging = begun(tmp_path, "run1", "summary.json")
    staging.place(same("run1", "summary.json"), ["run1", "run20", "avg", "summary.json", "curves.png"])
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "summary.json", *STRANGERS}
    assert (tmp_path / "run1" / "train.csv").read_text() == (tmp_path / "summary.json").read_text() == "new"
    assert all((tmp_path / name / "file").read_text() == name for name in STRANGERS)


def test_placing_in_the_place_of_a_link_leaves_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "runs"
    make_part(elsewhere, "kept")
    folder.mkdir()
    for name in ("run1", "run2"):
        (folder / name).symlink_to(elsewhere)
    staging = begun(folder, "run1")
    staging.place(same("run1"), ["run1", "run2"])
    assert contents(folder) == {"run1": None, "run1/train.csv": "new"}
    assert not (folder / "run1").is_symlink()
    assert (elsewhere / "train.csv").read_text() == "kept"


def test_where_no_placing_was_begun_nothing_is_placed(tmp_path: Path) -> None:
    Staging(tmp_path).complete()
    assert list(tmp_path.iterdir()) == []
    make_part(tmp_path / "run1", "old")
    staging = begun(tmp_path, "run1")
    before = contents(tmp_path)
    staging.complete()
    assert contents(tmp_path) == before


NEW = ["run1", "run2", "avg", "summary.json", "vit/run1", "vit/summary.json", "comparison.txt"]
OLD = ["run1", "run2", "run3", "avg", "summary.json", "vit/run1", "vit/run2", "comparison.txt", "comparison.svg"]
FOREIGN = ["notes.txt", "run9.txt", "vit/notes.txt", "other/run1"]


def to_be_placed(folder: Path) -> Staging:
    """Old parts, foreign ones beside them, and a staging with new ones, some of them where there was nothing."""
    for name in OLD:
        make_part(folder / name, "old")
    for name in FOREIGN:
        make_part(folder / name, "mine")
    return begun(folder, *NEW)


def place(staging: Staging) -> None:
    staging.place(same(*NEW), OLD)


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
    staging = to_be_placed(tmp_path)
    done = cut_before(monkeypatch, 1000)
    place(staging)
    assert len(done) == RENAMES
    assert contents(tmp_path) == placed()


RENAMES = len(OLD) + len(NEW) + 1


@pytest.mark.parametrize("which", range(RENAMES))
def test_placing_that_is_cut_short_is_completed_to_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    staging = to_be_placed(tmp_path)
    with monkeypatch.context() as patch:
        cut_before(patch, which)
        with pytest.raises(PowerCut):
            place(staging)
    everything = contents(tmp_path).values()
    assert [*everything].count("new") == len(NEW)
    assert [*everything].count("old") == len(OLD)  # nothing is removed before all is in its place
    for _ in range(2):
        Staging(tmp_path).complete()
        assert contents(tmp_path) == placed()


@pytest.mark.parametrize("which", range(RENAMES))
def test_placing_may_be_cut_short_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    staging = to_be_placed(tmp_path)
    for _ in range(3):
        with monkeypatch.context() as patch:
            cut_before(patch, which // 3)
            with pytest.raises(PowerCut):
                (staging.complete if (staging.path / "placing.json").exists() else lambda: place(staging))()
    staging.complete()
    assert contents(tmp_path) == placed()


@pytest.mark.parametrize("removed", range(4))
def test_what_was_replaced_is_removed_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    staging = to_be_placed(tmp_path)
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
            place(staging)
    assert contents(tmp_path) != placed()
    assert not staging.path.exists()  # half of it would be taken for unfinished runs
    Staging(tmp_path).complete()
    assert contents(tmp_path) == placed()


# ---- lists of anyone's


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("which", ["new from", "new to", "old"])
@pytest.mark.parametrize(
    "way", ["../precious", "run1/../../precious", "vit/../../precious", ".unfinished/../../precious"]
)
def test_a_hostile_list_moves_nothing_outside(tmp_path: Path, way: str, which: str, absolute: bool) -> None:
    folder, precious = tmp_path / "runs", tmp_path / "precious"
    folder.mkdir()
    make_part(precious, "kept")
    make_part(folder / "run1", "old")
    staging = begun(folder, "run2")
    name = str(precious) if absolute else way
    lists: dict[str, list[Any]] = {"new": [["run2", "run2"]], "old": ["run1"]}
    lists[which.split()[0]].append({"new from": [name, "x"], "new to": ["run2", name], "old": name}[which])
    (staging.path / "placing.json").write_text(json.dumps(lists))
    staging.complete()
    assert contents(tmp_path) == {
        **{"precious": None, "precious/train.csv": "kept"},
        **{"runs": None, "runs/run2": None, "runs/run2/train.csv": "new"},
    }


@pytest.mark.parametrize("target", ["../stolen", "{top}/stolen"])
def test_a_hostile_list_takes_nothing_out(tmp_path: Path, target: str) -> None:
    staging = begun(tmp_path / "runs", "run1")
    name = target.format(top=tmp_path)
    make_part(tmp_path / "runs" / "stolen", "part")  # where ../stolen leads to from within the staging
    (staging.path / "placing.json").write_text(json.dumps({"new": [[name, name], [name, "x"]], "old": []}))
    staging.complete()
    assert not (tmp_path / "stolen").exists()
    assert (tmp_path / "runs" / "stolen" / "train.csv").read_text() == "part"


@pytest.mark.parametrize("name", ["", ".", "./", ".unfinished", ".replaced-x", "a\0b", "\ud800"])
@pytest.mark.parametrize("which", ["new", "old"])
def test_a_senseless_name_is_left_out(tmp_path: Path, which: str, name: str) -> None:
    make_part(tmp_path / "run1", "old")
    staging = begun(tmp_path, "run1")
    lists: dict[str, list[Any]] = {"new": [["run1", "run1"]], "old": ["run1"]}
    lists[which].insert(0, name if which == "old" else [name, name])
    (staging.path / "placing.json").write_text(json.dumps(lists))
    staging.complete()
    assert contents(tmp_path) == {"run1": None, "run1/train.csv": "new"}


@pytest.mark.parametrize("written", ["{}", '{"new": 3, "old": null}', '{"new": {"run1": 1}}', '{"old": "run1"}'])
def test_a_list_that_is_none_moves_nothing(tmp_path: Path, written: str) -> None:
    make_part(tmp_path / "run1", "old")
    staging = begun(tmp_path)
    (staging.path / "placing.json").write_text(written)
    staging.complete()
    assert contents(tmp_path) == {"run1": None, "run1/train.csv": "old"}


@pytest.mark.parametrize("written", [b"", b"{", b"\xff", b"[]", b"[" * 100_000])
def test_half_a_list_is_no_list(tmp_path: Path, written: bytes) -> None:
    make_part(tmp_path / "run1", "old")
    staging = begun(tmp_path, "run1")
    (staging.path / "placing.json").write_bytes(written)
    staging.complete()
    assert (tmp_path / "run1" / "train.csv").read_text() == "old"
    assert staging.begin(PLAN, overwrite=False)


def test_parts_may_get_other_names(tmp_path: Path) -> None:
    make_part(tmp_path / "features.npy", "old")
    staging = begun(tmp_path, "features.closed.npy", "features.partial.npy")
    staging.place({"features.closed.npy": "features.npy"}, ["features.npy"])
    assert contents(tmp_path) == {"features.npy": "new"}


# ---- units


def test_units_that_are_done_are_read_back(tmp_path: Path) -> None:
    staging = begun(tmp_path)
    staging.add("0-20", {"sums": [1, 2], "skipped": "é"})
    assert Staging(tmp_path).units == staging.units == {"0-20": {"sums": [1, 2], "skipped": "é"}}
    staging.add("20-40", {}, durable=True)
    staging.add("0-20", {"sums": [3]})  # done again
    staging.close()
    again = Staging(tmp_path)
    assert again.begin(PLAN, overwrite=False)
    assert again.units == {"0-20": {"sums": [3]}, "20-40": {}}
    again.remove()
    assert (again.units, list(tmp_path.iterdir())) == ({}, [])


def test_line_that_was_cut_short_is_dropped_and_written_over(tmp_path: Path) -> None:
    staging = begun(tmp_path)
    for unit in ("a", "b", "c"):
        staging.add(unit, {"unit": unit})
    journal = staging.path / "units.jsonl"
    written = journal.read_bytes()
    ends = [0, *(place + 1 for place, byte in enumerate(written) if byte == ord("\n"))]
    for length in range(len(written) + 1):
        journal.write_bytes(written[:length])
        again, whole = Staging(tmp_path), sum(end <= length for end in ends) - 1
        assert list(again.units) == ["a", "b", "c"][:whole]
        for unit in ["a", "b", "c"][whole:]:
            again.add(unit, {"unit": unit})
        again.close()
        if whole < 3:
            assert journal.read_bytes() == written


NO_LINES = [
    b"\0" * 40,
    b"\xff",
    b"{",
    b"5",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"unit": "a"}',
    b'{"unit": 1, "done": 3}',
]


@pytest.mark.parametrize("line", NO_LINES, ids=range(len(NO_LINES)))
def test_line_of_a_stranger_ends_what_is_read(tmp_path: Path, line: bytes) -> None:
    staging = begun(tmp_path)
    staging.add("a", {})
    journal = staging.path / "units.jsonl"
    journal.write_bytes(journal.read_bytes() + line + b"\n" + journal.read_bytes())
    assert list(Staging(tmp_path).units) == ["a"]


@pytest.mark.parametrize("content", [b"mine", b""])
def test_link_in_the_place_of_the_units_is_not_followed(tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_bytes(content)
    staging = begun(tmp_path / "runs")
    (staging.path / "units.jsonl").symlink_to(mine)
    staging = Staging(tmp_path / "runs")
    assert staging.units == {}
    with pytest.raises(OSError, match="symbolic links"):
        staging.add("a", {})
    assert mine.read_bytes() == content


def test_full_disk_in_the_middle_of_a_line_is_an_error(tmp_path: Path) -> None:
    staging = begun(tmp_path)
    staging.add("a", {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((staging.path / "units.jsonl").stat().st_size + 5, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            staging.add("b", {"much": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(Staging(tmp_path).units) == ["a"]
    staging.add("c", {})
    assert list(Staging(tmp_path).units) == ["a", "c"]


# ---- several works of one folder


def test_works_of_one_folder_do_not_know_of_each_other(tmp_path: Path) -> None:
    first, second = (Staging(tmp_path, part) for part in ("features", "pooled"))
    for staging, plan in ((first, PLAN), (second, {"other": 1})):
        assert not staging.begin(plan, overwrite=False)
        make_part(staging.path / f"{staging.path.name}.npy", "new")
        staging.add("a", {})
    second.place(same("pooled.npy"), [])
    assert Staging(tmp_path, "features").begin(PLAN, overwrite=False)
    assert contents(tmp_path)["pooled.npy"] == "new"
    first.place(same("features.npy"), [])
    assert sorted(contents(tmp_path)) == ["features.npy", "pooled.npy"]


def test_what_is_beside_the_plan_does_not_count(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    staging.begin({**PLAN, "unit": 20}, overwrite=False)
    assert Staging(tmp_path).resumes(PLAN, overwrite=False)
    assert (Staging(tmp_path).plan or {})["unit"] == 20


# ---- links in the place of a unit


@pytest.mark.parametrize("unit", ["run1", "model/run1"])
def test_link_in_the_place_of_a_unit_is_refused(tmp_path: Path, unit: str) -> None:
    (tmp_path / "mine").mkdir()
    staging = begun(tmp_path / "runs")
    assert staging.own(unit) == staging.path / unit
    (staging.path / unit.partition("/")[0]).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is behind a link; remove the link"):
        staging.own(unit)
