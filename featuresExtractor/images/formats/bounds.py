"""Bound the pixels of an image: a file of a few bytes may grow beyond any memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import Image


class Bound(int):
    """A number of pixels that Pillow refuses at once: by itself it warns at its bound, and refuses at twice that."""

    def __rmul__(self, factor: int) -> int:
        return int(self)


SMALLEST = 2**24  # pixels; images that are made here stay below, whatever bound a user sets
_lock = Lock()
_active: list[int] = []
_pillows = [Image.MAX_IMAGE_PIXELS]


def admit(size: tuple[int, int], most: int) -> None:
    """Raise ValueError for an image of more than `most` pixels; `size` is its width and height."""
    if size[0] * size[1] > most:
        message = f"{size[0]} x {size[1]} pixels are more than the {most:,} that are read"
        raise ValueError(f"{message}; --max-pixels {size[0] * size[1]} admits this image")


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """Let Pillow admit images of up to `most` pixels meanwhile, in all threads, and warn of none.

    Pillow has one bound for the whole process; of several at a time the highest holds. It concerns images within files
    (of an icon, say); `admit` checks what is known when a file is opened. ValueError where Pillow refuses.
    """
    with _lock:
        if not _active:
            _pillows[0] = Image.MAX_IMAGE_PIXELS
        _active.append(most)
        Image.MAX_IMAGE_PIXELS = Bound(max(*_active, SMALLEST))
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"an image in it has more than the {most:,} pixels that are read; see --max-pixels") from error
    finally:
        with _lock:
            _active.remove(most)
            Image.MAX_IMAGE_PIXELS = Bound(max(*_active, SMALLEST)) if _active else _pillows[0]


def bound() -> int:
    """Return the highest of the bounds that hold now."""
    return max(_active, default=sys.maxsize)
