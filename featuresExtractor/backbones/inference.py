"""The backbone on its device: pixels in, the features of every view out, as fast as the device can."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError, OutOfMemory
from common.machine.device import TYPES, empty_cache, float64_device, free_memory, require_free, tf32
from common.machine.gpu import gpu_memory, is_of_gpu, occupancy
from common.machine.shortage import names_memory
from featuresExtractor.backbones.activations import LayerReader, bytes_per_image, read_layers
from featuresExtractor.transforms import VIEWS, Preprocessing, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]

logger = logging.getLogger(__name__)

FLOAT = 4  # bytes
CPU_BUDGET = 2**28  # bytes of activations; more at a time was measured no faster on a CPU
UNTRIED = ("mps",)  # devices that nobody has tried these networks on: each is compared with the CPU first
CLOSE = 0.9999  # the lowest cosine of features that count as the same
ADVICE = "free some, or use --cpu where this is a GPU's"
NO_MEMORY = f"the memory does not hold the network and one image; {ADVICE}"


@dataclass(frozen=True)
class Drift:
    """How far features of a precision are from those of fp32: the cosines of `images` images, each view for
    itself."""

    precision: str
    images: int
    lowest: float
    mean: float

    def __str__(self) -> str:
        cosines = f"lowest {self.lowest:.6f}, mean {self.mean:.6f}"
        return f"{self.precision} beside fp32, cosine of the first {self.images:,} images' features: {cosines}"


class Forward:
    """Prepared pixels in, features of every view out, the layers joined or each alone.

    At most `batch` images at a time, fewer where memory asks for it. A GPU that runs out of memory all the same gets
    half as many from then on. BatchNorms are folded. In another precision than fp32 the first images go through the
    network in both, fewer at a time in fp32 where it takes more, and `drift` says how far the features are apart. On an
    Apple GPU the first batch is computed on the CPU too; InputError where the features differ.
    """

    def __init__(
        self,
        backbone: LayerReader,
        preprocessing: Preprocessing,
        views: int,
        device: torch.device,
        batch: int,
        joined: bool = True,
        precision: str = "fp32",
        compiled: bool = False,
    ):
        self.preprocessing, self.views, self.device, self.joined = preprocessing, VIEWS[:views], device, joined
        self.precision, self.type, self.compiled = precision, torch.float32, compiled
        self.drift: Drift | None = None
        self.ready, self.compared = False, device.type in UNTRIED
        with gpu_memory(NO_MEMORY, device), tf32(False):
            self._prepare(backbone, batch)

    def _prepare(self, backbone: LayerReader, batch: int) -> None:
        """The network to its device, folded; what it gives, and how many images fit."""
        self.backbone = backbone.to(memory_format=torch.channels_last)
        folding = float64_device(self.device)
        self.backbone.to(folding).fold(self._images(_noise(self.preprocessing.crop)).to(folding))
        self.backbone.to(self.device)
        self.network: Any = self.backbone
        probe = self._images(_noise(self.preprocessing.crop))
        self.shapes = [tuple(output.shape[1:]) for output in read_layers(self.backbone, probe, self.joined)]
        exact, needed = self._needed("fp32", probe), self._needed(self.precision, probe)
        require_free(max(exact, needed), self.device, "one image in the network takes", ADVICE)
        budget = self._budget()
        self.batch, self.at_once = (max(1, min(batch, budget // each)) for each in (needed, exact))

    def _needed(self, precision: str, probe: Tensor) -> int:
        """Bytes that one image takes in a precision. Its outputs, of each view, are in fp32 in all of them."""
        outputs = FLOAT * sum(math.prod(shape) for shape in self.shapes)
        inside = bytes_per_image(self.backbone, probe) * TYPES[precision].itemsize // FLOAT
        return inside + len(self.views) * outputs

    def _budget(self) -> int:
        """Bytes for activations: half of what is free."""
        half = free_memory(self.device) / 2
        return int(min(half, CPU_BUDGET) if self.device.type == "cpu" else half)

    def buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return memory for pixels; for a GPU where it can fetch them itself, if the system has such memory left."""
        pixels: NDArray[np.uint8] = _pinned(shape) if self.device.type == "cuda" else np.empty(shape, np.uint8)
        return pixels

    def __call__(self, pixels: Tensor) -> list[Features]:
        """Pixels (n, 3, H, W) uint8 -> for each output (views, n, ...) float32."""
        if self.ready:
            return self._all(pixels)
        first = pixels[: self.batch]
        if self.compared:
            self._compare(first)
        exact = self._all(first) if self.precision != "fp32" else []
        if not _are_finite(exact):
            raise InputError(f"the first {len(first):,} images: {not_finite('fp32')}")
        self._make_ready()
        try:
            outputs = self._all(pixels)
        except RuntimeError as error:
            if is_of_gpu(error) or (self.precision == "fp32" and not self.compiled):
                raise
            raise InputError(f"this network cannot be computed {self._asked()} here: {_first_line(error)}") from error
        if exact and _are_finite(outputs):  # else the caller, who knows the names, reports the first such image
            self.drift = _drift(self.precision, exact, [output[:, : len(first)] for output in outputs])
        return outputs

    def _compare(self, pixels: Tensor) -> None:
        """InputError where this device gives images other features than the CPU."""
        features, device = self._all(pixels), self.device
        try:
            self.device = torch.device("cpu")
            self.backbone.to(self.device)
            expected = self._all(pixels)
        finally:
            self.device = device
            self.backbone.to(self.device)
        check_same(expected, features)

    def nothing(self) -> list[Features]:
        """What no images give."""
        return [np.empty((len(self.views), 0, *shape), np.float32) for shape in self.shapes]

    def _asked(self) -> str:
        return " and ".join([f"in {self.precision}", *["compiled"] * self.compiled])

    def _make_ready(self) -> None:
        """From fp32 to the precision asked for, and from Python to code for this device."""
        self.type, self.ready, self.at_once = TYPES[self.precision], True, self.batch
        self.backbone = self.backbone.to(self.type)
        if self.compiled:
            torch.compiler.reset()  # or the networks compiled before count towards torch's limit, and this one is not
            self.network = torch.compile(self.backbone, dynamic=False)
        else:
            self.network = self.backbone

    def _all(self, pixels: Tensor) -> list[Features]:
        """All pixels, a batch at a time."""
        outputs = [np.empty((len(self.views), len(pixels), *shape), np.float32) for shape in self.shapes]
        done = 0
        while done < len(pixels):
            part = pixels[done : done + self.at_once]
            if self._try(part, [output[:, done : done + len(part)] for output in outputs]):
                done += len(part)
            else:
                self._halve()
        return outputs

    def _try(self, pixels: Tensor, outputs: list[Features]) -> bool:
        """Fills in the features, or is False without memory: here the error ends, and lets go of the tensors that it
        holds."""
        try:
            with tf32(self.ready and self.precision == "tf32"):
                self._fill(pixels, outputs)
        except (RuntimeError, MemoryError) as error:
            if not names_memory(error):
                raise
            return False
        return True

    def _fill(self, pixels: Tensor, outputs: list[Features]) -> None:
        """The features of each view; all of them are under way before the first is waited for."""
        images = self._images(self._padded(pixels))
        by_view = [read_layers(self.network, view(images), self.joined) for view in self.views]
        for number, layers in enumerate(by_view):
            for output, features in zip(outputs, layers, strict=True):
                output[number] = features[: len(pixels)].cpu().numpy()

    def _padded(self, pixels: Tensor) -> Tensor:
        """A whole batch, since compiled code is made for one number of images."""
        missing = self.batch - len(pixels) if self.ready and self.compiled else 0
        return torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)]) if missing else pixels

    def _images(self, pixels: Tensor) -> Tensor:
        """Bytes over the bus, normalised on the device, in the layout that convolutions are fastest in."""
        images = normalise(pixels.to(self.device), self.preprocessing).to(self.type)
        return images.contiguous(memory_format=torch.channels_last)

    def _halve(self) -> None:
        if self.at_once == 1:
            raise OutOfMemory(NO_MEMORY + occupancy(self.device))
        self.at_once //= 2
        empty_cache()
        if not self.ready and self.precision != "fp32":  # fp32 takes more than the precision that follows
            return
        self.batch = self.at_once
        logger.warning(f"the memory is full: going on with {self.batch} images at a time")


