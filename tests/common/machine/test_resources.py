"""The memory that a job may use: what the kernel says, laid out as files, and real limits in real processes."""

from __future__ import annotations

import contextlib
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from common.errors import InputError, OutOfMemory
from common.machine import resources
from common.machine.resources import address_space_left, available_memory, free_memory, left_in_groups

ROOT = Path(resources.__file__).parents[2]
MB = 10**6
HUGE = 9223372036854771712  # what version 1 says where there is no limit


class Machine:
    """Files as the kernel shows them: `/proc/self` and mounted control groups, all below one folder."""

    def __init__(self, root: Path) -> None:
        self.proc, self.root = root / "proc", root / "sys fs"
        (self.proc / "self").mkdir(parents=True)

    def tells(self, groups: str, *mounts: str) -> None:
        """What is in `cgroup`, and lines of `mountinfo` in which FOLDER stands for this machine's folder."""
        (self.proc / "self" / "cgroup").write_text(groups)
        folder = str(self.root).replace(" ", "\\040")
        lines = ["22 27 0:21 / /proc rw,relatime - proc proc rw", "27 1 254:0 / / rw - ext4 /dev/vda rw", *mounts]
        (self.proc / "self" / "mountinfo").write_text("\n".join(lines).replace("FOLDER", folder) + "\n")

    def group(self, path: str, **files: object) -> None:
        """A group, its files by name with `_` for the dot behind `memory`."""
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in files.items():
            (folder / name.replace("memory_", "memory.", 1)).write_text(f"{contents}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V2 = "35 31 0:32 / FOLDER rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / FOLDER rw,relatime - cgroup cgroup rw,memory"


def test_version_2_leaves_the_limit_less_what_is_used(machine: Machine) -> None:
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max=1000 * MB, memory_current=400 * MB)
    assert left_in_groups(machine.proc) == 600 * MB


def test_file_pages_that_can_be_dropped_are_not_used(machine: Machine) -> None:
    machine.tells("0::/job\n", V2)
    stat = f"anon {90 * MB}\nfile {310 * MB}\ninactive_file {200 * MB}\nactive_file {100 * MB}"
    machine.group("job", memory_max=1000 * MB, memory_current=400 * MB, memory_stat=stat)
    assert left_in_groups(machine.proc) == 900 * MB


@pytest.mark.parametrize(("outer", "left"), [(800, 100), (5000, 600)])
def test_the_tightest_of_nested_groups_counts(machine: Machine, outer: int, left: int) -> None:
    machine.tells("0::/slurm/job 7/step\n", V2)
    machine.group("slurm", memory_max="max", memory_current=9000 * MB)
    machine.group("slurm/job 7", memory_max=outer * MB, memory_current=700 * MB)
    machine.group("slurm/job 7/step", memory_max=1000 * MB, memory_current=400 * MB)
    assert left_in_groups(machine.proc) == left * MB


def test_what_slows_a_group_down_is_a_limit_too(machine: Machine) -> None:
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max="max", memory_high=500 * MB, memory_current=400 * MB)
    assert left_in_groups(machine.proc) == 100 * MB


def test_version_1_is_found_by_its_mount(machine: Machine) -> None:
    machine.tells("9:name=systemd:/x\n4:hugetlb,memory:/docker/ab:c\n1:cpu:/y\n0::/\n", V1)
    machine.group("docker", memory_limit_in_bytes=HUGE, memory_usage_in_bytes=9000 * MB)
    stat = f"inactive_file 1\ntotal_inactive_file {50 * MB}\ntotal_active_file {30 * MB}"
    machine.group("docker/ab:c", memory_limit_in_bytes=1000 * MB, memory_usage_in_bytes=400 * MB, memory_stat=stat)
    assert left_in_groups(machine.proc) == 680 * MB


def test_a_container_sees_its_own_group_alone(machine: Machine) -> None:
    """Docker with version 1: the path is that on the host, and its group is all that is mounted."""
    mount = "35 31 0:32 /docker/abc FOLDER ro,nosuid - cgroup cgroup rw,memory"
    machine.tells("4:memory:/docker/abc/inner\n", mount)
    machine.group("", memory_limit_in_bytes=300 * MB, memory_usage_in_bytes=100 * MB)
    machine.group("inner", memory_limit_in_bytes=HUGE, memory_usage_in_bytes=50 * MB)
    assert left_in_groups(machine.proc) == 200 * MB


