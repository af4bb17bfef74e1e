"""The backbone on its device: pixels in, the features of every view out, as fast as the device can."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError, OutOfMemory
from common.machine.device import TYPES, empty_cache, float64_device, free_memory, require_free, tf32, uploaded
from common.machine.gpu import fills_gpu, gpu_memory, occupancy
from common.machine.shortage import names_memory
from featuresExtractor.backbones.activations import LayerReader, bytes_per_image, read_layers
from featuresExtractor.backbones.drift import Drift, are_finite, check_same, drift_of, not_finite
from featuresExtractor.transforms import VIEWS, Preprocessing, normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Features = NDArray[np.float32]

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

FLOAT = 4  # bytes
LAYOUTS = {"channels last": torch.channels_last, "channels first": torch.contiguous_format}
FASTER = 0.95  # of the time that the first layout takes, from which on the second is used
TIMED, TIMES = 64, 3  # images at most that a layout is timed with; how often
BATCH, GPU_BATCH = 64, 256  # images at a time by default; a GPU has more to do in parallel
CPU_BUDGET = 2**28  # bytes of activations; more at a time was measured no faster on a CPU
UNTRIED = ("mps",)  # devices that nobody has tried these networks on: each is compared with the CPU first
ADVICE = "free some, or use --cpu where this is a GPU's"
NO_MEMORY = f"the memory does not hold the network and one image; {ADVICE}"


class Forward:
    """Prepared pixels in, features of every view out, the layers joined or each alone.

    At most `batch` images at a time, fewer where memory asks for it. A GPU that runs out of memory all the same gets
    half as many from then on. BatchNorms are folded. In another precision than fp32 the first images go through the
    network in both, fewer at a time in fp32 where it takes more, and `drift` says how far the features are apart. On an
    Apple GPU the first batch is computed on the CPU too; InputError where the features differ. The `layout` of images
    and weights, one of LAYOUTS, is channels last; on a GPU in fp32 the faster one of two, unless it is given.
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
        layout: str | None = None,
    ):
        self.preprocessing, self.views, self.device, self.joined = preprocessing, VIEWS[:views], device, joined
        self.precision, self.type, self.compiled = precision, torch.float32, compiled
        self.layout = layout or next(iter(LAYOUTS))
        self.drift: Drift | None = None
        self.ready, self.compared = False, device.type in UNTRIED
        with gpu_memory(NO_MEMORY, device), tf32(False):
            self._prepare(backbone, batch)
            if layout is None and device.type == "cuda" and precision == "fp32":
                self.layout = self._faster()
            self.backbone.to(memory_format=LAYOUTS[self.layout])

    def _prepare(self, backbone: LayerReader, batch: int) -> None:
        """The network to its device, folded; what it gives, and how many images fit."""
        self.backbone = backbone.to(memory_format=LAYOUTS[self.layout])
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

    def _faster(self) -> str:
        """The layout in which some images go through the network in less time; the first where the memory is short."""
        images = _noise(self.preprocessing.crop).expand(min(self.batch, TIMED), -1, -1, -1)
        first, second = (self._try(partial(self._milliseconds, layout, images)) for layout in LAYOUTS)
        return list(LAYOUTS)[bool(first and second and second < FASTER * first)]

    def _milliseconds(self, layout: str, pixels: Tensor) -> float:
        """The shortest time of some in which images go through the network in a layout, after one that does not
        count."""
        self.layout, times, event = layout, list[float](), partial(torch.cuda.Event, enable_timing=True)
        self.backbone.to(memory_format=LAYOUTS[layout])
        images = self._images(pixels)
        for _ in range(1 + TIMES):
            start, end = event(), event()
            start.record()
            read_layers(self.network, images, self.joined)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return min(times[1:])

    def _needed(self, precision: str, probe: Tensor) -> int:
        """Bytes that one image takes in a precision. Its outputs, of each view, are in fp32 in all of them."""
        outputs = FLOAT * sum(math.prod(shape) for shape in self.shapes)
        inside = bytes_per_image(self.backbone, probe) * TYPES[precision].itemsize // FLOAT
        return inside + (1 + self.overlaps) * len(self.views) * outputs

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
        if not are_finite(exact):
            raise InputError(f"the first {len(first):,} images: {not_finite('fp32')}")
        self._make_ready()
        try:
            outputs = self._all(pixels)
        except RuntimeError as error:
            plain = self.precision == "fp32" and not self.compiled
            if plain or fills_gpu(error) or isinstance(error, torch.AcceleratorError):
                raise
            raise InputError(f"this network cannot be computed {self._asked()} here: {_first_line(error)}") from error
        if exact and are_finite(outputs):  # else the caller, who knows the names, reports the first such image
            self.drift = drift_of(self.precision, exact, [output[:, : len(first)] for output in outputs])
        return outputs

    @property
    def overlaps(self) -> bool:
        """Whether `start` returns before the features are computed."""
        return self.device.type == "cuda"

    def start(self, pixels: Tensor) -> Callable[[], list[Features]]:
        """Begin as `__call__`, and return what waits for the features. A GPU has read the pixels then, and may be given
        the next ones before its features are fetched."""
        if self.overlaps and self.ready and len(pixels) <= self.batch:
            if sent := self._try(partial(self._sent, pixels)):
                return partial(self._received, *sent)
            self._halve()
        outputs = self(pixels)
        return lambda: outputs

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
        parts: list[list[Features]] = []
        done = 0
        while done < len(pixels):
            part = pixels[done : done + self.at_once]
            if features := self._try(partial(self._fill, part)):
                parts.append(features)
                done += len(part)
            else:
                self._halve()
        return parts[0] if len(parts) == 1 else [np.concatenate(each, axis=1) for each in zip(*parts, strict=True)]

    def _try(self, work: Callable[[], Result]) -> Result | None:
        """What work returns, or None without memory: here the error ends, and lets go of the tensors that it holds."""
        try:
            with tf32(self.ready and self.precision == "tf32"):
                return work()
        except (RuntimeError, MemoryError) as error:
            if not (names_memory(error) or fills_gpu(error)):
                raise
            return None

    def _fill(self, pixels: Tensor) -> list[Features]:
        """The features of each view; all of them are under way before the first is waited for."""
        return self._fetched(self._computed(pixels), len(pixels))

    def _computed(self, pixels: Tensor) -> list[list[Tensor]]:
        """For each view the layers, on the device, which may still be computing them."""
        images = self._images(self._padded(pixels))
        return [read_layers(self.network, view(images), self.joined) for view in self.views]

    def _fetched(self, by_view: list[list[Tensor]], count: int) -> list[Features]:
        """For each output the features (views, count, ...) on the host."""
        outputs = [np.empty((len(self.views), count, *shape), np.float32) for shape in self.shapes]
        for number, layers in enumerate(by_view):
            for output, features in zip(outputs, layers, strict=True):
                output[number] = features[:count].cpu().numpy()
        return outputs

    def _sent(self, pixels: Tensor) -> tuple[list[list[Tensor]], Any]:
        """For each view the layers as they arrive on the host, and the moment when all of them have."""
        by_view = self._computed(pixels)
        arriving = [[each[: len(pixels)].to("cpu", non_blocking=True) for each in layers] for layers in by_view]
        event: Any = torch.cuda.Event
        arrived = event()  # here, since a copy that is asked for after the next batch waits for that one too
        arrived.record()
        return arriving, arrived

    def _received(self, arriving: list[list[Tensor]], arrived: Any) -> list[Features]:
        arrived.synchronize()
        return self._fetched(arriving, len(arriving[0][0]))

    def _padded(self, pixels: Tensor) -> Tensor:
        """A whole batch, since compiled code is made for one number of images."""
        missing = self.batch - len(pixels) if self.ready and self.compiled else 0
        return torch.cat([pixels, pixels[:1].expand(missing, -1, -1, -1)]) if missing else pixels

    def _images(self, pixels: Tensor) -> Tensor:
        """Bytes over the bus, normalised on the device, in the layout of the weights."""
        images = normalise(uploaded(pixels, self.device), self.preprocessing).to(self.type)
        return images.contiguous(memory_format=LAYOUTS[self.layout])

    def _halve(self) -> None:
        if self.at_once == 1:
            raise OutOfMemory(NO_MEMORY + occupancy(self.device))
        self.at_once //= 2
        empty_cache()
        if not self.ready and self.precision != "fp32":  # fp32 takes more than the precision that follows
            return
        self.batch = self.at_once
        logger.warning(f"the memory is full: going on with {self.batch} images at a time")


def default_batch(device: torch.device) -> int:
    """Return how many images at a time a device is given, if nobody says otherwise and its memory holds them."""
    return GPU_BATCH if device.type == "cuda" else BATCH


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
