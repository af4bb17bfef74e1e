"""The one loop: rows hold their own images, what goes wrong ends it, and the next call goes on from there."""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from common.storage.staging import Staging
from featuresExtractor.backbones.activations import LayerReader, raw
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.drift import Drift
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.backbones.weights.loading import find_weights, load_backbone
from featuresExtractor.extractor import Clock, Report, extract_units, kept, report_of
from featuresExtractor.features.features_file import FeaturesWriter, row_type
from featuresExtractor.images import loader as reading
from featuresExtractor.images.decode import Decoded, decode_image
from featuresExtractor.images.folders.dataset import Dataset, Skipped, find_images
from featuresExtractor.images.loader import read_item
from featuresExtractor.units import Unit, missing_units, recorded_units, verified

CPU = torch.device("cpu")
NO_FORMAT = "not an image in a format that is known here"


class Cramped(nn.Module):
    """A network on a GPU whose memory holds `most` images."""

    def __init__(self, backbone: nn.Module, most: int) -> None:
        super().__init__()
        self.backbone, self.most = backbone, most
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        output: Tensor = self.backbone(images)
        return output


def forward_of(model: Backbone, batch: int = 64, views: int = 2, most: int | None = None) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    network = backbone if most is None else Cramped(backbone, most)
    prefix = "" if most is None else "backbone."
    layers = tuple(f"{prefix}{layer}" for layer in model.layers)
    return Forward(LayerReader(network, layers), model.preprocessing, views, CPU, batch)


@dataclass(frozen=True, kw_only=True)
class Outcome(Report):
    """A report, and of this call the images and the seconds."""

    images: int
    seconds: dict[str, float]


def run(
    root: Path, forward: Forward, workers: int = 2, skip: bool = False, path: Path | None = None, keep: bool = False
) -> tuple[NDArray[Any], Outcome]:
    """Extracts the folder `root`; returns the rows of the features file, and the report. With `keep` what was done
    stays when it is cut short, and the next call goes on from there."""
    dataset, target = find_images(root), path or root.parent / "f.npy"
    report = run_into([target], dataset, forward, workers, skip, keep)
    return np.load(target), report


def run_into(
    targets: Sequence[Path],
    dataset: Dataset,
    forward: Forward,
    workers: int = 2,
    skip: bool = False,
    keep: bool = False,
) -> Outcome:
    """Extracts a dataset, each output into its file."""
    assert dataset.states  # as they are now
    staging, clock = Staging(targets[0].parent, targets[0].stem), Clock()
    resumed = staging.begin({}, overwrite=False)
    with ExitStack() as stack:
        stack.callback(staging.close if keep else staging.remove)
        writers = [stack.enter_context(writer) for writer in writers_of(staging, targets, dataset, forward, resumed)]
        units = verified(recorded_units(staging), dataset, writers)
        parts = missing_units(len(dataset), max(1, forward.batch // 2), [unit.items for unit in units])

        def record(unit: Unit) -> None:
            staging.add(unit.key, unit.record())

        new = list(extract_units(dataset, forward, writers, parts, workers, skip, clock=clock, record=record))
        units = sorted([*units, *new], key=lambda unit: unit.items.start)
        report = report_of(units, dataset)
        whole = [writer.seal(kept(dataset, units))[0].name for writer in writers]
        existing = [path.name for path in targets if path.exists()]
        staging.place(dict(zip(whole, (path.name for path in targets), strict=True)), existing)
    images = sum(len(unit.items) - len(unit.left_out) for unit in new) * len(dataset.sides) * len(forward.views)
    return Outcome(**vars(report), images=images, seconds=clock.seconds)


def writers_of(
    staging: Staging, targets: Sequence[Path], dataset: Dataset, forward: Forward, resumed: bool
) -> Iterator[FeaturesWriter]:
    for target, shape in zip(targets, forward.shapes, strict=True):
        row = row_type(dataset.sides, shape, 9)
        yield FeaturesWriter(staging.path / target.name, row, len(dataset), len(forward.views), resumed)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (1, 4), (3, 2), (4, 1), (2048, 8)])
def test_file_is_the_same_whatever_batch_size_and_workers(
    batch: int, workers: int, tiny_model: Backbone, pairs: Callable[..., Path]
) -> None:
    root = pairs(5)
    reference, _ = run(root, forward_of(tiny_model, 64), 2)
    rows, report = run(root, forward_of(tiny_model, batch), workers)
    assert report.written == 5
    assert (rows["left_name"] == reference["left_name"]).all()
    assert (rows["view"] == reference["view"]).all()
    for side in ("left", "right"):
        assert np.allclose(rows[side], reference[side], atol=1e-6)


