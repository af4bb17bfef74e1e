"""The one loop: pictures are read ahead, go through the backbone once a view, and their features are written."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.console import duration
from common.errors import InputError, listed, printable
from common.progress import progress
from featuresExtractor.activations import TappedBackbone, bytes_per_image, tapped
from featuresExtractor.datasets import Dataset, Item, Skipped, in_batches, read_ahead
from featuresExtractor.embeddings import FeaturesWriter, make_rows
from featuresExtractor.transforms import VIEWS, Preprocessing, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU_BUDGET = 2**27  # bytes of activations; more at a time leave the caches and were measured slower on a CPU
NO_ROOM = "the GPU's memory does not hold the network and one picture; use --cpu"


class Forward:
    """The backbone on its device: prepared pixels in, features of every view out, the layers joined or each alone.

    At most `batch` pictures at a time, fewer where memory asks for it. A GPU that runs out of memory all the same gets
    half as many from then on.
    """

    def __init__(
        self,
        backbone: TappedBackbone,
        preprocessing: Preprocessing,
        views: int,
        device: torch.device,
        batch: int,
        joined: bool = True,
    ):
        self.preprocessing, self.views, self.device, self.joined = preprocessing, VIEWS[:views], device, joined
        try:
            self.backbone = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            probe = self._images(torch.zeros(1, 3, preprocessing.crop, preprocessing.crop, dtype=torch.uint8))
            self.shapes = [tuple(output.shape[1:]) for output in tapped(self.backbone, probe, joined)]
            self.batch = max(1, min(batch, self._budget() // bytes_per_image(self.backbone, probe)))
        except torch.OutOfMemoryError as error:
            raise InputError(NO_ROOM) from error

    def _budget(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0] // 2 if self.device.type == "cuda" else CPU_BUDGET

    def _images(self, pixels: Tensor) -> Tensor:
        """Bytes over the bus, normalised on the device, in the layout that convolutions are fastest in."""
        images = normalise(pixels.to(self.device), self.preprocessing)
        return images.contiguous(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        """Pixels (n, 3, H, W) uint8 -> for each output (views, n, ...) float32."""
        parts = []
        while len(pixels):
            part = self._try(pixels[: self.batch])
            if part is None:
                self._halve()
            else:
                parts.append(part)
                pixels = pixels[part[0].shape[1] :]
        return [np.concatenate(output, axis=1) for output in zip(*parts, strict=True)]

    def _try(self, pixels: Tensor) -> list[NDArray[np.float32]] | None:
        """The features, or None without memory: here the error ends, and lets go of the tensors that it holds."""
        try:
            return self._views(pixels)
        except torch.OutOfMemoryError:
            return None

    def _views(self, pixels: Tensor) -> list[NDArray[np.float32]]:
        images = self._images(pixels)
        by_view = [tapped(self.backbone, view(images), self.joined) for view in self.views]
        return [torch.stack(output).cpu().numpy() for output in zip(*by_view, strict=True)]

    def _halve(self) -> None:
        if self.batch == 1:
            raise InputError(NO_ROOM)
        self.batch //= 2
        torch.cuda.empty_cache()
        tqdm.write(f"the GPU ran out of memory: going on with {self.batch} pictures at a time", file=sys.stderr)


@dataclass
class Report:
    """What an extraction did: items written, what was left out, and the seconds spent on each part."""

    written: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"waiting for images": 0.0, "forward": 0.0, "writing": 0.0}
    )

    def summary(self, pictures: int) -> str:
        """One line: pictures, time, rate, and where the time went."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
        return f"{pictures:,} pictures in {duration(total)}, {pictures / total:.1f} images/s ({shares})"


class _Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def extract(
    dataset: Dataset, forward: Forward, writers: Sequence[FeaturesWriter], workers: int, skip: bool = False
) -> Report:
    """Writes the features of every item of `dataset`, in order, each output to its file; returns what was done.

    An unreadable picture is an InputError that names it; with `skip` its whole item is left out and reported.
    """
    sides = len(dataset.sides)
    size = max(1, forward.batch // sides)
    report, clock = Report(), _Clock()
    items = read_ahead(dataset, forward.preprocessing, workers, ahead=size + 2 * workers)
    pictures = sides * len(forward.views)
    with progress(len(dataset) * pictures, "extract", "images") as bar:
        for batch in in_batches(items, size):
            readable = _readable(batch, report, skip)
            report.seconds["waiting for images"] += clock.lap()
            if readable:
                outputs = forward(
                    torch.from_numpy(np.concatenate([item.pixels for item in readable if item.pixels is not None]))
                )
                report.seconds["forward"] += clock.lap()
                names = [[path.name for path in dataset.items[item.index]] for item in readable]
                for features, writer in zip(outputs, writers, strict=True):
                    _check_finite(features, [name for item in names for name in item])
                    _append(writer, names, features)
                report.written += len(readable)
            report.seconds["writing"] += clock.lap()
            bar.update(len(batch) * pictures)
    return report


def _check_finite(features: NDArray[np.float32], names: Sequence[str]) -> None:
    """InputError that names the first picture whose features (views, pictures, ...) are no numbers."""
    good = np.isfinite(features).reshape(len(features), len(names), -1).all(axis=(0, 2))
    if not good.all():
        name = printable(names[int(good.argmin())])
        raise InputError(f"{name}: the network gives values that are not finite numbers; are these its weights?")


def _append(writer: FeaturesWriter, names: Sequence[Sequence[str]], features: NDArray[np.float32]) -> None:
    """Rows of n items from the features (views, n * sides, ...) of their pictures."""
    by_item = features.reshape(len(features), len(names), -1, *features.shape[2:])
    writer.append([make_rows(writer.row, names, values, view) for view, values in enumerate(by_item)])


def _readable(batch: Sequence[Item], report: Report, skip: bool) -> list[Item]:
    """The items that could be read; the others are reported, or end the extraction."""
    faults = [fault for item in batch for fault in item.faults]
    if faults and not skip:
        told = listed(f"{fault.name} ({printable(fault.reason)})" for fault in faults)
        raise InputError(f"unreadable: {told}; mend or remove it, or leave such pairs out with --on-error skip")
    report.skipped += faults
    return [item for item in batch if item.pixels is not None]
