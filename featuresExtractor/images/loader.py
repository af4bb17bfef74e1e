"""Check the images of a dataset by their headers, and read them ahead with threads.

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
from typing import TYPE_CHECKING, TypeVar

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

Result = TypeVar("Result")
CHECKED = 64  # images that a thread checks at a time


def check_images(
    dataset: Dataset, preprocessing: Preprocessing, workers: int, links: bool = False, decoding: Decoding = STORED
) -> list[Skipped]:
    """Return every image that cannot be read, as far as its header shows, and why. With `links`, links may lead out of
    the dataset's folder."""
    paths = [path for item in dataset.items for path in item]
    root = dataset.root.resolve()
    outside = {folder for folder in {path.parent for path in paths} if not folder.resolve().is_relative_to(root)}

    def check(path: Path) -> None:
        if not links and (path.parent in outside or (path.is_symlink() and not path.resolve().is_relative_to(root))):
            raise ValueError(OUTSIDE)
        check_image(path, preprocessing, decoding)

    def faults_of(part: Sequence[Path]) -> list[Skipped]:
        reasons = [(path, _attempt(check, path)) for path in part]
        return [Skipped(dataset.name(path), reason) for path, reason in reasons if reason]

    parts = [paths[first : first + CHECKED] for first in range(0, len(paths), CHECKED)]
    faults: list[Skipped] = []
    with ThreadPoolExecutor(workers) as pool, progress(len(paths), "check", "images") as bar:
        for part, of_part in zip(parts, pool.map(faults_of, parts), strict=True):
            faults += of_part
            bar.update(len(part))
    return faults


def _attempt(read: Callable[[Path], Result], path: Path) -> Result | str:
    """Return what `read` returns, or why the file cannot be read. Lack of memory is raised: no file is at fault."""
    try:
        return read(path)
    except Exception as error:  # decoders raise whatever a broken file leads them to
        if is_short(error):
            raise
        return reason_of(error, path)


def without(dataset: Dataset, faults: Sequence[Skipped]) -> Dataset:
    """Return the dataset without the items that have a fault; the faults go to `skipped`."""
    bad = {fault.name for fault in faults}
    good = [not any(dataset.name(path) in bad for path in item) for item in dataset.items]
    items, states = list(compress(dataset.items, good)), list(compress(dataset.states, good))
    return replace(dataset, items=items, skipped=(*dataset.skipped, *faults), seen=states)


@dataclass(frozen=True)
class Batch:
    """Consecutive items: their indices (`items`) and those that could be read (`indices`), the pixels of these
    (indices * sides, 3, crop, crop) uint8 with the channels last in memory, what could not be read and why, and remarks
    about the others.

    The pixels are valid until the next batch is asked for."""

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
    notes: list[Skipped | Remark] = []
    for path, target in zip(dataset.items[index], pixels, strict=True):
        decoded = _attempt(lambda path: decode_image(path, preprocessing, decoding), path)
        if isinstance(decoded, str):
            notes.append(Skipped(dataset.name(path), decoded))
        else:
            target[:] = decoded.pixels
            notes += [Remark(dataset.name(path), text) for text in decoded.remarks]
    return notes


def read_batches(
    dataset: Dataset,
    preprocessing: Preprocessing,
    parts: Sequence[range],
    workers: int,
    allocate: Callable[[tuple[int, ...]], Pixels],
    decoding: Decoding = STORED,
) -> Generator[Batch, None, None]:
    """Yield a batch for each of `parts`, in order, decoded by `workers` threads.

    They decode into a few buffers that `allocate` makes once, and so are never far ahead of the consumer.
    """
    sides, crop, size = len(dataset.sides), preprocessing.crop, max(map(len, parts), default=1)
    ahead = min(len(parts), max(3, 1 + math.ceil(2 * workers / size)))
    buffers = [allocate((size, sides, crop, crop, 3)).transpose(0, 1, 4, 2, 3) for _ in range(ahead)]
    with ThreadPoolExecutor(workers) as pool:

        def submit(number: int) -> list[Future[list[Skipped | Remark]]]:
            slots = zip(parts[number], buffers[number % ahead], strict=False)  # the last part may be shorter
            return [pool.submit(read_item, dataset, index, preprocessing, slot, decoding) for index, slot in slots]

        waiting: deque[list[Future[list[Skipped | Remark]]]] = deque()
        try:
            for number, part in enumerate(parts):
                waiting.extend(map(submit, range(number + len(waiting), min(number + ahead, len(parts)))))
                yield _batch(part, buffers[number % ahead], [future.result() for future in waiting.popleft()])
        finally:
            for future in chain.from_iterable(waiting):
                future.cancel()


def _batch(part: range, buffer: Pixels, notes: list[list[Skipped | Remark]]) -> Batch:
    """Return a batch of the items that could be read."""
    faults = [note for of_item in notes for note in of_item if isinstance(note, Skipped)]
    good = [slot for slot, of_item in enumerate(notes) if not any(isinstance(note, Skipped) for note in of_item)]
    remarks = [note for slot in good for note in notes[slot] if isinstance(note, Remark)]
    pixels = buffer[: len(part)] if len(good) == len(part) else buffer[good]
    return Batch(part, [part[slot] for slot in good], pixels.reshape(-1, *buffer.shape[2:]), faults, remarks)
