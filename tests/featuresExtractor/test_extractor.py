"""The one loop: features depend on the pictures alone, and what goes wrong is told or survived."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import InputError
from featuresExtractor import extractor
from featuresExtractor.activations import TappedBackbone, bytes_per_image, raw
from featuresExtractor.datasets import Skipped, find_images, read_item
from featuresExtractor.embeddings import FeaturesWriter, row_type
from featuresExtractor.extractor import Forward, Report, extract
from featuresExtractor.models import Model, find_model
from featuresExtractor.weights import find_weights, load_backbone

CPU = torch.device("cpu")
WIDTH = 32 + 192 + 96


class Cramped(nn.Module):
    """A network on a GPU whose memory holds `most` pictures."""

    def __init__(self, backbone: nn.Module, most: int) -> None:
        super().__init__()
        self.backbone, self.most = backbone, most
        self.seen: list[int] = []

    def get_submodule(self, target: str) -> nn.Module:
        return self.backbone.get_submodule(target)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        output: Tensor = self.backbone(images)
        return output


def forward_of(model: Model, batch: int = 64, views: int = 2, most: int | None = None) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    network = backbone if most is None else Cramped(backbone, most)
    return Forward(TappedBackbone(network, tuple(model.layers)), model.preprocessing, views, CPU, batch)


def pixels_of(model: Model, count: int) -> Tensor:
    crop = model.preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, crop, crop), dtype=torch.uint8, generator=generator)


def run(
    root: Path, forward: Forward, workers: int = 2, skip: bool = False, path: Path | None = None
) -> tuple[NDArray[Any], Report]:
    """Extracts the folder `root`; returns the rows of the features file, and the report."""
    dataset, target = find_images(root), path or root.parent / "f.npy"
    row = row_type(dataset.sides, forward.shapes[0], 9)
    with FeaturesWriter(target, row, len(dataset), len(forward.views)) as writer:
        report = extract(dataset, forward, [writer], workers, skip)
        writer.finish()
    return np.load(target), report


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0"])
def test_second_view_is_a_second_pass_over_the_mirror_image_bit_for_bit(name: str, tiny_model: Model) -> None:
    model = tiny_model if name == "tiny" else find_model(name)
    pixels = pixels_of(model, 3)
    ((original, flipped),) = forward_of(model, views=2)(pixels)
    ((second_pass,),) = forward_of(model, views=1)(pixels.flip(-1))
    assert np.array_equal(flipped, second_pass)
    assert not np.allclose(original, flipped, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 2048])
def test_batch_size_does_not_change_features(batch: int, tiny_model: Model) -> None:
    pixels = pixels_of(tiny_model, 7)
    (features,) = forward_of(tiny_model, batch)(pixels)
    assert (features.shape, features.dtype.name) == ((2, 7, WIDTH), "float32")
    forward = forward_of(tiny_model)
    one_by_one = np.concatenate([forward(pixels[n : n + 1])[0] for n in range(7)], axis=1)
    assert np.allclose(features, one_by_one, atol=1e-6)


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (1, 4), (3, 2), (4, 1), (2048, 8)])
def test_file_is_the_same_whatever_batch_size_and_workers(
    batch: int, workers: int, tiny_model: Model, pairs: Callable[..., Path]
) -> None:
    root = pairs(5)
    reference, _ = run(root, forward_of(tiny_model, 64), 2)
    rows, report = run(root, forward_of(tiny_model, batch), workers)
    assert report.written == 5
    assert (rows["left_name"] == reference["left_name"]).all()
    assert (rows["view"] == reference["view"]).all()
    for side in ("left", "right"):
        assert np.allclose(rows[side], reference[side], atol=1e-6)


def test_each_row_holds_its_own_pictures(tiny_model: Model, pairs: Callable[..., Path]) -> None:
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


def test_memory_bounds_the_batch(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = forward_of(tiny_model)
    probe = torch.zeros(1, 3, 32, 32)
    need = bytes_per_image(forward.backbone, probe)
    monkeypatch.setattr(extractor, "CPU_BUDGET", 5 * need + need // 2)
    assert [forward_of(tiny_model, batch).batch for batch in (1, 4, 5, 6, 2048)] == [1, 4, 5, 5, 5]
    monkeypatch.setattr(extractor, "CPU_BUDGET", need // 2)
    assert forward_of(tiny_model, 2048).batch == 1


@pytest.mark.parametrize("most", [1, 3, 5])
def test_gpu_out_of_memory_halves_the_batch_and_goes_on_with_the_same_result(
    most: int, tiny_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = pixels_of(tiny_model, 11)
    (reference,) = forward_of(tiny_model)(pixels)
    forward = forward_of(tiny_model, batch=8, most=most)
    assert np.allclose(forward(pixels)[0], reference, atol=1e-6)
    assert forward.batch == {1: 1, 3: 2, 5: 4}[most]
    assert f"the GPU ran out of memory: going on with {forward.batch} pictures at a time" in capsys.readouterr().err
    assert isinstance(forward.backbone.backbone, Cramped)
    forward.backbone.backbone.seen.clear()
    forward(pixels)
    assert max(forward.backbone.backbone.seen) == forward.batch  # what was learnt is kept


def test_memory_that_runs_out_later_loses_no_pair(tiny_model: Model, pairs: Callable[..., Path]) -> None:
    root = pairs(6)
    reference, _ = run(root, forward_of(tiny_model, 4))
    forward = forward_of(tiny_model, 4, most=4)
    network = forward.backbone.backbone
    assert isinstance(network, Cramped)
    network.register_forward_hook(lambda *_: setattr(network, "most", 4 if len(network.seen) < 6 else 1))
    rows, _ = run(root, forward)
    assert forward.batch == 1
    assert np.allclose(rows["left"], reference["left"], atol=1e-6)
    assert np.allclose(rows["right"], reference["right"], atol=1e-6)


NO_ROOM = "the GPU's memory does not hold the network and one picture; use --cpu"


def test_memory_too_small_for_one_picture_is_told(tiny_model: Model) -> None:
    with pytest.raises(InputError) as caught:
        forward_of(tiny_model, most=0)
    assert str(caught.value) == NO_ROOM
    forward = forward_of(tiny_model, most=1)
    assert isinstance(forward.backbone.backbone, Cramped)
    forward.backbone.backbone.most = 0
    with pytest.raises(InputError) as caught:
        forward(pixels_of(tiny_model, 2))
    assert str(caught.value) == NO_ROOM


# --- each layer on its own ---


def whole_layers(model: Model, batch: int = 64, views: int = 2) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    return Forward(TappedBackbone(backbone, tuple(model.layers), raw), model.preprocessing, views, CPU, batch, False)


def run_layers(root: Path, forward: Forward, skip: bool = False) -> list[NDArray[Any]]:
    """Extracts the folder `root` into a file for each output; returns the rows of each."""
    dataset = find_images(root)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                FeaturesWriter(root.parent / f"{number}.npy", row_type(dataset.sides, shape, 9), len(dataset), 2)
            )
            for number, shape in enumerate(forward.shapes)
        ]
        extract(dataset, forward, writers, 2, skip)
        for writer in writers:
            writer.finish()
    return [np.load(writer.path) for writer in writers]


def test_outputs_are_each_layer_or_all_of_them_joined(tiny_model: Model) -> None:
    assert whole_layers(tiny_model).shapes == [(32, 8, 8), (192, 2, 2), (96, 1, 1)]
    assert forward_of(tiny_model).shapes == [(WIDTH,)]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_every_layer_is_given_for_every_view_and_picture(batch: int, tiny_model: Model) -> None:
    pixels = pixels_of(tiny_model, 5)
    outputs = whole_layers(tiny_model, batch)(pixels)
    assert [output.shape for output in outputs] == [(2, 5, 32, 8, 8), (2, 5, 192, 2, 2), (2, 5, 96, 1, 1)]
    assert {output.dtype.name for output in outputs} == {"float32"}
    for view, images in enumerate((pixels, pixels.flip(-1))):
        for found, (expected,) in zip(outputs, whole_layers(tiny_model, views=1)(images), strict=True):
            assert np.allclose(found[view], expected, atol=1e-5)


def test_gpu_out_of_memory_loses_nothing_of_any_layer(tiny_model: Model) -> None:
    pixels = pixels_of(tiny_model, 7)
    reference = whole_layers(tiny_model)(pixels)
    forward = whole_layers(tiny_model, batch=4)
    forward.backbone.backbone = Cramped(forward.backbone.backbone, 2)
    for found, expected in zip(forward(pixels), reference, strict=True):
        assert np.allclose(found, expected, atol=1e-5)
    assert forward.batch == 2


def test_each_row_of_each_layer_holds_its_own_pictures(tiny_model: Model, pairs: Callable[..., Path]) -> None:
    root = pairs(3)
    forward = whole_layers(tiny_model, batch=2)
    for layer, rows in enumerate(run_layers(root, forward)):
        for number in range(3):
            item = read_item(find_images(root), number, tiny_model.preprocessing)
            assert item.pixels is not None
            expected = forward(torch.from_numpy(item.pixels))[layer]
            for view in range(2):
                row = rows[3 * view + number]
                assert (row["left_name"], row["right_name"], row["view"]) == (f"a{number}.png", f"a{number}.png", view)
                assert np.array_equal(row["left"], expected[view, 0])
                assert np.array_equal(row["right"], expected[view, 1])


def test_no_more_than_one_batch_of_whole_layers_is_held(
    tiny_model: Model, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[NDArray[Any]]] = []
    alive, rows = [], []
    append = FeaturesWriter.append

    def watched(writer: FeaturesWriter, blocks: Sequence[NDArray[Any]]) -> None:
        alive.append(sum(block() is not None for block in held))
        held.extend(map(weakref.ref, blocks))
        rows.append([len(block) for block in blocks])
        append(writer, blocks)

    monkeypatch.setattr(FeaturesWriter, "append", watched)
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


def test_outputs_of_earlier_batches_are_let_go_of(tiny_model: Model, pairs: Callable[..., Path]) -> None:
    backbone = TappedBackbone(
        load_backbone(tiny_model, find_weights(tiny_model, "random", 1)), ("layer1", "layer4"), raw
    )
    forward = Watched(backbone, tiny_model.preprocessing, 2, CPU, 2, False)
    run_layers(pairs(6), forward)
    assert len(forward.alive) == 6
    assert max(forward.alive) <= 2  # those of the one batch that was written last


# --- pictures that cannot be read ---


def test_broken_picture_ends_the_extraction_with_its_name(tiny_model: Model, pairs: Callable[..., Path]) -> None:
    root = pairs(4)
    (root / "right" / "a2.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        run(root, forward_of(tiny_model))
    assert str(caught.value) == (
        "unreadable: right/a2.png (cannot identify image file); "
        "mend or remove it, or leave such pairs out with --on-error skip"
    )
    assert [path.name for path in root.parent.iterdir()] == ["pairs"]


@pytest.mark.parametrize("batch", [1, 2, 4, 64])
@pytest.mark.parametrize("broken", [["left/a0.png"], ["right/a4.png"], ["right/a1.png", "left/a2.png"]])
def test_broken_picture_is_skipped_with_its_partner_when_asked_for(
    broken: list[str], batch: int, tiny_model: Model, pairs: Callable[..., Path]
) -> None:
    root = pairs(5)
    reference, _ = run(root, forward_of(tiny_model))
    for name in broken:
        (root / name).write_bytes(b"no picture")
    rows, report = run(root, forward_of(tiny_model, batch), skip=True)
    names = {Path(name).name for name in broken}
    kept = reference[[name not in names for name in reference["left_name"]]]
    assert report.written == 5 - len(names) == len(rows) // 2
    assert report.skipped == [Skipped(name, "cannot identify image file") for name in broken]
    for field in ("left_name", "right_name", "view"):
        assert (rows[field] == kept[field]).all()
    for side in ("left", "right"):
        assert np.allclose(rows[side], kept[side], atol=1e-6)


def test_every_picture_is_decoded_once(
    tiny_model: Model, pairs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featuresExtractor import datasets

    read: list[str] = []
    original = datasets.read_image

    def counted(path: Path, *rest: Any) -> NDArray[np.uint8]:
        read.append(path.as_posix())
        return original(path, *rest)

    monkeypatch.setattr(datasets, "read_image", counted)
    run(pairs(4), forward_of(tiny_model, 3))
    assert len(read) == len(set(read)) == 8


def test_report_tells_rate_and_where_the_time_went() -> None:
    report = Report(seconds={"waiting for images": 1.0, "forward": 60.0, "writing": 39.0})
    expected = "1,200 pictures in 1 min 40 s, 12.0 images/s (waiting for images 1%, forward 60%, writing 39%)"
    assert report.summary(1200) == expected


def test_bar_counts_every_view_of_every_picture(
    tiny_model: Model, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(pairs(3), forward_of(tiny_model))
    assert "12/12" in capsys.readouterr().err
