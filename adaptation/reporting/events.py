"""Curves as a TensorBoard events file, written in one go: what a full disk refuses is an error, and not half a file."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path

from adaptation.curves import Curves
from common.storage.files import written_whole

VERSION = "brain.Event:2"  # of the format


def write_events(folder: Path, curves: Mapping[str, Curves]) -> None:
    """Writes `<set>/<metric>` over the epochs, which count from 1."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    now, contents = time.time(), io.BytesIO()
    writer = RecordWriter(contents)
    writer.write(Event(wall_time=now, file_version=VERSION).SerializeToString())
    for name, metrics in curves.items():
        for metric, values in metrics.items():
            for epoch, value in enumerate(values, 1):
                summary = Summary(value=[Summary.Value(tag=f"{name}/{metric}", simple_value=value)])
                writer.write(Event(wall_time=now, step=epoch, summary=summary).SerializeToString())
    with written_whole(folder / f"events.out.tfevents.{int(now)}.adaptation") as partial:
        partial.write_bytes(contents.getbuffer())
