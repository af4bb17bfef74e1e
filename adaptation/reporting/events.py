"""Curves as TensorBoard reads them: one events file a run, which grows while it trains and goes on when it resumes.

An epoch is one record, so that none is there by half. After a kill the incomplete record at the end is cut off.
"""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptation.curves import Curves, Progress
from common.machine.system import open_own
from common.storage.files import write_all, written_whole

VERSION = "brain.Event:2"  # of the format
PATTERN = "events.out.tfevents.*.adaptation"
HEADER, FOOTER = 12, 4  # bytes of a record before its data (length, checksum) and after it (checksum)


class EventsFile:
    """The events file in the folder of a run: the one that exists, or a new one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = next(iter(sorted(folder.glob(PATTERN))), folder / _name())
        self.length, self.epochs, self.plugins = 0, 0, list[str]()
        if self.path.is_file() and not self.path.is_symlink():
            self._read()
        if not self.length:
            self._append([_event(file_version=VERSION)])

    def _read(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        for data, end in _records(self.path.read_bytes()):
            try:
                event = Event.FromString(data)
            except Exception:  # protobuf's DecodeError, which TensorBoard does not pass on: the file is not trusted
                return
            self.length, self.epochs = end, max(self.epochs, event.step)
            self.plugins += [value.tag for value in event.summary.value if value.metadata.plugin_data.plugin_name]

    def add(self, progress: Progress) -> None:
        """Append the epochs that the file does not have: `Train/<metric>` and `Test/<metric>`, at their times."""
        curves = {f"Train/{name}": values for name, values in progress.train.items()}
        curves |= {f"Test/{name}": values for name, values in progress.test.items()}
        new = range(max(self.epochs + 1, progress.first), progress.first + len(progress.times))
        self._append(
            [_scalars(curves, epoch - progress.first, epoch, progress.times[epoch - progress.first]) for epoch in new]
        )
        self.epochs = max([self.epochs, *new])

    def begin(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Put the settings, and the tags of the metrics, into the HPARAMS tab; once for a file."""
        from tensorboard.plugins.hparams import metadata, summary_v2

        if metadata.SESSION_START_INFO_TAG in self.plugins:
            return
        values = {name: _plain(value) for name, value in settings.items()}
        columns = [summary_v2.HParam(name) for name in values], [summary_v2.Metric(tag) for tag in metrics]
        row = summary_v2.hparams_pb(values, trial_id="")  # or runs of equal settings become one row, their mean
        parts = [summary_v2.hparams_config_pb(*columns), row]
        self._append([_event(summary=part) for part in parts])

    def end(self) -> None:
        """Say in the HPARAMS tab that the run is finished; once for a file."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        tag = metadata.SESSION_END_INFO_TAG
        if tag in self.plugins:
            return
        info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=info))
        value = Summary.Value(tag=tag, metadata=data, tensor=metadata.NULL_TENSOR)
        self._append([_event(summary=Summary(value=[value]))])

    def _append(self, events: Sequence[Any]) -> None:
        """Write events behind the last whole record; where the disk is full, none of them is there."""
        contents = _framed(events)
        with os.fdopen(open_own(self.path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
            file.seek(file.truncate(self.length))
            try:
                write_all(file, contents)
            except BaseException:
                file.truncate(self.length)  # at once: a server that reads half a record does not read on behind it
                raise
        self.length += len(contents)


def write_events(folder: Path, curves: Mapping[str, Curves], epochs: Sequence[int] | None = None) -> None:
    """Write `<set>/<metric>` over the epochs, by default from 1 on, as a whole file."""
    tagged = {f"{name}/{metric}": values for name, metrics in curves.items() for metric, values in metrics.items()}
    steps, now = epochs or range(1, 1 + max(map(len, tagged.values()))), time.time()
    events = [_event(file_version=VERSION), *(_scalars(tagged, index, step, now) for index, step in enumerate(steps))]
    with written_whole(folder / _name()) as partial:
        partial.write_bytes(_framed(events))


def _name() -> str:
    return PATTERN.replace("*", str(int(time.time())))


def _event(**fields: Any) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event

    return Event(**({"wall_time": time.time()} | fields))


def _scalars(curves: Curves, index: int, step: int, moment: float) -> Any:
    """The event of one epoch: the value of each curve at an index."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=values[index]) for tag, values in curves.items()]
    return _event(step=step, wall_time=moment, summary=Summary(value=values))


def _framed(events: Sequence[Any]) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    contents = io.BytesIO()
    writer = RecordWriter(contents)
    for event in events:
        writer.write(event.SerializeToString())
    return contents.getvalue()


def _records(body: bytes) -> Iterator[tuple[bytes, int]]:
    """The data of each whole record, and where it ends."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    start = 0
    while start + HEADER + FOOTER <= len(body):
        (size,) = struct.unpack_from("<Q", body, start)
        data, end = body[start + HEADER : start + HEADER + size], start + HEADER + size + FOOTER
        if end > len(body) or struct.unpack_from("<I", body, end - FOOTER)[0] != masked_crc32c(data):
            return
        yield data, end
        start = end


def _plain(value: Any) -> bool | float | str:
    """A setting as the HPARAMS tab takes it."""
    return value if isinstance(value, (bool, int, float, str)) else " ".join(map(str, value or ("none",)))
