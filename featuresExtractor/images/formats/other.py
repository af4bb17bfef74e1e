"""Read files of every format but JPEG and PNG, with Pillow."""

from __future__ import annotations

import io
import logging
import re
import struct
from typing import IO

from PIL import Image

from featuresExtractor.images.formats import tiff
from featuresExtractor.images.formats.bounds import admit, bound
from featuresExtractor.images.formats.orientation import AS_STORED, known, orientation_of
from featuresExtractor.images.kinds import HEAD, formats, kind_of, reason_not_read

EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what Pillow logs of a file is in the reason given here


class Other:
    """The first image of a file that Pillow reads, of which only the header was read; ValueError where it is none."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file = file
        head = file.read(HEAD)
        if reason := reason_not_read(name, head):
            raise ValueError(reason)
        if size := _webp_size(head):
            admit(size, bound())  # since opening it allocates memory for its pixels
        self.directory = tiff.Directory(file) if head.startswith(tiff.MAGIC) else None
        self.stream = tiff.without_metadata(file, self.directory) if self.directory else _without_exif(file, head)
        image = _open(self.stream, head)
        if image is None:
            raise ValueError(_reason_unknown(head, self.directory))
        self.opened, self.format, self.size = image, str(image.format), image.size

    def image(self) -> Image.Image:
        """Return the image, as stored and not loaded yet. ValueError for corrupt data, as far as the format says."""
        if self.directory:
            tiff.check_data(self.directory)
            self.opened.info.pop("xmp", None)  # Pillow would take the orientation from there
            if self.stream is not self.file and (profile := self.directory.profile()):
                self.opened.info["icc_profile"] = profile
        return self.opened

    @property
    def orientation(self) -> int:
        """The EXIF orientation, once the pixels are loaded; Pillow itself turns a TIFF that is too large for memory."""
        if self.directory:
            return known(self.directory.number(tiff.ORIENTATION, 1)) if self.stream is not self.file else AS_STORED
        exif = self.opened.info.get("exif", b"")
        return orientation_of(exif) if isinstance(exif, bytes) else AS_STORED


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP by its first 30 bytes; None for other files."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _without_exif(file: IO[bytes], head: bytes) -> IO[bytes]:
    """Return an AVIF without its EXIF, since libavif refuses a file where that is broken; its orientation is stored
    elsewhere. Other files stay as they are."""
    if kind_of(head) != "AVIF" or file.seek(0, io.SEEK_END) > tiff.MOST_IN_MEMORY:
        return file
    file.seek(0)
    data = file.read()
    place = max(0, data.find(b"meta", 0, 2**16) - 4)  # the box of metadata: its length, its name
    stop = place + int.from_bytes(data[place : place + 4])
    return io.BytesIO(data[:place] + EXIF_ITEM.sub(rb"\1none", data[place:stop]) + data[stop:])


def _open(file: IO[bytes], head: bytes) -> Image.Image | None:
    """Return the image by the first format that accepts it; like `Image.open`, but without its check of the size."""
    for name in formats():
        factory, accept = Image.OPEN[name]
        try:
            taken = accept is None or accept(head[:16])
            if taken and not isinstance(taken, str):  # a string says what Pillow was built without
                file.seek(0)
                return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    return None


def _reason_unknown(head: bytes, directory: tiff.Directory | None) -> str:
    """Return why a file is not read."""
    if directory:
        return f"{tiff.description(directory)} is not read here; save it as PNG, or as TIFF with 1 or 3 bands of 8 bits"
    kind = kind_of(head)
    return f"corrupt {kind} data (its headers)" if kind else "not an image in a format that is known here"
