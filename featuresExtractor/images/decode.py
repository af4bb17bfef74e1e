"""Open, check and decode the image in an untrusted file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from featuresExtractor.images.formats import jpeg, png
from featuresExtractor.images.formats.bounds import admit, bounded
from featuresExtractor.images.formats.orientation import upright
from featuresExtractor.images.formats.other import Other
from featuresExtractor.images.pixels.values import to_rgb
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.transforms import Preprocessing, prepare, resized_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE = 2**24  # pixels; larger images are decoded one at a time, so that they do not fill the memory
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""The end of a file that is not truncated, which is nowhere else in it; files of other formats are read to be sure."""
TAIL = 2048  # bytes in which the end is searched for, since programs append things
NOT_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_large = Lock()


@dataclass(frozen=True)
class Decoded:
    """Prepared pixels (3, crop, crop) in 0..255, and remarks: what a person should know about this image."""

    pixels: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


class Opened(Protocol):
    """The first image of a file, of which only the header was read."""

    format: str
    size: tuple[int, int]
    """Width and height as stored."""

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; known when the pixels were read."""
        ...

    def image(self) -> Image.Image:
        """Return the pixels as stored, not loaded yet where Pillow is to decode them. ValueError for corrupt data."""
        ...


@contextmanager
def open_image(path: Path) -> Iterator[Opened]:
    """Yield the first image of a file, of which only the header was read. ValueError or OSError says what is wrong."""
    with _open_file(path) as file:
        yield _open_format(file, path.name)


def _open_file(path: Path) -> IO[bytes]:
    """Open a regular file, and nothing else: reading a pipe could wait for ever."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ValueError("a link that leads nowhere" if path.is_symlink() else "gone") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{NOT_FILES.get(stat.S_IFMT(status.st_mode), 'something')}, not a file")
    if not status.st_size:
        raise ValueError("an empty file")
    return path.open("rb")


def _open_format(file: IO[bytes], name: str) -> Opened:
    head = file.read(8)
    file.seek(0)
    if head.startswith(jpeg.MAGIC):
        return jpeg.Jpeg(file)
    return png.Png(file) if head == png.MAGIC else Other(file, name)


def decode_image(path: Path, preprocessing: Preprocessing, decoding: Decoding = STORED) -> Decoded:
    """Decode and prepare the first image of a file; any exception says what is wrong."""
    with bounded(decoding.max_pixels), open_image(path) as opened:
        _check_size(opened.size, preprocessing, decoding)
        with _turn_to_decode(opened.size), faults_named(opened.format):
            rgb, remarks = _upright_rgb(opened, decoding)
            return Decoded(prepare(rgb, preprocessing), remarks)


def read_rgb(path: Path, decoding: Decoding = STORED) -> Image.Image:
    """Return the first image of a file in 8-bit RGB, upright and of its own size, to look at."""
    with bounded(decoding.max_pixels), open_image(path) as opened:
        admit(opened.size, decoding.max_pixels)
        with _turn_to_decode(opened.size), faults_named(opened.format):
            return _upright_rgb(opened, decoding)[0]


def _upright_rgb(opened: Opened, decoding: Decoding) -> tuple[Image.Image, tuple[str, ...]]:
    image = opened.image()
    admit(image.size, decoding.max_pixels)  # an icon's image may be larger than the icon says
    rgb, remarks = to_rgb(image, decoding)
    return upright(rgb, opened.orientation), remarks


@contextmanager
def faults_named(kind: str) -> Iterator[None]:
    """Turn what Pillow's decoders raise into a ValueError that says which kind of data is corrupt."""
    try:
        yield
    except (OSError, SyntaxError) as error:
        raise ValueError(f"corrupt {kind} data ({error})") from error


def check_image(path: Path, preprocessing: Preprocessing, decoding: Decoding = STORED) -> None:
    """Raise what `decode_image` would, as far as the header shows; a file that may be truncated is read to its end."""
    with bounded(decoding.max_pixels), _open_file(path) as file:
        opened = _open_format(file, path.name)
        _check_size(opened.size, preprocessing, decoding)
        end = ENDS.get(opened.format)
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        whole = end is not None and end in file.read()
    if not whole:
        decode_image(path, preprocessing, decoding)


def _check_size(size: tuple[int, int], preprocessing: Preprocessing, decoding: Decoding) -> None:
    """Raise ValueError for an image of too many pixels, or one that is too narrow."""
    admit(size, decoding.max_pixels)
    resized_to(size, preprocessing)


def _turn_to_decode(size: tuple[int, int]) -> AbstractContextManager[object]:
    return _large if size[0] * size[1] > LARGE else nullcontext()


def reason_of(error: Exception, path: Path) -> str:
    """Return why an image could not be read, in one line without its path."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message.replace(f" {str(path)!r}", "")
