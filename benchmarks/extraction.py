"""Measure extraction from image files to the features file: images a second."""

from __future__ import annotations

import copy
import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks import plain
from benchmarks.table import Apart, Row, median_seconds
from common.machine.device import tf32
from common.machine.system import cores
from common.storage.staging import Staging
from featuresExtractor.backbones.activations import LayerReader
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.inference import LAYOUTS, Forward
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.weights.loading import find_weights, load_backbone
from featuresExtractor.extractor import extract_units
from featuresExtractor.features.features_file import FeaturesWriter, row_type
from featuresExtractor.features.reader import read_pairs
from featuresExtractor.images.folders.dataset import Dataset, find_images
from featuresExtractor.units import missing_units

SIZE = (200, 245)  # of the images of TLL
SAME = 0.999999  # the least cosine between the plain way's features and ours


@dataclass(frozen=True)
class Sizes:
    """What is extracted: pairs of images, by which model, in which precisions, how many at a time."""

    model: str = "clip_rn50x4"
    pairs: int = 8
    batch: int = 8
    precisions: tuple[str, ...] = ("fp32", "bf16")
    compiled: bool = False


def measure(sizes: Sizes, device: torch.device, repeats: int) -> list[Row]:
    """Return a row for each precision, beside the plain way (fp32) and the network alone on pixels in memory."""
    model, network = _network(sizes.model)
    with tempfile.TemporaryDirectory() as name, Apart() as apart:
        folder = Path(name)
        draw_pairs(folder, sizes.pairs)
        dataset = find_images(folder)
        paths = [path for item in dataset.items for path in item]
        check_same(model, network, dataset, device)
        ways: dict[str, Callable[[], object]] = {}
        some = paths[: sizes.batch]  # the plain way's rate does not depend on their number
        ways["plain"] = partial(apart.run, _plain, sizes, some, device)
        for precision in sizes.precisions:
            ours = _forward(model, network, device, sizes, precision)
            ours(_pixels(ours))  # the first batch, which is also run in fp32, or compiled
            ways[precision] = partial(_extract, ours, dataset, folder)
            ways[f"{precision} limit"] = partial(_alone, ours, 2 * len(paths))
            _alone(ours, ours.batch)  # compiled too, where that is asked for
        ways["plain"]()  # builds the network there
        seconds = median_seconds(ways, repeats)
    rates = {way: 2 * len(some if way == "plain" else paths) / taken for way, taken in seconds.items()}
    return [_row(sizes, precision, rates) for precision in sizes.precisions]


@cache
def _network(name: str) -> tuple[Backbone, nn.Module]:
    """Return a model with random weights."""
    model = resolve(name, [], None)
    return model, load_backbone(model, find_weights(model, "random", 0))


def _plain(sizes: Sizes, paths: list[Path], device: torch.device) -> None:
    """Extract all images in the plain way."""
    model, network = _network(sizes.model)
    with tf32(False):
        plain.features(paths, network.to(device), list(model.layers), model.preprocessing, sizes.batch)


def _row(sizes: Sizes, precision: str, rates: dict[str, float]) -> Row:
    label = f"{precision}, compiled" if sizes.compiled else precision
    plain_way, ours, limit = (rates[name] for name in ("plain", precision, f"{precision} limit"))
    wanted = 2.5 if precision == "bf16" else None
    return Row(f"extraction, {sizes.model}, {label}", "images/s", plain_way, ours, limit, wanted, 0.9)


def draw_pairs(folder: Path, pairs: int) -> None:
    """Write smooth images of random colours as JPEG files."""
    generator = np.random.default_rng(0)
    for side in ("left", "right"):
        (folder / side).mkdir()
        for number in range(pairs):
            colours = Image.fromarray(generator.integers(0, 256, (15, 12, 3), dtype=np.uint8))
            colours.resize(SIZE, Image.Resampling.BICUBIC).save(folder / side / f"{number:05d}.jpg", quality=92)


def _forward(model: Backbone, network: nn.Module, device: torch.device, sizes: Sizes, precision: str) -> Forward:
    backbone = LayerReader(copy.deepcopy(network), tuple(model.layers))
    return Forward(backbone, model.preprocessing, 2, device, sizes.batch, precision=precision, compiled=sizes.compiled)


def _pixels(forward: Forward) -> torch.Tensor:
    crop = forward.preprocessing.crop
    return torch.randint(256, (forward.batch, 3, crop, crop), dtype=torch.uint8)


def _extract(forward: Forward, dataset: Dataset, folder: Path) -> Path:
    """Extract in our way, from image files to the features file, without its bar."""
    target = folder / "features.npy"
    row = row_type(dataset.sides, forward.shapes[0], dataset.longest_name)
    staging, parts = Staging(folder), missing_units(len(dataset), max(1, forward.batch // len(dataset.sides)), [])
    staging.begin({}, overwrite=True)
    with (
        FeaturesWriter(target, row, len(dataset), len(forward.views)) as writer,
        redirect_stderr(io.StringIO()),
        redirect_stdout(io.StringIO()),
    ):
        for _ in extract_units(
            dataset, forward, [writer], parts, cores(), record=lambda unit: staging.add(unit.key, unit.record())
        ):
            pass
        writer.seal()
    staging.remove()
    return target


def _alone(forward: Forward, images: int) -> None:
    """Run the network of a `forward` on as many random images in memory; nothing is read or written."""
    network = forward.backbone.backbone
    crop = forward.preprocessing.crop
    numbers = torch.randn(forward.batch, 3, crop, crop, device=forward.device, dtype=forward.type)
    numbers = numbers.contiguous(memory_format=LAYOUTS[forward.layout])
    run = torch.compile(network, dynamic=False) if forward.compiled else network
    with torch.inference_mode(), tf32(forward.precision == "tf32"):
        for start in range(0, images, forward.batch):
            run(numbers if forward.compiled else numbers[: images - start])
        if forward.device.type == "cuda":
            torch.cuda.synchronize()


def check_same(model: Backbone, network: nn.Module, dataset: Dataset, device: torch.device) -> None:
    """End the benchmark when the features of the first pairs differ between the two ways."""
    few = Dataset(dataset.root, dataset.sides, dataset.items[:2])
    paths = [path for item in few.items for path in item]
    reference = copy.deepcopy(network).to(device)
    expected = plain.features(paths, reference, list(model.layers), model.preprocessing, 4)  # views, images, D
    with tempfile.TemporaryDirectory() as name:
        ours = _forward(model, network, device, Sizes(), "fp32")
        pairs = read_pairs(_extract(ours, few, Path(name)))
    images = np.stack([pairs.left, pairs.right], axis=1).reshape(expected.shape).astype(np.float64)
    lengths = np.linalg.norm(images, axis=-1) * np.linalg.norm(expected, axis=-1)
    lowest = ((images * expected).sum(-1) / lengths).min()
    if not lowest >= SAME:
        sys.exit(f"the features of the two ways differ: cosine {lowest:.8f}")
