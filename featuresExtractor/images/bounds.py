"""How many pixels an image may have: against files of a few bytes that grow beyond any memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from PIL import Image


class Bound(int):
    """A number of pixels that Pillow refuses at once: by itself it warns at its bound, and refuses at twice that."""

    def __rmul__(self, factor: int) -> int:
        return int(self)


_lock = Lock()
_active: list[int] = []
_pillows = [Image.MAX_IMAGE_PIXELS]


def admit(size: tuple[int, int], most: int) -> None:
    """ValueError for an image of more than `most` pixels; `size` is its width and height."""
    if size[0] * size[1] > most:
        message = f"{size[0]} x {size[1]} pixels are more than the {most:,} that are read"
        raise ValueError(f"{message}; --max-pixels {size[0] * size[1]} admits this image")


@contextmanager
def bounded(most: int) -> Iterator[None]:
    """Let Pillow admit images of at least `most` pixels meanwhile, in all threads, and warn of none.

    Pillow's bound is one for the whole process; of several at a time the highest holds. What Pillow does not open by
    itself, and every image that it did open, is for `admit` to judge.
    """
    with _lock:
        if not _active:
            _pillows[0] = Image.MAX_IMAGE_PIXELS
        _active.append(most)
        Image.MAX_IMAGE_PIXELS = Bound(max(*_active, 178_956_970))
    try:
        yield
    finally:
        with _lock:
            _active.remove(most)
            Image.MAX_IMAGE_PIXELS = _pillows[0] if not _active else Bound(max(*_active, 178_956_970))
