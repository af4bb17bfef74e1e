"""Both commands where the system has less than this one: calls that are missing, and the rules of Windows for open
files and folders. A process of its own is made so, then runs them; its files are those of an ordinary run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MISSING = """
import sys, psutil  # which needs `resource` here, and nothing of the kind on Windows
for name in ("fcntl", "resource"):
    sys.modules[name] = None
import os, signal
for name in ("O_NONBLOCK", "O_NOFOLLOW", "pread", "sched_getaffinity"):
    delattr(os, name)
del signal.SIGPIPE
"""
WINDOWS = """
import os, shutil
shutil._use_fd_functions = False  # as where os.unlink knows of no folder's descriptor
real = {name: getattr(os, name) for name in ("fsync", "rename", "readlink")}

def is_open(path):
    path = os.path.realpath(path)
    with os.scandir("/proc/self/fd") as entries:
        names = {entry.name for entry in entries}
    for name in names:
        try:
            if real["readlink"](f"/proc/self/fd/{name}") == path:
                return True
        except FileNotFoundError:
            continue
    with open("/proc/self/maps") as maps:
        return any(line.rstrip().endswith(path) for line in maps)

def hook(event, args):
    if event in ("os.rename", "os.remove") and any(is_open(path) for path in args[: 1 + (event == "os.rename")]):
        raise PermissionError(13, "The process cannot access the file because it is being used", str(args[0]))
    if event == "open" and args[1] is None and isinstance(args[0], (str, os.PathLike)) and os.path.isdir(args[0]):
        raise PermissionError(13, "Permission denied", str(args[0]))

def fsync(descriptor):
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    real["fsync"](descriptor)

def rename(source, target, **given):
    if os.path.lexists(target):
        raise FileExistsError(17, "Cannot create a file when that file already exists", str(source))
    real["rename"](source, target, **given)

os.fsync, os.rename = fsync, rename
sys.addaudithook(hook)
"""
COMMANDS = """
import sys
import extract, train
for words, main in zip({words}, (extract.main, train.main) * 2):
    assert main(words) == 0, words
"""


def commands(pairs: Path, folder: Path) -> list[list[str]]:
    """Features of pairs, and two runs of training on them; then all again in their place, from the same features."""
    features = [*("-d", str(pairs), "-s", str(folder / "features"), "-p", "adapt-pca", "4", "-b", "4", "--cpu")]
    features += ["--model", "efficientnet_lite0", "--workers", "2"]
    run = ["-d", str(folder / "features"), "-s", str(folder / "run"), "-e", "2", "-r", "2", "-k", "1", "--cpu"]
    return [features, run, [*features, "--overwrite"], [*run, "--overwrite"]]


def run(prelude: str, pairs: Path, folder: Path) -> str:
    """Runs the commands in a process that `prelude` prepares; returns what it wrote on stderr."""
    code = f"import sys\n{prelude}\n{COMMANDS.format(words=commands(pairs, folder))}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def results(folder: Path) -> dict[str, Any]:
    """What the commands made, but for times, places and random names."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    same = {name: path.read_bytes() for name, path in files.items() if path.suffix in (".npy", ".skops", ".csv")}
    summary = json.loads(files["run/summary.json"].read_text())
    return {**same, "metrics": summary["metrics"], "names": [name for name in files if "tfevents" not in name]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, image: Callable[..., Path]) -> tuple[Path, dict[str, Any]]:
    """A folder of pairs, and what an ordinary run makes of them."""
    folder = tmp_path_factory.mktemp("systems")
    for number in range(8):
        for seed, side in enumerate(("left", "right")):
            image(folder / "pairs" / side / f"a{number}.png", (90, 80 + number), 2 * number + seed)
    assert "no locks" not in run("", folder / "pairs", folder / "ordinary")
    return folder / "pairs", results(folder / "ordinary")


def test_both_commands_do_without_what_some_systems_lack(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    pairs, expected = made
    shown = run(MISSING, pairs, tmp_path)
    assert results(tmp_path) == expected
    assert {"features/efficientnet_lite0/features_pca4.npy", "run/run2/val.csv"} <= expected.keys()
    assert shown.count("this file system has no locks: see to it yourself that nothing else writes here") == 4


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="open files are found in Linux' /proc")
def test_both_commands_keep_to_the_rules_of_windows_for_open_files(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """No open file is renamed, removed or renamed over, no folder opened, nothing synced that cannot be written."""
    pairs, expected = made
    run(MISSING + WINDOWS, pairs, tmp_path)
    assert results(tmp_path) == expected


@pytest.mark.parametrize(
    "forbidden",
    [
        "with open('x', 'w'): os.rename('x', 'y')",
        "with open('x', 'w'): os.unlink('x')",
        "open('y', 'w').close()\nwith open('x', 'w'): os.replace('y', 'x')",
        "open('x', 'w').close()\nopen('y', 'w').close()\nos.rename('x', 'y')",
        "os.open('.', os.O_RDONLY)",
        "open('x', 'w').close()\nwith open('x') as file: os.fsync(file.fileno())",
        "import numpy\nnumpy.save('x.npy', numpy.ones(9))\nm = numpy.load('x.npy', mmap_mode='r')\nos.unlink('x.npy')",
    ],
)
def test_what_windows_forbids_would_be_found(forbidden: str, tmp_path: Path) -> None:
    code = f"import sys\n{WINDOWS}\n{forbidden}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError" in done.stderr or "PermissionError" in done.stderr or "FileExistsError" in done.stderr
