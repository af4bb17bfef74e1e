"""The memory and the disk that this process may use, and whether they hold what it is about to make.

Containers (Docker, Kubernetes) and schedulers (SLURM) give a job less than the machine has: by control groups, whose
limits hold for all processes of a group and of the groups within it, or by limits of the process itself.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from common.errors import InputError, OutOfMemory, printable
from common.machine.system import limit_of

PROC = Path("/proc")
GIB = 2**30
UNLIMITED = 2**60  # bytes; version 1 of control groups writes a number beyond it for "no limit"


def available_memory(proc: Path = PROC) -> float:
    """Return the bytes of main memory that this process can still have; infinite where nothing says.

    This is the smallest of the machine's free memory, of what the limits of control groups leave (versions 1 and 2, at
    every level), and of what the limits of the process leave (`ulimit -v`). `proc` is the folder that the kernel tells
    of this process in; systems other than Linux have none.
    """
    return max(0.0, min(free_memory(), left_in_groups(proc), address_space_left(proc)))


def require_memory(needed: float, free: float, what: str, advice: str) -> None:
    """OutOfMemory where `what` takes more bytes of memory than may be used: better now than in some hours, and where a
    control group is full the system ends a program without a word. `advice` says what to do."""
    if needed > free:
        raise OutOfMemory(
            f"{what} {_rounded(needed / GIB)} GiB of memory, {_rounded(max(0.0, free) / GIB)} GiB may be used; {advice}"
        )


def require_disk(needed: float, folder: Path, what: str, advice: str) -> None:
    """InputError where `what` takes more bytes than are free on the disk of a folder, which may be a new one."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    if needed > (free := shutil.disk_usage(existing).free):
        place = printable(str(folder))
        raise InputError(f"{place}: {what} {_rounded(needed / 1e9)} GB, {_rounded(free / 1e9)} GB are free; {advice}")


def _rounded(size: float) -> str:
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def free_memory() -> float:
    """Return the bytes that are free on this machine, on Linux, macOS and Windows; infinite on other systems."""
    try:
        import psutil

        return float(psutil.virtual_memory().available)
    except Exception:  # whatever an odd system makes of it: it is no reason to end
        return math.inf


def address_space_left(proc: Path = PROC, peak: bool = False) -> float:
    """Return the bytes of address space and of data that this process may still ask for, by its own limits; with `peak`
    those that were left when it had most."""
    used = _fields(proc / "self" / "status", ":")
    limits = {"RLIMIT_AS": "VmPeak" if peak else "VmSize", "RLIMIT_DATA": "VmData"}
    return min(limit_of(limit) - 1024 * used.get(field, 0) for limit, field in limits.items())


# ---- control groups


@dataclass(frozen=True)
class Version:
    """The files of a version of control groups: limits, what is used, and in `memory.stat` the names of the parts of
    it that the system takes back when it needs them (file pages: read once, read again)."""

    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]


VERSIONS = {
    "cgroup": Version(
        ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
    ),
    "cgroup2": Version(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file")),
}


def left_in_groups(proc: Path = PROC) -> float:
    """Return the bytes that the control groups of this process leave it, the tightest level counting."""
    own = dict(_own_groups(proc))
    levels = (
        _left(folder, VERSIONS[mount.kind])
        for mount in _mounts(proc)
        for folder in _levels(mount, own.get(mount.kind, PurePosixPath("/")))
    )
    return min(levels, default=math.inf)


def _own_groups(proc: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """The path of the group of this process in each version's hierarchy, from lines `4:memory:/a/b` and `0::/a/b`."""
    for line in _lines(proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            yield "cgroup2", PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy is mounted, and the group in it that is seen there."""

    kind: str
    root: PurePosixPath
    folder: Path


def _mounts(proc: Path) -> Iterator[Mount]:
    """The mounted hierarchies that bound memory, from lines `31 23 0:28 ROOT FOLDER OPTIONS ... - KIND SOURCE OPTIONS`
    in which spaces in paths are written `\\040`."""
    for line in _lines(proc / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        where, kind = before.split(" "), after.split(" ")
        bounds_memory = kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[-1].split(","))
        if len(where) > 4 and bounds_memory:
            root, folder = map(_unescaped, where[3:5])
            yield Mount(kind[0], PurePosixPath(root), Path(folder))


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _levels(mount: Mount, own: PurePosixPath) -> Iterator[Path]:
    """The folders of the process' own group and of all groups that it is in, as far as they can be seen.

    Within a namespace of control groups paths are relative to a group that is mounted, or that lies outside
    (`/../..`): then the mounted group is the innermost one that is known.
    """
    below = own.relative_to(mount.root) if own.is_relative_to(mount.root) else PurePosixPath()
    if ".." in below.parts:
        below = PurePosixPath()
    for parts in range(len(below.parts), -1, -1):
        yield mount.folder.joinpath(*below.parts[:parts])


def _left(folder: Path, version: Version) -> float:
    """What the limits of one group leave: file pages that can be dropped do not count as used."""
    stat = _fields(folder / "memory.stat", " ")
    limits = [_number(folder / name) for name in version.limits]
    limits.append(stat.get("hierarchical_memory_limit", math.inf))  # of version 1: what groups out of sight allow too
    used, limit = _number(folder / version.used), min(limits)
    if math.inf in (used, limit) or limit >= UNLIMITED:
        return math.inf if limit >= UNLIMITED else limit
    return limit - max(0.0, used - sum(stat.get(name, 0) for name in version.reclaimable))


def _number(path: Path) -> float:
    """The number that is all of a file; infinite for anything else, such as `max` or no file."""
    lines = _lines(path)
    return float(lines[0]) if len(lines) == 1 and re.fullmatch(r"[0-9]{1,20}", lines[0]) else math.inf


def _fields(path: Path, separator: str) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line."""
    pairs = (line.split(separator, 1) for line in _lines(path) if separator in line)
    numbers = ((name, value.split()) for name, value in pairs)
    return {name: int(words[0]) for name, words in numbers if words and re.fullmatch(r"[0-9]{1,20}", words[0])}


def _lines(path: Path) -> list[str]:
    """The lines of a text file; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return []