def _pinned(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Memory that a GPU can fetch from by itself, or any other where there is none of it left."""
    try:
        pinned: NDArray[np.uint8] = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
    except RuntimeError as error:
        logger.warning(f"note: no pinned memory ({_first_line(error)}): images are copied to the GPU more slowly")
        return np.empty(shape, np.uint8)
    return pinned


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _noise(size: int) -> Tensor:
    """An image (1, 3, size, size) that no layer can be blind to, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=generator)


def not_finite(precision: str) -> str:
    """Return what is wrong with features of a precision that are not finite numbers, and what to do."""
    fault = "the network gives values that are not finite numbers"
    if precision == "fp16":
        return f"{fault} in fp16, whose range is small; give --precision bf16 or fp32"
    return f"{fault}; are these its weights?"


def _are_finite(outputs: list[Features]) -> bool:
    return all(np.isfinite(output).all() for output in outputs)


def check_same(expected: list[Features], features: list[Features]) -> None:
    """InputError where features of a device are not those of the CPU, both (views, n, ...) for each output."""
    drift = _drift("fp32", expected, features)
    if not drift.lowest >= CLOSE:
        raise InputError(
            f"this GPU gives other features than the CPU: cosines of the first {drift.images:,} images down to "
            f"{drift.lowest:.6f}, {CLOSE} is allowed; use --cpu"
        )


def _drift(precision: str, exact: list[Features], outputs: list[Features]) -> Drift:
    """The cosines between two sets of features, each (views, n, ...)."""
    cosines = [_cosines(a, b) for a, b in zip(exact, outputs, strict=True)]
    return Drift(precision, exact[0].shape[1], float(np.min(cosines)), float(np.mean(cosines)))


def _cosines(exact: Features, output: Features) -> NDArray[np.float64]:
    """Of each image's features in one view: (views * n,)."""
    a, b = (
        features.reshape(features.shape[0] * features.shape[1], -1).astype(np.float64) for features in (exact, output)
    )
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)
    return cosines