@pytest.mark.parametrize("own", ["/", "/../..", "/../../elsewhere", "/another"])
def test_within_a_namespace_the_mounted_group_counts(machine: Machine, own: str) -> None:
    machine.tells(f"0::{own}\n", V2)
    machine.group("", memory_max=300 * MB, memory_current=100 * MB)
    assert left_in_groups(machine.proc) == 200 * MB


def test_a_limit_out_of_sight_counts_where_version_1_tells_of_it(machine: Machine) -> None:
    machine.tells("4:memory:/\n", V1)
    stat = f"hierarchical_memory_limit {250 * MB}\ntotal_inactive_file 0"
    machine.group("", memory_limit_in_bytes=HUGE, memory_usage_in_bytes=100 * MB, memory_stat=stat)
    assert left_in_groups(machine.proc) == 150 * MB


def test_both_versions_side_by_side(machine: Machine) -> None:
    second = V2.replace("FOLDER", "FOLDER/unified")
    machine.tells("4:memory:/a\n0::/b\n", V1.replace("FOLDER", "FOLDER/memory"), second)
    machine.group("memory/a", memory_limit_in_bytes=700 * MB, memory_usage_in_bytes=100 * MB)
    machine.group("unified/b", memory_max=600 * MB, memory_current=100 * MB)
    assert left_in_groups(machine.proc) == 500 * MB


@pytest.mark.parametrize("limit", ["max", str(HUGE), str(2**64 - 1)])
def test_no_limit_is_infinite(machine: Machine, limit: str) -> None:
    machine.tells("4:memory:/a\n0::/a\n", V1, V2)
    machine.group("a", memory_limit_in_bytes=limit, memory_usage_in_bytes=5, memory_max=limit, memory_current=5)
    assert left_in_groups(machine.proc) == math.inf


def test_a_limit_holds_where_nothing_says_what_is_used(machine: Machine) -> None:
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max=1000 * MB)
    assert left_in_groups(machine.proc) == 1000 * MB


def test_more_than_all_is_used(machine: Machine) -> None:
    """As where a limit was lowered: then nothing is left, and no less than nothing."""
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max=100 * MB, memory_current=400 * MB)
    assert available_memory(machine.proc) == 0


ODD = [b"", b"\n", b"\xff\xfe\x00", b"-5\n", b"1e9\n", b"many\n", b"9" * 30, b"1\n2\n", b"nan", "٣".encode(), None]
NAMES = ("memory.max", "memory.high", "memory.current", "memory.stat")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [*NAMES, "cgroup", "mountinfo", "status"])
def test_odd_files_are_no_limit_and_no_error(machine: Machine, name: str, odd: bytes | None) -> None:
    """None stands for a folder in the place of the file."""
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max=10**14, memory_high="max", memory_current=5, memory_stat="file 1")
    path = (machine.root / "job" if name.startswith("memory") else machine.proc / "self") / name
    path.unlink(missing_ok=True)
    if odd is None:
        path.mkdir()
    else:
        path.write_bytes(odd)
    assert left_in_groups(machine.proc) > 10**14 - 10
    assert address_space_left(machine.proc) > 0
    assert available_memory(machine.proc) == pytest.approx(available_memory(machine.root / "none"), rel=0.2)


@pytest.mark.parametrize("line", ["", "::", "0::", ":", "0", "4:memory", " - ", "a b c d e - cgroup2", "- cgroup2 x y"])
def test_odd_lines_are_passed_over(machine: Machine, line: str) -> None:
    machine.tells(f"{line}\n0::/job\n", line, V2, line)
    machine.group("job", memory_max=1000 * MB, memory_current=400 * MB)
    assert left_in_groups(machine.proc) == 600 * MB


# ---- the smallest of all


def test_the_smallest_counts(machine: Machine) -> None:
    machine.tells("0::/job\n", V2)
    machine.group("job", memory_max=30 * MB, memory_current=10 * MB)
    assert available_memory(machine.proc) == 20 * MB
    assert available_memory(machine.root / "no proc") == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_free_memory_is_less_than_the_machine_has() -> None:
    assert 0 < free_memory() < psutil.virtual_memory().total


