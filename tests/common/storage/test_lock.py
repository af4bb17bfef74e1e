"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import InputError
from common.storage import lock
from common.storage.lock import held

ROOT = Path(lock.__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from common.storage.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as told, held(folder):
        pass
    return str(told.value)


@contextmanager
def locked(path: Path, contents: bytes) -> Iterator[None]:
    """A file under a lock of somebody else's, with whatever they wrote into it."""
    path.write_bytes(contents)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "run"
    with held(folder), pytest.raises(InputError, match=r"out/run: another process is writing here"), held(folder):
        pass
    with held(folder):
        assert folder.is_dir()
    assert not folder.exists()


def test_a_folder_that_is_refused_stays_held(tmp_path: Path) -> None:
    with held(tmp_path):
        for _ in range(2):
            assert "another process is writing here" in refused(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == f"{tmp_path / 'file'}: is a file; -s takes a folder"
    below = tmp_path / "file" / "x"
    assert refused(below) == f"{below}: no folder can be made here (Not a directory)"


def test_what_blocks_elsewhere_is_not_told_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), held(tmp_path):
        raise BlockingIOError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_says_who_holds_it(tmp_path: Path) -> None:
    with held(tmp_path):
        found = json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))
    assert found == {"host": socket.gethostname(), "pid": os.getpid()}


def test_who_holds_the_folder_is_told(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        assert refused(tmp_path) == (
            f"{tmp_path}: another process is writing here (host {socket.gethostname()}, process {process.pid}); wait "
            "for it, or give another folder"
        )


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == process.pid
        with held(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "precious").write_text("kept")
    (folder / ".lock").symlink_to(tmp_path / target)
    with pytest.raises((OSError, InputError)), held(folder):
        pytest.fail("the link was followed")
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()


GARBAGE = [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}", b'{"host": "x"}', b'{"host": "x", "pid": "me"}', b"[" * 1000]


@pytest.mark.parametrize("contents", [*GARBAGE, b'{"host": "x", "pid": 1' + b" " * 10_000])
def test_a_holder_that_cannot_be_read_has_not_said_who_it_is(tmp_path: Path, contents: bytes) -> None:
    with locked(tmp_path / ".lock", contents):
        assert refused(tmp_path) == (
            f"{tmp_path}: another process is writing here (which has not said who it is); wait for it, or give another "
            "folder"
        )
    assert (tmp_path / ".lock").read_bytes() == contents


def test_a_strangers_lock_shows_no_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2J\nb"
    folder.mkdir()
    with locked(folder / ".lock", json.dumps({"host": "\x1b[2J\n" + "h" * 500, "pid": 7}).encode()):
        told = refused(folder)
    assert told.isprintable()
    assert r"\x1b[2J\n" + "h" * 50 in told
    assert "process 7" in told
    assert "h" * 100 not in told


@pytest.mark.parametrize("contents", [b"x" * 5000, b"{"])
def test_garbage_that_nobody_holds_is_written_over(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / ".lock").write_bytes(contents)
    with held(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_that_its_holder_has_just_removed_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    flock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not calls:
            (tmp_path / ".lock").unlink()  # between opening and locking, as a holder does at its end
        calls.append(how)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with held(tmp_path):
        assert "another process" in refused(tmp_path)
        assert (tmp_path / ".lock").exists()
    assert len(calls) == 3


@pytest.mark.parametrize("code", lock.NO_LOCKS)
def test_a_file_system_without_locks_is_told_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def fails(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fails)
    with held(tmp_path):
        pass
    told = f"note: {tmp_path}: this file system has no locks: see to it yourself that nothing else writes here\n"
    assert capsys.readouterr().err == told


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with held(tmp_path):
        refused(tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before
