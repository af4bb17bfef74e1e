"""Images of a dataset, checked by their headers and read ahead by threads.

Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.machine.shortage import is_short
from common.progress import progress
from featuresExtractor.images.decode import check_image, decode_image, reason_of
from featuresExtractor.images.folders.dataset import Dataset, Remark, Skipped
from featuresExtractor.images.folders.scan import OUTSIDE
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.transforms import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

CHECKED = 64  # images that a thread checks at a time


def check_images(
    dataset: Dataset, preprocessing: Preprocessing, workers: int, links: bool = False, decoding: Decoding = STORED
) -> list[Skipped]:
    """Every image that cannot be read, as far as its header tells, and why. With `links` those may lead anywhere."""
    paths = [path for item in dataset.items for path in item]
    root = dataset.root.resolve()
    strange = {folder for folder in {path.parent for path in paths} if not folder.resolve().is_relative_to(root)}

    def fault(path: Path) -> str | None:
        try:
            leads_out = path.parent in strange or (path.is_symlink() and not path.resolve().is_relative_to(root))
            if leads_out and not links:
                return OUTSIDE
            check_image(path, preprocessing, decoding)
        except Exception as error:  # decoders raise whatever a broken file leads them to
            if is_short(error):  # of memory, which is no fault of the file
                raise
            return reason_of(error, path)
        return None

    parts = [paths[first : first + CHECKED] for first in range(0, len(paths), CHECKED)]
    faults = []
    with ThreadPoolExecutor(workers) as pool, progress(len(paths), "check", "images") as bar:
        for part, found in zip(parts, pool.map(lambda some: [fault(path) for path in some], parts), strict=True):
            faults += [Skipped(dataset.name(path), why) for path, why in zip(part, found, strict=True) if why]
            bar.update(len(part))
    return faults


def without(dataset: Dataset, faults: Sequence[Skipped]) -> Dataset:
    """The dataset without the items that a fault is of, which go to `skipped`."""
    bad = {fault.name for fault in faults}
    good = [not any(dataset.name(path) in bad for path in item) for item in dataset.items]
    found = replace(dataset, items=list(compress(dataset.items, good)), skipped=(*dataset.skipped, *faults))
    found.__dict__["states"] = list(
        compress(dataset.states, good)
    )  # those at the start, as a cached_property keeps them
    return found


@dataclass(frozen=True)
class Batch:
    """Consecutive items: their indices (`items`) and those that could be read (`indices`), the pixels of these
    (indices * sides, 3, crop, crop) uint8 with the channels last in memory, what could not be read and why, and remarks
    about the others.

    The pixels hold until the next batch is asked for."""

    items: range
    indices: list[int]
    pixels: Pixels
    faults: list[Skipped]
    remarks: list[Remark] = field(default_factory=list)


def read_item(
    dataset: Dataset, index: int, preprocessing: Preprocessing, pixels: Pixels, decoding: Decoding = STORED
) -> list[Skipped | Remark]:
    """Decode the images of one item into `pixels` (sides, 3, crop, crop), each once; return what could not be read, and
    remarks about the others."""
    found: list[Skipped | Remark] = []
    for path, target in zip(dataset.items[index], pixels, strict=True):
        try:
            decoded = decode_image(path, preprocessing, decoding)
            target[:] = decoded.pixels
            found += [Remark(dataset.name(path), text) for text in decoded.remarks]
        except Exception as error:  # as above
            if is_short(error):
                raise
            found.append(Skipped(dataset.name(path), reason_of(error, path)))
    return found


def read_batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    parts: Sequence[range],
    workers: int,
    allocate: Callable[[tuple[int, ...]], Pixels],
    decoding: Decoding = STORED,
) -> Generator[Batch, None, None]:
    """A batch for each of `parts`, in order, decoded by `workers` threads.

    They decode into a few batches' room that `allocate` gives once, and so are never far ahead of the consumer.
    """
    sides, crop, size = len(dataset.sides), preprocessing.crop, max(map(len, parts), default=1)
    ahead = min(len(parts), max(3, 1 + math.ceil(2 * workers / size)))
    rooms = [allocate((size, sides, crop, crop, 3)).transpose(0, 1, 4, 2, 3) for _ in range(ahead)]
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[list[Future[list[Skipped | Remark]]]] = deque()
        try:
            for number, part in enumerate(parts):
                for later in range(number + len(waiting), min(number + ahead, len(parts))):
                    room = rooms[later % ahead]
                    waiting.append(
                        [
                            pool.submit(read_item, dataset, index, preprocessing, room[slot], decoding)
                            for slot, index in enumerate(parts[later])
                        ]
                    )
                yield _finished(part, rooms[number % ahead], [future.result() for future in waiting.popleft()])
        finally:
            for future in chain.from_iterable(waiting):
                future.cancel()


def _finished(part: range, room: Pixels, found: list[list[Skipped | Remark]]) -> Batch:
    """A batch, closed up where items could not be read."""
    faults = [[one for one in of_item if isinstance(one, Skipped)] for of_item in found]
    good = [slot for slot, of_item in enumerate(faults) if not of_item]
    remarks = [one for slot in good for one in found[slot] if isinstance(one, Remark)]
    pixels = room[: len(part)] if len(good) == len(part) else room[good]
    indices = [part[slot] for slot in good]
    return Batch(part, indices, pixels.reshape(-1, *room.shape[2:]), list(chain.from_iterable(faults)), remarks)
