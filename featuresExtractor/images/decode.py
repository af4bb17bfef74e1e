"""One picture in a file: which files may be opened as one, and its pixels. Files are anyone's, and never trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from featuresExtractor.images.kinds import formats
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.images.values import to_rgb
from featuresExtractor.transforms import Preprocessing, prepare, resized_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGE = 2**24  # pixels; of pictures beyond it only one is decoded at a time, so that they do not fill the memory
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""What stands at the end of a file that was not cut, and only there; files of other formats are read to be sure."""
TAIL = 2048  # bytes in which the end is looked for, since programs append things
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What each orientation of the EXIF standard asks for."""

_large = Lock()


@dataclass(frozen=True)
class Decoded:
    """Prepared pixels (3, crop, crop) in 0..255, and remarks: what a person should know about this image."""

    pixels: NDArray[np.uint8]
    remarks: tuple[str, ...] = ()


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """The opened picture, of which the header was read and no more. ValueError or OSError says what is wrong."""
    with _opened(path) as file, _image(file) as image:
        yield image


def _opened(path: Path) -> IO[bytes]:
    """A file, and not what only has its name: to read a pipe would be to wait for ever."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ValueError("a link that leads nowhere" if path.is_symlink() else "gone") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{KINDS.get(stat.S_IFMT(status.st_mode), 'something')}, not a file")
    if not status.st_size:
        raise ValueError("an empty file")
    return path.open("rb")


def _image(file: IO[bytes]) -> Image.Image:
    try:
        return Image.open(file, formats=formats())
    except UnidentifiedImageError as error:
        raise ValueError("not a picture in a format that is known here") from error


def read_picture(path: Path, preprocessing: Preprocessing, decoding: Decoding = STORED) -> NDArray[np.uint8]:
    """Return the prepared pixels (3, crop, crop) of an image file; see `decode_picture`."""
    return decode_picture(path, preprocessing, decoding).pixels


def decode_picture(path: Path, preprocessing: Preprocessing, decoding: Decoding = STORED) -> Decoded:
    """Decode and prepare the first frame of an image file; any exception says what is wrong."""
    with open_picture(path) as image, _turn(image):
        rgb, remarks = to_rgb(image, decoding)
        turned = TURNS.get(image.getexif().get(ORIENTATION, 1))
        return Decoded(prepare(rgb.transpose(turned) if turned is not None else rgb, preprocessing), remarks)


def _turn(image: Image.Image) -> AbstractContextManager[object]:
    return _large if image.width * image.height > LARGE else nullcontext()


def check_picture(path: Path, preprocessing: Preprocessing, decoding: Decoding = STORED) -> None:
    """Raises what `read_picture` would, as far as the header tells; a file that seems to be cut is read to its end."""
    with _opened(path) as file, _image(file) as image:
        resized_to(image.size, preprocessing)
        end = ENDS.get(image.format or "")
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        whole = end is not None and end in file.read()
    if not whole:
        read_picture(path, preprocessing, decoding)


def reason_of(error: Exception, path: Path) -> str:
    """Why a picture could not be read, in one line without its path."""
    told = " ".join(str(error).split()) or type(error).__name__
    return told.replace(f" {str(path)!r}", "")
