"""What differs between systems: where a call is missing, the nearest thing holds the promise."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.machine import system

ROOT = Path(system.__file__).parents[2]
FLAGS = ("O_NOFOLLOW", "O_NONBLOCK")
LACKING = f"import os\nfor name in {FLAGS}: delattr(os, name)"


def run(program: str, *words: object) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


OPENS = """
import os, sys
from pathlib import Path
from common.machine.system import open_own
for path in map(Path, sys.argv[1:]):
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
        try:
            os.close(open_own(path, flags))
            print("opened")
        except OSError as error:
            print(type(error).__name__)
"""


@pytest.mark.parametrize("prelude", ["", LACKING], ids=["here", "without the flags"])
def test_only_a_file_of_that_name_itself_is_opened(prelude: str, tmp_path: Path) -> None:
    """A pipe would be waited for, and this test would not end."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    told = run(prelude + OPENS, *(tmp_path / name for name in ("file", "link", "nowhere", "pipe", "folder"))).split()
    assert told[:3] == ["opened"] * 3
    assert "opened" not in told[3:]
    assert len(told) == 15
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("prelude", ["", LACKING], ids=["here", "without the flags"])
def test_a_file_that_is_not_there_is_made_or_missing(prelude: str, tmp_path: Path) -> None:
    assert run(prelude + OPENS, tmp_path / "new").split() == ["FileNotFoundError", "opened", "opened"]
    assert (tmp_path / "new").read_bytes() == b""


def test_a_name_is_that_of_the_opened_file_until_it_is_gone_or_anothers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as file:
        assert system.has_name(file.fileno(), path)
        path.unlink()
        assert not system.has_name(file.fileno(), path)
        path.write_text("another")
        assert not system.has_name(file.fileno(), path)


@contextmanager
def open_files_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system that removes no open file."""
    unlink = Path.unlink

    def refusing(path: Path, missing_ok: bool = False) -> None:
        with os.scandir("/proc/self/fd") as entries:
            held = {os.path.realpath(entry.path) for entry in list(entries)}
        if str(path.resolve()) in held:
            raise PermissionError(errno.EACCES, "in use", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        yield


@pytest.mark.parametrize("open_stay", [False, True])
def test_a_file_is_closed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_stay: bool) -> None:
    path, before = tmp_path / "lock", set(os.listdir("/proc/self/fd"))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    if open_stay:
        with open_files_stay(monkeypatch):
            system.close_and_remove(descriptor, path)
    else:
        system.close_and_remove(descriptor, path)
    assert not path.exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_another_process_has_open_stays_where_it_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    with path.open() as _, open_files_stay(monkeypatch):
        system.close_and_remove(descriptor, path)
    assert path.exists()


def test_what_a_lock_keeps_from_being_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").write_bytes(b' {"pid": 7}')
    descriptor, read = os.open(tmp_path / "lock", os.O_RDONLY), os.read
    assert system.read_at_start(descriptor, 100) == b' {"pid": 7}'

    def first_byte_is_locked(number: int, most: int) -> bytes:
        if not os.lseek(number, 0, os.SEEK_CUR):
            raise PermissionError(errno.EACCES, "locked")
        return read(number, most)

    monkeypatch.setattr(os, "read", first_byte_is_locked)
    assert system.read_at_start(descriptor, 100) == b'{"pid": 7}'
    os.close(descriptor)


def test_folders_that_cannot_be_opened_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "a folder")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        system.sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        system.sync_folder(tmp_path / "gone")


def test_holes_take_no_room_on_a_disk(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(2**30)
    (tmp_path / "full").write_bytes(bytes(2**20))
    assert system.bytes_on_disk(tmp_path / "holes") < 2**16
    assert 2**20 <= system.bytes_on_disk(tmp_path / "full") < 2**21
    assert system.bytes_on_disk(tmp_path / "gone") == 0


def test_cores_are_those_that_the_process_may_run_on() -> None:
    bound = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    shows = "from common.machine.system import cores\nprint(cores())"
    assert run(bound + shows) == "1\n"
    assert run(f"import os\ndel os.sched_getaffinity\n{shows}") == f"{os.cpu_count()}\n"


def test_limits_are_those_of_the_process() -> None:
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**33, resource.RLIM_INFINITY))\n"
    shows = "from common.machine.system import limit_of\nprint(limit_of('RLIMIT_AS'), limit_of('RLIMIT_FOR_NOBODY'))"
    assert run(limit + shows) == f"{2**33} inf\n"
    assert run(f"import sys\nsys.modules['resource'] = None\n{shows}") == "inf inf\n"
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert system.limit_of("RLIMIT_AS") == math.inf


# ---- memory that the C library keeps


class Library:
    """A C library that notes what it is told."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.told[parameter] = value
        return 1


def test_freed_memory_is_kept_up_to_sizes_no_tensor_here_has(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    system.keep_freed_memory()
    assert library.told == {-1: 2**31 - 1, -3: 2**30}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h


@pytest.mark.parametrize(("most", "told"), [(2**25, {-3: 2**25, -1: 2**31 - 1}), (0, {})])
def test_a_library_that_admits_less_is_given_what_it_admits_or_nothing(
    monkeypatch: pytest.MonkeyPatch, most: int, told: dict[int, int]
) -> None:
    class Older(Library):
        def mallopt(self, parameter: int, value: int) -> int:
            return super().mallopt(parameter, value) if parameter == -1 or value <= most else 0

    library = Older()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    system.keep_freed_memory()
    assert library.told == told


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def load(_: object) -> object:
        if error is AttributeError:
            return object()  # a library without such a function
        raise error

    monkeypatch.setattr(ctypes, "CDLL", load)
    system.keep_freed_memory()
