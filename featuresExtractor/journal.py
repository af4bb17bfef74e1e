"""What an unfinished extraction has done, so that it can go on: lines of JSON beside the unfinished files.

The first line says what is extracted and how; then there is a line for each batch that was written, with checksums of
its rows and the state of its images when they were read; the last one says that all files are whole and only want
their names. A line stands there when what it tells of was written; one that was cut short is as good as none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from common.errors import InputError, printable
from common.machine.system import open_own
from common.progress import progress
from common.record import differences, is_whole
from common.storage.files import sync_folder, write_json
from featuresExtractor.backbones.inference import Drift
from featuresExtractor.features.features_file import FeaturesWriter, unfinished_names
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped, State, state_of


@dataclass(frozen=True)
class Done:
    """A batch that was written: its items, the state of their images at the start, the items left out, why, a
    checksum of its rows in each file, and remarks about its images."""

    items: range
    states: list[State]
    left_out: list[int]
    faults: list[Skipped]
    sums: list[int]
    remarks: list[Remark] = field(default_factory=list)

    def line(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "items": [self.items.start, self.items.stop],
            "states": self.states,
            "left_out": self.left_out,
            "faults": [[fault.name, fault.reason] for fault in self.faults],
            "sums": self.sums,
            "remarks": [[remark.name, remark.text] for remark in self.remarks],
        }

    def first(self) -> int:
        """The first item, to sort by."""
        return self.items.start

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> Done:
        """From what `line` gave; an exception for what it cannot have given."""
        (start, stop), states = map(_count, line["items"]), [State(*map(int, state)) for state in line["states"]]
        left_out, faults = [*map(_count, line["left_out"])], [Skipped(*map(str, fault)) for fault in line["faults"]]
        if not all(start <= index < stop for index in left_out):
            raise ValueError("left out what is not in the batch")
        remarks = [Remark(*map(str, remark)) for remark in line.get("remarks", [])]
        return cls(range(start, stop), states, left_out, faults, [*map(int, line["sums"])], remarks)


def _count(value: Any) -> int:
    """A number of items."""
    if not isinstance(value, int) or not 0 <= value < 2**40:
        raise ValueError(f"{value} counts nothing")
    return value


class Journal:
    """The journal of the files `outputs`, read if there is one; `begin` opens it for more."""

    def __init__(self, outputs: Sequence[Path]) -> None:
        self.outputs, self.folder = outputs, outputs[0].parent
        self.path = outputs[0].with_name(f"{outputs[0].stem}.partial.jsonl")
        self.file: IO[bytes] | None = None
        self._forget()
        try:
            self._read()
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            return  # what was read before it holds; each batch has its checksums

    def _forget(self) -> None:
        self.files = [path.name for path in self.outputs]
        self.begun: dict[str, Any] | None = None
        self.done: list[Done] = []
        self.drift: Drift | None = None
        self.sealed: list[dict[str, Any]] | None = None
        self.batch = 1
        self.length = 0  # bytes of whole lines

    def _read(self) -> None:
        with os.fdopen(open_own(self.path, os.O_RDONLY), "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._take(json.loads(line))
                self.length += len(line)
        if not self._is_sealed():
            self.sealed = None

    def _is_sealed(self) -> bool:
        """Whether every sealed file is there, with its name or without it yet: a power cut may have kept the line and
        lost a file."""
        return all(
            (self.folder / one["file"]).exists() or is_whole(self.folder / name, one["facts"])
            for name, one in zip(self.files, self.sealed or [], strict=False)
        )

    def _take(self, line: dict[str, Any]) -> None:
        if self.begun is None:
            self.files, self.batch = [_own(name) for name in line["files"]], max(1, _count(line["batch"]))
            self.begun = dict(line["begun"])
        elif "drift" in line:
            told = line["drift"]
            self.drift = Drift(str(told["precision"]), int(told["images"]), float(told["lowest"]), float(told["mean"]))
        elif "sealed" in line:
            sealed = [{"file": _own(one["file"]), "facts": dict(one["facts"])} for one in line["sealed"]]
            for name, one in zip(self.files, sealed, strict=True):
                if one["file"] not in [path.name for path in unfinished_names(self.folder / name)]:
                    raise ValueError("sealed what is not unfinished")
            self.sealed = sealed
        else:
            self.done.append(Done.of(line))

    def check(self, begun: Mapping[str, Any], overwrite: bool) -> None:
        """Drops unfinished work that was not begun as is asked for: with `overwrite`, else that is an InputError which
        says what differs."""
        if self.begun is None or not (differing := differences(self.begun, begun)):
            return
        if not overwrite:
            raise InputError(
                f"{printable(str(self.path))}: unfinished work of other settings is here ({'; '.join(differing)}); "
                "give the settings that it was begun with, or --overwrite to begin anew"
            )
        self.remove()

    def begin(self, begun: Mapping[str, Any], batch: int) -> None:
        """Opens the journal: to go on, or at its beginning where there was none. `batch` images go at a time."""
        if fresh := self.begun is None:
            self.path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.file = os.fdopen(open_own(self.path, flags), "ab", buffering=0)
        self.file.truncate(self.length)
        if fresh:
            self._add({"begun": begun, "files": self.files, "batch": batch})
            sync_folder(self.folder)

    def _add(self, line: Mapping[str, Any]) -> None:
        assert self.file is not None
        left = json.dumps(line).encode() + b"\n"
        while left:  # where the disk is full, the first write is a short one and the next one an error
            left = left[self.file.write(left) :]

    def add(self, done: Done) -> None:
        """Notes a batch whose rows were written."""
        self._add(done.line())
        self.done.append(done)

    def add_drift(self, drift: Drift) -> None:
        """Notes what a precision costs."""
        self._add({"drift": asdict(drift)})
        self.drift = drift

    def seal(self, sealed: list[dict[str, Any]]) -> None:
        """Notes that all files are whole: of each the name that it has yet, and what its `.json` is to say."""
        assert self.file is not None
        sync_folder(self.folder)
        self._add({"sealed": sealed})
        os.fsync(self.file.fileno())
        self.sealed = sealed

    def give_names(self) -> None:
        """Gives the sealed files their names, each after its `.json`, and ends the journal. May be done again."""
        for name, one in zip(self.files, self.sealed or [], strict=True):
            path, unnamed = self.folder / name, self.folder / one["file"]
            write_json(path.with_suffix(".json"), one["facts"])
            if unnamed.exists():
                unnamed.replace(path)
            sync_folder(self.folder)
        self.remove()

    @property
    def items(self) -> int:
        """How many items are done."""
        return sum(len(done.items) for done in self.done)

    def close(self) -> None:
        """Ends writing. Without a batch there is nothing to go on from, and nothing stays."""
        if self.file is not None:
            self.file.close()
        if not self.done:
            self.remove()

    def remove(self) -> None:
        """Removes the journal and the unfinished files."""
        for name in (*self.files, *(path.name for path in self.outputs)):
            for unfinished in unfinished_names(self.folder / name):
                unfinished.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        self._forget()

    def verify(self, dataset: Dataset, writers: Sequence[FeaturesWriter]) -> None:
        """Keeps the batches whose rows are as they were written and whose images are as they were read; the others,
        which a power cut or a change of images leaves, are done again."""
        good: list[Done] = []
        with progress(self.items, "check", dataset.kind) as bar:
            for done in sorted(self.done, key=Done.first):
                start = good[-1].items.stop if good else 0
                if _fits(done, start, dataset) and done.sums == [writer.checksum(done.items) for writer in writers]:
                    good.append(done)
                bar.update(len(done.items))
        self.done = good


def _own(name: Any) -> str:
    """The name of a file in the journal's own folder."""
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".npy"):
        raise ValueError(f"{name!r} is none of the files")
    return name


def left_to_do(count: int, size: int, done: Sequence[range]) -> list[range]:
    """The parts, of `size` items at most, of all `count` items that are not `done`; the same ones as without an
    interruption, so that each batch holds the same images."""
    parts, start = [], 0
    for part in (*sorted(done, key=lambda items: items.start), range(count, count)):
        parts += [range(first, min(first + size, part.start)) for first in range(start, part.start, size)]
        start = part.stop
    return parts


def _fits(done: Done, start: int, dataset: Dataset) -> bool:
    """Whether a batch is of this dataset, not before `start`, where the batch before it ends, and of unchanged
    images. (One that was left out may be good now.)"""
    inside = start <= done.items.start < done.items.stop <= len(dataset) and done.items.step == 1
    return inside and len(done.states) == len(done.items) * len(dataset.sides) and not changed(dataset, done)


def changed(dataset: Dataset, done: Done) -> list[tuple[int, str]]:
    """The images of a batch that are not as they were at the start: the index of their item, and their name."""
    images = [(index, path) for index in done.items for path in dataset.items[index]]
    return [
        (index, dataset.name(path))
        for (index, path), state in zip(images, done.states, strict=True)
        if state_of(path) != state
    ]