def test_a_system_that_does_not_say_what_is_free_has_no_such_limit() -> None:
    program = (
        "import sys; sys.modules['psutil'] = None\n"
        "from common.machine.resources import free_memory\nprint(free_memory())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "inf\n"


def test_help_loads_nothing_that_is_slow() -> None:
    program = (
        "import sys, extract, train\nfor program in (extract, train): program.build_parser().format_help()\n"
        "print([name for name in ('torch', 'psutil', 'filelock', 'subprocess') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


ALLOCATES = """
import resource
from common.machine.resources import available_memory
import psutil
limit = getattr(resource, LIMIT)
resource.setrlimit(limit, (3 * 2**28, resource.RLIM_INFINITY))
left = int(available_memory())
for more in (-(2**24), 2**24):
    try:
        bytearray(left + more)
        print("had")
    except MemoryError:
        print("refused")
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_what_is_left_of_a_real_limit_can_be_had_and_no_more(limit: str) -> None:
    """The oracle is the system: 16 MB less than what is said to be left are given, 16 MB more are not."""
    if free_memory() < 2**30:
        pytest.skip("this machine has less than 1 GiB of free memory")
    command = [sys.executable, "-c", f"LIMIT = {limit!r}\n{ALLOCATES}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "had\nrefused\n"


# ---- a real control group


@pytest.fixture
def make_group() -> Iterator[Callable[[Path | None, int], Path]]:
    """`make_group(parent, bytes)` makes a control group with a limit within the one of this process, or skips."""
    made: list[Path] = []

    def make(parent: Path | None, limit: int) -> Path:
        folder = (parent or _own_group()) / f"test-{time.time_ns()}"
        try:
            folder.mkdir()
            made.append(folder)
            names = ("memory.max", "memory.limit_in_bytes")
            name = next(name for name in names if (folder / name).exists())
            (folder / name).write_text(str(limit))
        except (OSError, StopIteration) as error:
            pytest.skip(f"this machine lets a test make no control group ({error!r})")
        return folder

    yield make
    for folder in reversed(made):
        for _ in range(50):  # a process that has ended leaves its group a moment later
            with contextlib.suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def _own_group() -> Path:
    """The folder of the memory group of this process, at the usual places."""
    lines = Path("/proc/self/cgroup").read_text().splitlines() if Path("/proc/self/cgroup").exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = "/sys/fs/cgroup/memory" if controllers == "memory" else "/sys/fs/cgroup"
        folder = Path(base + path)
        if controllers in ("memory", "") and any((folder / name).exists() for name in ("memory.stat",)):
            return folder
    pytest.skip("no control group for memory is mounted here")


JOINS = """
import os, sys
from pathlib import Path
(Path(sys.argv[1]) / "cgroup.procs").write_text(str(os.getpid()))
from common.machine.resources import available_memory
"""
FILLS = """
print(available_memory())
with open(sys.argv[2], "wb") as file:
    file.write(bytes(150 * 2**20))
    os.fsync(file.fileno())
for _ in range(3):
    with open(sys.argv[2], "rb") as file:
        while file.read(2**20):
            pass
left = available_memory()
print(left)
block = bytearray(int(left) - 2**25)
for place in range(0, len(block), 4096):
    block[place] = 1
print(available_memory())
"""


@pytest.mark.parametrize(("outer", "inner"), [(400, 300), (300, 400)])
def test_a_real_control_group_holds_what_is_said_to_be_left(
    make_group: Callable[[Path | None, int], Path], tmp_path: Path, outer: int, inner: int
) -> None:
    """Of 300 MiB, 150 go to pages of a file that was read; then 32 MiB less than what is left are filled, and a system
    that has no more kills the process."""
    group = make_group(make_group(None, outer * 2**20), inner * 2**20)
    command = [sys.executable, "-c", JOINS + FILLS, str(group), str(tmp_path / "file")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    first, read, full = (float(line) / 2**20 for line in done.stdout.split())
    assert 270 < first <= 300
    assert 270 < read <= 300
    assert full < 40


# ---- is there enough?


def test_memory_that_is_free_is_enough() -> None:
    resources.require_memory(2**30, 2**30, "x takes", "do")
    with pytest.raises(OutOfMemory) as caught:
        resources.require_memory(3 * 2**29, 2**30, "photos: x takes", "take less")
    assert str(caught.value) == "photos: x takes 1.5 GiB of memory, 1 GiB may be used; take less"


def test_disk_is_asked_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> shutil._ntuple_diskusage:
        asked.append(path)
        return shutil._ntuple_diskusage(10**10, 8 * 10**9, 2 * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    resources.require_disk(2e9, tmp_path / "new" / "folder", "they take", "do")
    with pytest.raises(InputError) as caught:
        resources.require_disk(2.5e9, tmp_path, "they take", "make room")
    assert str(caught.value) == f"{tmp_path}: they take 2.5 GB, 2 GB are free; make room"
    assert asked == [tmp_path, tmp_path]