def test_each_row_holds_its_own_images(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(3)
    forward = forward_of(tiny_model)
    rows, _ = run(root, forward)
    names = ["a0.png", "a1.png", "a2.png"]
    assert rows["left_name"].tolist() == rows["right_name"].tolist() == names * 2
    assert rows["view"].tolist() == [0, 0, 0, 1, 1, 1]
    for side in ("left", "right"):
        alone, _ = run(root / side, forward, path=root / f"{side}.npy")
        assert alone["name"].tolist() == names * 2
        assert np.allclose(rows[side], alone["features"], atol=1e-6)


def test_memory_that_runs_out_later_loses_no_pair(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(6)
    reference, _ = run(root, forward_of(tiny_model, 4))
    forward = forward_of(tiny_model, 4, most=4)
    network = forward.backbone.backbone
    assert isinstance(network, Cramped)
    network.seen.clear()  # of what was tried before the first image
    network.register_forward_hook(lambda *_: setattr(network, "most", 4 if len(network.seen) < 4 else 1))
    rows, _ = run(root, forward)
    assert forward.batch == 1
    assert np.allclose(rows["left"], reference["left"], atol=1e-6)
    assert np.allclose(rows["right"], reference["right"], atol=1e-6)


# --- each layer on its own ---


def whole_layers(model: Backbone, batch: int = 64, views: int = 2) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    return Forward(LayerReader(backbone, tuple(model.layers), raw), model.preprocessing, views, CPU, batch, False)


def run_layers(root: Path, forward: Forward) -> list[NDArray[Any]]:
    """Extracts the folder `root` into a file for each output; returns the rows of each."""
    targets = [root.parent / f"{number}.npy" for number in range(len(forward.shapes))]
    run_into(targets, find_images(root), forward)
    return [np.load(target) for target in targets]


def test_each_row_of_each_layer_holds_its_own_images(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(3)
    forward = whole_layers(tiny_model, batch=2)
    for layer, rows in enumerate(run_layers(root, forward)):
        for number in range(3):
            pixels = np.empty((2, 3, 32, 32), np.uint8)
            assert read_item(find_images(root), number, tiny_model.preprocessing, pixels) == []
            expected = forward(torch.from_numpy(pixels))[layer]
            for view in range(2):
                row = rows[3 * view + number]
                assert (row["left_name"], row["right_name"], row["view"]) == (f"a{number}.png", f"a{number}.png", view)
                assert np.array_equal(row["left"], expected[view, 0])
                assert np.array_equal(row["right"], expected[view, 1])


def test_no_more_than_one_batch_of_whole_layers_is_held(
    tiny_model: Backbone, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[NDArray[Any]]] = []
    alive, rows = [], []
    put = FeaturesWriter.put

    def watched(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        alive.append(sum(block() is not None for block in held))
        held.extend(map(weakref.ref, blocks))
        rows.append([len(block) for block in blocks])
        return put(writer, first, blocks)

    monkeypatch.setattr(FeaturesWriter, "put", watched)
    run_layers(pairs(6), whole_layers(tiny_model, batch=4))
    assert rows == [[2, 2]] * 9  # two pairs a batch, both views, for each of three layers
    assert alive == [0] * 9  # what was written before is let go of


class Watched(Forward):
    """Counts at each batch how many arrays of the batches before it are still held."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.given: list[weakref.ref[NDArray[Any]]] = []
        self.alive: list[int] = []

    def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        self.alive.append(sum(output() is not None for output in self.given))
        outputs = super().__call__(pixels)
        self.given.extend(map(weakref.ref, outputs))
        return outputs


def test_outputs_of_earlier_batches_are_let_go_of(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    backbone = LayerReader(load_backbone(tiny_model, find_weights(tiny_model, "random", 1)), ("layer1", "layer4"), raw)
    forward = Watched(backbone, tiny_model.preprocessing, 2, CPU, 2, False)
    run_layers(pairs(6), forward)
    assert len(forward.alive) == 6
    assert max(forward.alive) <= 2  # those of the one batch that was written last


# --- images that cannot be read ---


def test_broken_image_ends_the_extraction_with_its_name(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(4)
    (root / "right" / "a2.png").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        run(root, forward_of(tiny_model))
    assert str(caught.value) == (
        f"unreadable: right/a2.png ({NO_FORMAT}); replace these images and resume, or skip them with --on-error skip"
    )
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]


@pytest.mark.parametrize("batch", [1, 2, 4, 64])
@pytest.mark.parametrize("broken", [["left/a0.png"], ["right/a4.png"], ["right/a1.png", "left/a2.png"]])
def test_broken_image_is_skipped_with_its_partner_when_asked_for(
    broken: list[str], batch: int, tiny_model: Backbone, pairs: Callable[..., Path]
) -> None:
    root = pairs(5)
    reference, _ = run(root, forward_of(tiny_model))
    for name in broken:
        (root / name).write_bytes(b"no image")
    rows, report = run(root, forward_of(tiny_model, batch), skip=True)
    names = {Path(name).name for name in broken}
    kept = reference[[name not in names for name in reference["left_name"]]]
    assert report.written == 5 - len(names) == len(rows) // 2
    assert report.skipped == [Skipped(name, NO_FORMAT) for name in broken]
    for field in ("left_name", "right_name", "view"):
        assert (rows[field] == kept[field]).all()
    for side in ("left", "right"):
        assert np.allclose(rows[side], kept[side], atol=1e-6)


def test_every_image_is_decoded_once(
    tiny_model: Backbone, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = decode_image

    def counted(path: Path, *rest: Any) -> Decoded:
        read.append(path.as_posix())
        return original(path, *rest)

    monkeypatch.setattr(reading, "decode_image", counted)
    run(pairs(4), forward_of(tiny_model, 3))
    assert len(read) == len(set(read)) == 8


def test_report_tells_rate_and_where_the_time_went() -> None:
    clock = Clock()
    clock.seconds |= {"waiting for images": 1.0, "forward": 60.0, "writing": 39.0}
    expected = "1,200 images in 1 min 40 s, 12.0 images/s (waiting for images 1%, forward 60%, writing 39%)"
    assert clock.summary(1200) == expected


def test_bar_counts_every_view_of_every_image(
    tiny_model: Backbone, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(pairs(3), forward_of(tiny_model))
    assert "12/12" in capsys.readouterr().err


def test_seconds_of_each_part_are_those_that_were_spent(
    tiny_model: Backbone, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FeaturesWriter.put

    def slow(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        time.sleep(0.2)
        return put(writer, first, blocks)

    monkeypatch.setattr(FeaturesWriter, "put", slow)
    start = time.perf_counter()
    _, report = run(pairs(3), forward_of(tiny_model))
    spent = time.perf_counter() - start
    assert list(report.seconds) == ["waiting for images", "forward", "writing"]
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert report.seconds["writing"] >= 0.2
    assert sum(report.seconds.values()) <= spent


def test_what_a_precision_costs_is_told_once(
    tiny_model: Backbone, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    forward = forward_of(tiny_model, batch=2)
    forward.drift = Drift("bf16", 2, 0.5, 0.75)
    _, report = run(pairs(3), forward)
    assert report.drift == forward.drift
    told = "bf16 beside fp32, cosine of the first 2 images' features: lowest 0.500000, mean 0.750000\n"
    assert capsys.readouterr().out == told


# --- another thread writes ---


def test_features_are_written_in_order_by_one_other_thread_while_the_next_are_computed(
    tiny_model: Backbone, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, put = forward_of(tiny_model, batch=2), FeaturesWriter.put
    computed, by, written = threading.Event(), [], []

    def slow(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        by.append(threading.current_thread())
        written.append(blocks[0]["left_name"].tolist())
        if len(written) == 1:  # ends only when the second batch is computed
            assert computed.wait(20)
        return put(writer, first, blocks)

    class Told(type(forward)):  # type: ignore[misc]
        calls = 0

        def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
            outputs: list[NDArray[np.float32]] = super().__call__(pixels)
            Told.calls += 1
            if Told.calls == 2:
                computed.set()
            return outputs

    forward.__class__ = Told
    monkeypatch.setattr(FeaturesWriter, "put", slow)
    run(pairs(4), forward)
    assert written == [["a0.png"], ["a1.png"], ["a2.png"], ["a3.png"]]
    assert len(set(by)) == 1
    assert by[0] is not threading.current_thread()
    assert not by[0].is_alive()


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_disk_that_is_full_ends_the_extraction_with_nothing_left_behind(
    failing: int, tiny_model: Backbone, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put, calls, before = pairs(4), FeaturesWriter.put, [0], set(threading.enumerate())

    def full(writer: FeaturesWriter, first: int, blocks: Sequence[NDArray[Any]]) -> int:
        calls[0] += 1
        if calls[0] > failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(writer, first, blocks)

    monkeypatch.setattr(FeaturesWriter, "put", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run(root, forward_of(tiny_model, batch=2))
    assert caught.value.errno == errno.ENOSPC
    assert calls == [failing + 1]  # nothing is written behind what failed
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]
    del caught
    assert set(threading.enumerate()) <= before


class Breaking(nn.Module):
    """A network that does something else from the image number `after` on."""

    def __init__(self, backbone: nn.Module, after: int, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone, self.after, self.what, self.seen = backbone, after, what, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        output: Tensor = self.backbone(images if self.seen <= self.after else self.what(images))
        return output


def breaking(model: Backbone, after: int, what: Callable[[Tensor], Tensor]) -> Forward:
    """Breaks after so many images of one view, two at a time."""
    network = Breaking(load_backbone(model, find_weights(model, "random", 1)), 10**6, what)
    forward = Forward(LayerReader(network, ("backbone.layer1",)), model.preprocessing, 1, CPU, 2)
    network.seen, network.after = 0, after
    return forward


@pytest.mark.parametrize("after", [0, 2, 6])
def test_features_that_are_no_numbers_end_the_extraction_with_the_first_such_image(
    after: int, tiny_model: Backbone, pairs: Callable[..., Path]
) -> None:
    root = pairs(4)
    with pytest.raises(InputError) as caught:
        run(root, breaking(tiny_model, after, lambda images: images * float("nan")))
    told = f"a{after // 2}.png: the network gives values that are not finite numbers; are these its weights?"
    assert str(caught.value) == told
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]


def test_half_precision_that_overflows_is_named(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    forward = breaking(tiny_model, 2, lambda images: images * float("inf"))
    forward.precision, forward.ready = "fp16", True  # as on a GPU, which is not here
    with pytest.raises(InputError, match="not finite numbers in fp16, whose range is small; give --precision bf16"):
        run(pairs(4), forward)


@pytest.mark.parametrize("after", [0, 4])
def test_interrupt_ends_the_extraction_with_nothing_left_behind(
    after: int, tiny_model: Backbone, pairs: Callable[..., Path]
) -> None:
    def interrupted(_: Tensor) -> Tensor:
        raise KeyboardInterrupt

    root, before = pairs(9), set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as caught:
        run(root, breaking(tiny_model, after, interrupted))
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]
    del caught  # whose frames hold the readers
    assert set(threading.enumerate()) <= before


# --- gone on with ---


def cut_after(model: Backbone, batches: int, batch: int = 4, views: int = 2) -> Forward:
    """Is interrupted after so many batches."""
    forward = forward_of(model, batch, views)

    class Cut(type(forward)):  # type: ignore[misc]
        calls = 0

        def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
            Cut.calls += 1
            if Cut.calls > batches:
                raise KeyboardInterrupt
            outputs: list[NDArray[np.float32]] = super().__call__(pixels)
            return outputs

    forward.__class__ = Cut
    return forward


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("broken", [(), ("right/a1.png", "left/a4.png")])
@pytest.mark.parametrize("batches", [[0], [1], [3], [4], [1, 0, 1, 1]])
def test_interrupted_extraction_gone_on_with_gives_the_same_bytes(
    batches: list[int], broken: Sequence[str], tiny_model: Backbone, pairs: Callable[..., Path]
) -> None:
    root = pairs(9)
    for name in broken:
        (root / name).write_bytes(b"no image")
    _, expected = run(root, forward_of(tiny_model, 4), 2, True, root.parent / "whole.npy")
    assert expected.images == 4 * (9 - len(broken))
    for count in batches:
        with pytest.raises(KeyboardInterrupt):
            run(root, cut_after(tiny_model, count), 2, True, keep=True)
        assert not (root.parent / "f.npy").exists()
    _, report = run(root, forward_of(tiny_model, 4), 2, True, keep=True)
    assert (root.parent / "f.npy").read_bytes() == (root.parent / "whole.npy").read_bytes()
    assert (report.written, report.skipped) == (9 - len(broken), [Skipped(name, NO_FORMAT) for name in broken])
    assert names_in(root.parent) == ["f.npy", "pairs", "whole.npy"]


def test_what_is_done_is_not_read_again(
    tiny_model: Backbone,
    pairs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(6)
    with pytest.raises(KeyboardInterrupt):
        run(root, cut_after(tiny_model, 2), keep=True)
    read, original = [], decode_image

    def noted(path: Path, *rest: Any) -> Decoded:
        read.append(path.name)
        return original(path, *rest)

    monkeypatch.setattr(reading, "decode_image", noted)
    capsys.readouterr()
    _, report = run(root, forward_of(tiny_model, 4), keep=True)
    assert sorted(read) == ["a4.png", "a4.png", "a5.png", "a5.png"]
    assert (report.images, report.written) == (8, 6)
    bar = capsys.readouterr().err
    assert "16/24" in bar
    assert "24/24" in bar


def test_every_layers_file_is_gone_on_with(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root, forward = pairs(4), whole_layers(tiny_model, batch=2)
    expected = [rows.tobytes() for rows in run_layers(root, forward)]
    targets = [root.parent / f"{number}.npy" for number in range(3)]
    add = Staging.add
    added: list[str] = []

    def power_cut(staging: Staging, unit: str, done: Mapping[str, Any]) -> None:
        if len(added) == 2:
            raise RuntimeError("power cut")
        added.append(unit)
        add(staging, unit, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Staging, "add", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run_into(targets, find_images(root), forward, keep=True)
    report = run_into(targets, find_images(root), forward, keep=True)
    assert report.images == 8
    assert [np.load(target).tobytes() for target in targets] == expected


def test_broken_image_is_mended_and_the_same_call_goes_on(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(5)
    expected, _ = run(root, forward_of(tiny_model, 2))
    (root.parent / "f.npy").unlink()
    path = root / "left" / "a3.png"
    contents = path.read_bytes()
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"unreadable: left/a3\.png"):
        run(root, forward_of(tiny_model, 2), keep=True)
    path.write_bytes(contents)
    rows, report = run(root, forward_of(tiny_model, 2), keep=True)
    assert report.images == 8
    assert rows.tobytes() == expected.tobytes()


@pytest.mark.parametrize("skip", [False, True])
def test_image_that_changed_meanwhile_is_named_and_read_again_by_the_next_call(
    skip: bool, tiny_model: Backbone, pairs: Callable[..., Path], image: Callable[..., Path]
) -> None:
    root = pairs(5)
    before, _ = run(root, forward_of(tiny_model, 2))
    (root.parent / "f.npy").unlink()
    forward = forward_of(tiny_model, 2)

    def change(*_: object) -> None:
        image(root / "left" / "a0.png", (50, 60), 77)
        image(root / "right" / "a0.png", (50, 60), 78)

    handle = forward.backbone.register_forward_hook(change)
    with pytest.raises(InputError) as caught:
        run(root, forward, 2, skip, keep=True)
    what_to_do = "put back what is gone, and the same command reads these again"
    told = f"changed or gone since the start: left/a0.png, right/a0.png; {what_to_do}"
    assert str(caught.value) == f"{root}: {told}"
    handle.remove()
    rows, report = run(root, forward, 2, skip, keep=True)
    assert (report.images, report.written) == (4, 5)
    alone, _ = run(root, forward_of(tiny_model, 2), path=root.parent / "alone.npy")
    assert rows.tobytes() == alone.tobytes()
    assert not np.array_equal(rows["left"][0], before["left"][0])
    assert np.array_equal(rows["left"][1:5], before["left"][1:5])


def test_image_that_vanished_meanwhile_is_named(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(4)
    forward = forward_of(tiny_model, 2)
    forward.backbone.register_forward_hook(lambda *_: (root / "right" / "a0.png").unlink(missing_ok=True))
    with pytest.raises(InputError, match=r"changed or gone since the start: right/a0\.png; "):
        run(root, forward, keep=True)
    assert names_in(root.parent) == [".unfinished", "pairs"]
    assert names_in(root.parent / ".unfinished" / "f") == ["f.npy", "plan.json", "units.jsonl"]


def test_items_that_were_left_out_are_not_kept(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    dataset = find_images(pairs(5))
    assert kept(dataset, []).all()
    units = [Unit(range(2), [], [1], [], []), Unit(range(2, 5), [], [2, 4], [], [])]
    assert kept(dataset, units).tolist() == [True, False, False, True, False]


def test_batch_without_a_readable_image_is_done(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root = pairs(4)
    for number in (0, 1, 3):
        (root / "left" / f"a{number}.png").write_bytes(b"")
    rows, report = run(root, forward_of(tiny_model, 4), skip=True)
    assert report.written == 1
    assert report.skipped == [Skipped(f"left/a{number}.png", "an empty file") for number in (0, 1, 3)]
    assert rows["left_name"].tolist() == ["a2.png"] * 2


def test_what_a_precision_costs_is_known_to_the_next_call(tiny_model: Backbone, pairs: Callable[..., Path]) -> None:
    root, forward = pairs(4), cut_after(tiny_model, 1, batch=2)
    forward.drift = Drift("bf16", 2, 0.5, 0.75)
    with pytest.raises(KeyboardInterrupt):
        run(root, forward, keep=True)
    _, report = run(root, forward_of(tiny_model, 2), keep=True)
    assert report.drift == Drift("bf16", 2, 0.5, 0.75)
