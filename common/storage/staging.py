"""Work that takes long grows in a hidden folder, is resumed by units, and takes its place at the end, by renames alone.

`.unfinished/`, or a part of it, in the folder that receives the work holds

    plan.json      what was begun: the same plan resumes, another one is refused or dropped
    units.jsonl    a line for each unit that is done (a range of images, a run), with what must be known of it
    placing.json   what goes where; written when all of it is whole, and from then on only renames are left

A line stands there when what it records was written. Incomplete lines are ignored. Any step may be cut short and
repeated. These files are not trusted: none of them moves anything out of the folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.errors import InputError, listed, printable
from common.machine.system import open_own, sync_folder
from common.record import differences
from common.storage.files import partial_name, read_json, write_all, write_json

UNFINISHED, REPLACED = ".unfinished", ".replaced"
PLAN, UNITS, PLACING = "plan.json", "units.jsonl", "placing.json"
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RecursionError)  # of an untrusted file


class Staging:
    """The unfinished work of `folder`, in `path` within it.

    `part` tells several works of one folder apart. `units` maps the key of each unit that is done to what is known of
    it; keys do not depend on who does the work. One process at a time writes here.
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self.folder, self.path = folder, folder / UNFINISHED / part
        self.replaced = folder / f"{REPLACED}{part and '-'}{part}"
        self.units: dict[str, dict[str, Any]] = {}
        self._length = 0  # bytes of whole lines
        with suppress(*UNREADABLE):  # what was read until then holds
            self._read_units()

    def _read_units(self) -> None:
        with os.fdopen(open_own(self.path / UNITS, os.O_RDONLY), "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                self.units[str(entry["unit"])] = dict(entry["done"])
                self._length += len(line)

    @property
    def plan(self) -> dict[str, Any] | None:
        """What was begun here; None where nothing was."""
        return _read(self.path / PLAN)

    def inside(self, folder: Path) -> Path:
        """Return where what is to go to `folder`, or to a folder within, grows; InputError where a link leads out."""
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"{printable(str(folder))}: is a link to another place; give a folder of its own")
        return self.path / folder.relative_to(self.folder)

    def own(self, unit: str) -> Path:
        """Return where the folder of a unit grows; InputError where a link leads elsewhere."""
        path = self.path / unit
        if path.resolve() != self.folder.resolve() / path.relative_to(self.folder):
            raise InputError(f"{printable(str(path))}: is behind a link; remove the link")
        return path

    def resumes(self, plan: Mapping[str, Any], overwrite: bool) -> bool:
        """Return whether work of this plan is here. Nothing is written.

        Work of another plan is an InputError that says what differs, but with `overwrite`. What `plan.json` holds
        beside the settings of `plan` does not count.
        """
        existing = self.plan
        if existing is None:
            self._check_own()
            return False
        if (differing := differences(existing, plan)) and not overwrite:
            raise InputError(
                f"{printable(str(self.path))}: unfinished work of other settings is here ({'; '.join(differing)}); "
                "give the settings that it was begun with, or --overwrite to begin anew"
            )
        return not differing

    def begin(self, plan: Mapping[str, Any], overwrite: bool) -> bool:
        """Make the folder for this plan and return False, or return True where its work is here to be resumed."""
        if self.resumes(plan, overwrite):
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove()
            self.path.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{self.folder}: no folder can be made here ({error.strerror})") from error
        write_json(self.path / PLAN, dict(plan))
        return False

    def _check_own(self) -> None:
        """InputError for what has the name of unfinished work and is none."""
        for path in dict.fromkeys((self.folder / UNFINISHED, self.path)):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise InputError(f"{path}: is no folder of its own; remove it")
        existing = [path.name for path in self.path.iterdir()] if self.path.exists() else []
        if set(existing) - {partial_name(Path(PLAN)).name}:
            raise InputError(
                f"{self.path}: holds {listed(existing, 3)} and no {PLAN}; move what you need out of it and remove it"
            )

    def add(self, unit: str, done: Mapping[str, Any], durable: bool = False) -> None:
        """Record that a unit is done. With `durable` all that was written before outlives a power cut."""
        line = json.dumps({"unit": unit, "done": done}, allow_nan=False).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(open_own(self.path / UNITS, flags), "ab", buffering=0) as file:
            file.truncate(self._length)
            write_all(file, line)
            if durable:
                sync_folder(self.path)
                os.fsync(file.fileno())
        self._length += len(line)
        self.units[unit] = dict(done)

    def close(self) -> None:
        """Leave nothing where no unit is done: there is nothing to resume."""
        if not self.units:
            self.remove()

    def remove(self) -> None:
        """Remove the unfinished work."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self._forget()

    def _forget(self) -> None:
        self.units, self._length = {}, 0
        if self.path.parent != self.folder:
            with suppress(OSError):  # another work is unfinished here
                self.path.parent.rmdir()

    def place(self, new: Mapping[str, str], old: Sequence[str]) -> None:
        """Put the `new` parts (names in here to names in the folder) in the place of the `old` ones (in the folder)."""
        write_json(self.path / PLACING, {"new": list(new.items()), "old": list(old)})
        self.complete()

    def complete(self) -> bool:
        """End a placing that was begun. Return whether one was."""
        if cut_short := self.replaced.exists():
            shutil.rmtree(self.replaced)
        placing = _read(self.path / PLACING)
        if placing is None:
            return cut_short
        new = {source: target for source, target in _pairs(placing.get("new")) if self._is_inside(source, target)}
        old = [name for name in _names(placing.get("old")) if self._is_inside(name)]
        self._set_aside(new, old)
        self._bring(new)
        self.path.rename(self.replaced)  # at once, so that no half of it is taken for unfinished work
        shutil.rmtree(self.replaced)
        self._forget()
        return True

    def _is_inside(self, *names: str) -> bool:
        """Whether names lead nowhere else."""
        home = self.folder.resolve()
        return all(_is_plain(name) and (self.folder / name).parent.resolve().is_relative_to(home) for name in names)

    def _set_aside(self, new: Mapping[str, str], old: Sequence[str]) -> None:
        """Move the old parts away. What stands in the place of one and was brought already is a new one."""
        sources = {target: source for source, target in new.items()}
        for name in old:
            aside = self.path / REPLACED / name
            brought = name in sources and not (self.path / sources[name]).exists()
            if not aside.exists() and not brought and (self.folder / name).exists():
                aside.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).rename(aside)

    def _bring(self, new: Mapping[str, str]) -> None:
        """Move the new parts to their places."""
        for source, target in new.items():
            if (self.path / source).exists():
                (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
                (self.path / source).rename(self.folder / target)
        sync_folder(self.folder)


def complete_all(folder: Path) -> list[str]:
    """End the placing of every work of a folder that was begun. Return the parts of which one was."""
    unfinished = folder / UNFINISHED
    parts = {path.name for path in unfinished.iterdir()} if unfinished.is_dir() else set()
    parts |= {path.name.removeprefix(f"{REPLACED}-") for path in folder.glob(f"{REPLACED}-*")}
    return [part for part in sorted(parts) if Staging(folder, part).complete()]


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _pairs(value: object) -> list[tuple[str, str]]:
    """The pairs of names in an untrusted list."""
    pairs = [tuple(_names(pair)) for pair in value] if isinstance(value, list) else []
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]


def _is_plain(name: str) -> bool:
    """Whether a name is that of something within a folder, and of none of the folder's own work."""
    parts = Path(name).parts
    plain = bool(parts) and not Path(name).is_absolute() and Path(*parts).as_posix() == name
    return plain and ".." not in parts and re.fullmatch(r"\.(unfinished|replaced).*", parts[0]) is None


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file of this folder; None where there is none, or half of one."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
