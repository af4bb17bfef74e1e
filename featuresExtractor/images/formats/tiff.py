"""Read the tags of TIFF files, and check that their compressed data is whole (TIFF 6.0 and its supplements)."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO

from featuresExtractor.images.formats.jpeg import Jpeg

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, BANDS, FORMAT, PROFILE = (
    *(256, 257, 258, 259, 262, 274, 277, 339, 34675),
)
STRIPS, TILES, TABLES = (273, 279), (324, 325), 347  # where they are in the file, and their bytes
PIXELS = {*range(256, 260), 262, 266, 273, *range(277, 282), 284, 290, 291, 292, 293, 297, 317, 320}
PIXELS |= {*range(322, 326), 332, *range(338, 343), TABLES, *range(512, 522), *range(529, 533), 50674}
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
SAMPLE_FORMATS = {1: "", 2: "signed ", 3: "floating-point ", 4: "undefined ", 5: "complex ", 6: "complex "}
MOST_IN_MEMORY = 2**27  # bytes of a file
MOST_VALUES = 2**24  # of a tag that are read: strips, or bytes of a profile


class Directory:
    """The first directory of a TIFF or BigTIFF; ValueError where there is none."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        head = file.read(16)
        self.order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.entry = struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))
        try:
            self.entries = self._entries(head)
        except (struct.error, OSError, ValueError, OverflowError):
            self.entries = {}
        if WIDTH not in self.entries:
            raise ValueError("corrupt TIFF (no directory where the header says)")

    def _entries(self, head: bytes) -> dict[int, bytes]:
        """Return tag -> entry; of two of the same tag the first one."""
        (start,) = struct.unpack_from(self.order + ("Q" if self.big else "I"), head, 8 if self.big else 4)
        self.file.seek(start)
        (count,) = struct.unpack(self.order + ("Q" if self.big else "H"), self.file.read(8 if self.big else 2))
        body = self.file.read(min(count, 2**16) * self.entry.size)
        entries: dict[int, bytes] = {}
        for place in range(0, len(body) - self.entry.size + 1, self.entry.size):
            entries.setdefault(self.entry.unpack_from(body, place)[0], body[place : place + self.entry.size])
        return entries

    def contents(self, tag: int, most: int = MOST_VALUES) -> bytes:
        """Return the bytes of the first `most` values of a tag; none where it is missing or leads out of the file."""
        if tag not in self.entries:
            return b""
        _, kind, count, field = self.entry.unpack(self.entries[tag])
        length = SIZES.get(kind, 0) * count
        if length <= len(field):
            return bytes(field[: min(length, most * SIZES.get(kind, 0))])
        (start,) = struct.unpack(self.order + ("Q" if self.big else "I"), field)
        if start + length > self.bytes:
            return b""
        self.file.seek(start)
        return self.file.read(min(length, most * SIZES[kind]))

    def numbers(self, tag: int, default: tuple[int, ...] = (), most: int = MOST_VALUES) -> tuple[int, ...]:
        """Return the first `most` values of a tag of whole numbers."""
        kind = self.kind(tag)
        if kind not in INTEGERS or not (contents := self.contents(tag, most)):
            return default
        return struct.unpack(f"{self.order}{len(contents) // SIZES[kind]}{INTEGERS[kind]}", contents)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag of whole numbers."""
        return int(self.numbers(tag, (default,), 1)[0])

    def kind(self, tag: int) -> int:
        """Return the type of a tag's values as TIFF counts types; 0 where the tag is missing."""
        return int(self.entry.unpack(self.entries[tag])[1]) if tag in self.entries else 0

    def alone(self, file: bytes) -> bytes:
        """Return the file with a directory of only the tags that make the pixels, in their order, behind its end."""
        kept = [entry for tag, entry in sorted(self.entries.items()) if tag in PIXELS]
        start = len(file) + -len(file) % 8
        place, count = ("Q", "Q") if self.big else ("I", "H")
        head = file[: 8 if self.big else 4] + struct.pack(self.order + place, start)
        body = struct.pack(self.order + count, len(kept)) + b"".join(kept) + struct.pack(self.order + place, 0)
        return head + file[len(head) :].ljust(start - len(head), b"\0") + body

    def profile(self) -> bytes:
        """Return the colour profile; empty where there is none."""
        return self.contents(PROFILE) if self.kind(PROFILE) in (1, 7) else b""


def without_metadata(file: IO[bytes], directory: Directory) -> IO[bytes]:
    """Return the file without metadata, in memory; a file too large for that as it is."""
    if directory.bytes > MOST_IN_MEMORY:
        return file
    file.seek(0)
    return io.BytesIO(directory.alone(file.read()))


def check_data(directory: Directory) -> None:
    """Raise ValueError for strips or tiles that are corrupt by their checksum (Deflate) or decoder (JPEG).

    libtiff stops reading when it has enough pixels, and so compares no checksum; of JPEG data it drops the warnings.
    """
    check = {7: _check_jpeg, 8: _check_deflate, 32946: _check_deflate}.get(directory.number(COMPRESSION, 1))
    starts, lengths = max((directory.numbers(start), directory.numbers(length)) for start, length in (STRIPS, TILES))
    if check is None or sum(lengths) > directory.bytes:  # the latter is no whole file, or one that repeats itself
        return
    tables = directory.contents(TABLES)
    for start, length in zip(starts, lengths, strict=False):
        directory.file.seek(start)
        check(directory.file.read(length), tables, directory)


def _check_deflate(data: bytes, _: bytes, directory: Directory) -> None:
    decompressor = zlib.decompressobj()
    most = directory.number(WIDTH, 0) * directory.number(LENGTH, 0) * 64 + 2**20  # bytes; as of any strip
    try:
        while data and most > 0:
            most -= len(decompressor.decompress(data, 2**20))
            data = decompressor.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"corrupt TIFF data ({error})") from error


def _check_jpeg(data: bytes, tables: bytes, directory: Directory) -> None:
    if not data:  # a tile that is left out
        return
    try:
        image = Jpeg(io.BytesIO(tables[:-2] + data[2:] if tables else data))
        most = 4 * (directory.number(WIDTH, 0) + 512) * (directory.number(LENGTH, 0) + 512)
        if image.size[0] * image.size[1] <= most:
            image.image()
    except ValueError as error:
        if "not read here" not in str(error):  # what libtiff makes of such data is for it to say
            raise


def description(directory: Directory) -> str:
    """Describe a TIFF that is not read: `TIFF with 4 bands of 16 bits`."""
    bits = directory.numbers(BITS, (1,))
    bands = directory.number(BANDS, len(bits))
    sample = SAMPLE_FORMATS.get(directory.number(FORMAT, 1), "")
    of = " and ".join(dict.fromkeys(f"{sample}{depth}" for depth in bits))
    return f"TIFF with {bands} {'band' if bands == 1 else 'bands'} of {of} bits"
