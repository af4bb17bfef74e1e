"""Where runs grow until all of them are there: `.unfinished/` within the folder that receives them.

Its `plan.json` says what was begun; the same plan goes on with the runs that are there. When all is done,
`placing.json` lists what goes where, and from then on nothing but renaming is left, which may be cut short and done
again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError, listed, printable
from common.record import differences
from common.storage.files import partial_name, read_json, sync_folder, write_json

FINISHED = re.compile(r"run\d+")
UNFINISHED, REPLACED, PLAN, PLACING = ".unfinished", ".replaced", "plan.json", "placing.json"


class Unfinished:
    """The unfinished runs of `folder`, in `path` within it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.replaced = folder, folder / UNFINISHED, folder / REPLACED

    def inside(self, folder: Path) -> Path:
        """Where what is to go to `folder`, or to a folder within, grows; InputError where a link leads out of it."""
        if not folder.resolve().is_relative_to(self.folder.resolve()):
            raise InputError(f"{printable(str(folder))}: is a link to another place; give a folder of its own")
        return self.path / folder.relative_to(self.folder)

    def begin(self, plan: Mapping[str, Any], overwrite: bool) -> bool:
        """Whether there is something to go on with: runs of the same plan. Makes room for new ones where not.

        Runs of another plan are removed with `overwrite`; else they are an InputError that says what differs.
        """
        there = _read(self.path / PLAN)
        if there is not None and (differing := differences(there, plan)) and not overwrite:
            raise InputError(
                f"{printable(str(self.path))}: unfinished runs of other settings are here ({'; '.join(differing)}); "
                "give the settings that they were begun with, or --overwrite to begin anew"
            )
        if there is not None and not differing:
            return True
        if there is None:
            self._check_own()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove()
            self.path.mkdir()
        except OSError as error:
            raise InputError(f"{self.folder}: no run folder could be made here ({error.strerror})") from error
        write_json(self.path / PLAN, dict(plan))
        return False

    def _check_own(self) -> None:
        """InputError for what has the name of unfinished runs and is none."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise InputError(f"{self.path}: is no folder of its own; remove it")
        found = [path.name for path in self.path.iterdir()] if self.path.exists() else []
        if set(found) - {partial_name(Path(PLAN)).name}:
            raise InputError(
                f"{self.path}: holds {listed(found, 3)} and no {PLAN}; move what you need out of it and remove it"
            )

    def remove(self) -> None:
        """Removes the unfinished runs."""
        if self.path.exists():
            shutil.rmtree(self.path)

    def close(self) -> None:
        """Leaves nothing where no run is finished: there is nothing to go on from."""
        if self.path.is_dir() and not any(FINISHED.fullmatch(path.name) for path in self.path.rglob("run*")):
            self.remove()

    def place(self, new: Sequence[Path], old: Sequence[Path]) -> None:
        """Puts the `new` parts, paths in here, in the place of the `old` ones, paths in the folder."""
        lists = {
            "new": [path.relative_to(self.path).as_posix() for path in new],
            "old": [path.relative_to(self.folder).as_posix() for path in old],
        }
        write_json(self.path / PLACING, lists)
        self.complete()

    def complete(self) -> None:
        """Ends a placing that was begun, if one was."""
        if self.replaced.exists():
            shutil.rmtree(self.replaced)
        lists = _read(self.path / PLACING)
        if lists is None:
            return
        new, old = (self._inside(lists.get(name)) for name in ("new", "old"))
        self._set_aside(new, old)
        self._bring(new)
        self.path.rename(self.replaced)  # at once, so that no half of it is taken for unfinished runs
        shutil.rmtree(self.replaced)

    def _inside(self, names: object) -> list[str]:
        """Names that lead nowhere else: the list may be anyone's."""
        plain = [str(name) for name in names if _is_plain(name)] if isinstance(names, list) else []
        home = self.folder.resolve()
        return [name for name in plain if (self.folder / name).parent.resolve().is_relative_to(home)]

    def _set_aside(self, new: Sequence[str], old: Sequence[str]) -> None:
        """Moves the old parts away. What stands in the place of one and was brought already is a new one."""
        for name in old:
            aside, brought = self.path / REPLACED / name, name in new and not (self.path / name).exists()
            if not aside.exists() and not brought and (self.folder / name).exists():
                aside.parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).rename(aside)

    def _bring(self, new: Sequence[str]) -> None:
        """Moves the new parts to their places."""
        for name in new:
            if (self.path / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.path / name).rename(self.folder / name)
        sync_folder(self.folder)


def _is_plain(name: object) -> bool:
    """Whether a name is that of something within a folder, and not of the folder's own rooms."""
    parts = Path(name).parts if isinstance(name, str) else ()
    plain = bool(parts) and not Path(*parts).is_absolute() and Path(*parts).as_posix() == name
    return plain and ".." not in parts and parts[0] not in (UNFINISHED, REPLACED)


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file of this folder; None where there is none, or half of one."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
