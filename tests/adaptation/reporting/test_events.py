"""Events files, read by TensorBoard's own loader: whole records, true times, one file a run for its life."""

from __future__ import annotations

import errno
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from adaptation.curves import Progress
from adaptation.reporting.events import EventsFile, write_events

METRICS = ["Test/Loss", "Test/top 1"]


def progress(first: int, count: int, shift: float = 0.0) -> Progress:
    """Epochs whose values tell them apart."""
    epochs = range(first, first + count)
    train, test = (
        {"Loss": [side + epoch + shift for epoch in epochs], "top 1": [epoch / 100 for epoch in epochs]}
        for side in (0, 100)
    )
    return Progress(1, first, train, test, [1000.0 + epoch for epoch in epochs])


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Tag -> (step, value, wall time)."""
    accumulator = EventAccumulator(str(folder)).Reload()
    values: dict[str, list[tuple[int, float, float]]] = {}
    (path,) = folder.iterdir()
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name != "hparams":
                number = value.simple_value or (value.tensor.float_val[0] if value.tensor.float_val else 0.0)
                values.setdefault(value.tag, []).append((event.step, number, event.wall_time))
    assert set(accumulator.Tags()["scalars"]) | set(accumulator.Tags()["tensors"]) >= values.keys()
    return values


def plugin_tags(folder: Path) -> list[str]:
    (path,) = folder.iterdir()
    events = EventFileLoader(str(path)).Load()
    return [value.tag for event in events for value in event.summary.value if value.tag.startswith("_hparams_")]


def test_epochs_are_appended_with_their_times(tmp_path: Path) -> None:
    file = EventsFile(tmp_path)
    file.add(progress(1, 2))
    assert scalars(tmp_path)["Train/Loss"] == [(1, 1.0, 1001.0), (2, 2.0, 1002.0)]
    file.add(progress(3, 1))
    found = scalars(tmp_path)
    assert list(found) == ["Train/Loss", "Train/top 1", "Test/Loss", "Test/top 1"]
    assert found["Test/Loss"] == [(1, 101.0, 1001.0), (2, 102.0, 1002.0), (3, 103.0, 1003.0)]


def test_run_that_is_resumed_continues_its_own_curve(tmp_path: Path) -> None:
    EventsFile(tmp_path).add(progress(1, 3))
    again = EventsFile(tmp_path)
    again.add(progress(1, 2, shift=0.5))
    again.add(progress(3, 3, shift=0.5))
    assert [step for step, *_ in scalars(tmp_path)["Train/Loss"]] == [1, 2, 3, 4, 5]
    assert [value for _, value, _ in scalars(tmp_path)["Train/Loss"]] == [1.0, 2.0, 3.0, 4.5, 5.5]


def test_record_that_was_cut_short_is_cut_off(tmp_path: Path) -> None:
    file = EventsFile(tmp_path)
    lengths = [file.length]
    for epoch in (1, 2):
        file.add(progress(epoch, 1))
        lengths.append(file.length)
    whole = file.path.read_bytes()
    for length in range(0, len(whole), 3):
        file.path.write_bytes(whole[:length])
        again = EventsFile(tmp_path)
        assert again.epochs == max(sum(end <= length for end in lengths) - 1, 0)
        again.add(progress(1, 2))
        assert file.path.read_bytes()[lengths[0] :] == whole[lengths[0] :]


@pytest.mark.parametrize("damage", [b"\0", b"\xff" * 40, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x" * 20])
def test_what_is_no_record_is_cut_off(tmp_path: Path, damage: bytes) -> None:
    file = EventsFile(tmp_path)
    file.add(progress(1, 1))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole + damage)
    again = EventsFile(tmp_path)
    again.add(progress(2, 1))
    assert again.path.read_bytes()[: len(whole)] == whole
    assert [step for step, *_ in scalars(tmp_path)["Train/Loss"]] == [1, 2]


def test_settings_and_metrics_are_in_the_runs_own_file_once(tmp_path: Path) -> None:
    for _ in range(2):
        file = EventsFile(tmp_path)
        file.begin({"head": "original", "temperature": 15.0, "seed": 0, "ks": (1, 3), "batch_size": None}, METRICS)
        file.add(progress(1, 1))
    for _ in range(2):
        file = EventsFile(tmp_path)
        file.end()
    assert plugin_tags(tmp_path) == [
        *(metadata.EXPERIMENT_TAG, metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    ]
    (path,) = tmp_path.iterdir()
    events = EventFileLoader(str(path)).Load()
    contents = [value.metadata.plugin_data.content for event in events for value in event.summary.value]
    start = next(metadata.parse_session_start_info_plugin_data(body) for body in contents[1:] if body)
    values: dict[str, Any] = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert values == {"head": "original", "temperature": 15.0, "seed": 0.0, "ks": "1 3", "batch_size": "none"}
    experiment = metadata.parse_experiment_plugin_data(contents[0])
    assert [metric.name.tag for metric in experiment.metric_infos] == METRICS


def test_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    file = EventsFile(tmp_path)
    file.add(progress(1, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.length + 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            file.add(progress(2, 5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG
    assert file.path.stat().st_size == file.length  # at once, for who reads meanwhile
    assert EventsFile(tmp_path).epochs == 1
    file.add(progress(2, 1))
    assert [step for step, *_ in scalars(tmp_path)["Train/Loss"]] == [1, 2]


def test_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.out.tfevents.1.adaptation").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        EventsFile(tmp_path / "run")
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize(("epochs", "steps"), [(None, [1, 2]), ([1, 150], [1, 150])])
def test_whole_file_has_the_curves(tmp_path: Path, epochs: Sequence[int] | None, steps: list[int]) -> None:
    write_events(tmp_path, {"Avg_Test": {"top 1": [0.25, 0.5]}}, epochs)
    (curve,) = scalars(tmp_path).values()
    assert [(step, value) for step, value, _ in curve] == list(zip(steps, [0.25, 0.5], strict=True))


def test_record_that_is_no_event_is_cut_off(tmp_path: Path) -> None:
    file = EventsFile(tmp_path)
    file.add(progress(1, 1))
    whole = file.path.read_bytes()
    with file.path.open("ab") as stream:
        RecordWriter(stream).write(b"\xff\xff\xff")
    again = EventsFile(tmp_path)
    assert again.epochs == 1
    again.add(progress(2, 1))
    assert again.path.read_bytes()[: len(whole)] == whole
