"""Read PNG files: corrupt chunks of pixels are an error by their checksums, and broken metadata is not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Any

from PIL import Image, UnidentifiedImageError

from featuresExtractor.images.formats.orientation import orientation_of

MAGIC = b"\x89PNG\r\n\x1a\n"
PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
MEANING = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"sBIT": 1}  # and the fewest bytes of these
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type -> bits per sample."""
OLD_EXIF = b"Raw profile type exif"  # the keyword of a text in which ImageMagick keeps EXIF
MOST_METADATA = 2**24  # bytes of a colour profile or an EXIF block; larger ones are skipped
TRUNCATED = "truncated PNG"


class Png:
    """The first image of a PNG or APNG file, of which only the header was read; ValueError where it is none."""

    format = "PNG"

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.orientation = 1
        self.size = (0, 0)
        for kind, start, length in _chunks(file):
            if not any(self.size) and kind != b"IHDR":
                raise ValueError("corrupt PNG data (its first chunk is not IHDR)")
            if kind == b"IHDR":
                self.size = _size(_body(file, kind, start, length))
            elif kind in (b"PLTE", b"tRNS"):
                _body(file, kind, start, length)
            elif kind == b"IDAT":
                return
        raise ValueError("corrupt PNG data (no pixels)")

    def image(self) -> Image.Image:
        """Return the image, as stored and not loaded yet: chunks are compared with their checksums here, and Pillow
        sees the rest. ValueError for corrupt data."""
        chunks = self._read()
        self.orientation = orientation_of(dict(chunks).get(b"eXIf") or _old_exif(chunks))
        try:
            image = Image.open(io.BytesIO(_stream(chunks)), formats=["PNG"])
        except UnidentifiedImageError as error:
            raise ValueError("corrupt PNG data (its headers)") from error
        image.info |= _info(chunks)
        return image

    def _read(self) -> list[tuple[bytes, bytes]]:
        """Return kind and contents of the chunks that are used here, in their order."""
        used: list[tuple[bytes, bytes]] = []
        pixels, most = 0, 9 * (self.size[0] + 16) * (self.size[1] + 16) + 2**20
        for kind, start, length in _chunks(self.file):
            pixels += length if kind == b"IDAT" else 0
            if pixels > most:
                raise ValueError("corrupt PNG data (far more data than pixels)")
            if kind in PIXELS and not (pixels and kind in (b"PLTE", b"tRNS")):  # these are for what comes after them
                used.append((kind, _body(self.file, kind, start, length)))
            elif length < MOST_METADATA and kind not in dict(used) and _wanted(self.file, kind):
                used += _unbroken(self.file, kind, start, length)
        return used


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, place and length of the contents of every chunk, which are not read."""
    file.seek(len(MAGIC))
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise ValueError(TRUNCATED)
        length, kind = struct.unpack(">I4s", head)
        start = file.tell()
        yield kind, start, length
        file.seek(start + length + 4)


def _body(file: IO[bytes], kind: bytes, start: int, length: int) -> bytes:
    """Return the contents of a chunk; ValueError where they do not match its checksum."""
    file.seek(start)
    body, checksum = file.read(length), file.read(4)
    if len(body) < length or len(checksum) < 4:
        raise ValueError(TRUNCATED)
    if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum):
        name = kind.decode("ascii", "replace")
        raise ValueError(f"corrupt PNG data (the checksum of chunk {name} does not match)")
    return body


def _wanted(file: IO[bytes], kind: bytes) -> bool:
    """Return whether a chunk of metadata, whose contents come next in the file, is used here."""
    old = kind in (b"tEXt", b"zTXt") and file.read(len(OLD_EXIF) + 1) == OLD_EXIF + b"\0"
    return old or kind in MEANING or kind in (b"iCCP", b"eXIf")


def _unbroken(file: IO[bytes], kind: bytes, start: int, length: int) -> list[tuple[bytes, bytes]]:
    """Return a chunk of metadata in a list, which is empty where it is broken."""
    try:
        return [(kind, _body(file, kind, start, length))]
    except ValueError:
        return []


def _size(header: bytes) -> tuple[int, int]:
    try:
        width, height, bits, colors = struct.unpack_from(">IIBB", header)
    except struct.error as error:
        raise ValueError("corrupt PNG data (its header is too short)") from error
    if not width or not height:
        raise ValueError(f"corrupt PNG data ({width} x {height} pixels)")
    if bits not in DEPTHS.get(colors, ()):
        raise ValueError(f"corrupt PNG data ({bits} bits of colour type {colors})")
    return width, height


def _stream(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of only what makes the pixels, without any metadata behind them."""
    kept, pixels = [MAGIC], False
    for kind, body in chunks:
        pixels = pixels or kind == b"IDAT"
        useful = kind in (b"IDAT", b"IEND") if pixels else kind in PIXELS or len(body) >= MEANING.get(kind, 2**32)
        if useful:
            kept += [struct.pack(">I4s", len(body), kind), body, struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))]
    return b"".join(kept)


def _info(chunks: list[tuple[bytes, bytes]]) -> dict[str | tuple[int, int], Any]:
    """Return the colour profile, by Pillow's name."""
    info: dict[str | tuple[int, int], Any] = {}
    for kind, body in chunks:
        if kind == b"iCCP":
            _, _, packed = body.partition(b"\0")
            if profile := _unpacked(packed[1:]):
                info["icc_profile"] = profile
    return info


def _old_exif(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return EXIF as programs wrote it before there was a chunk for it: hexadecimal, in a text."""
    for kind, body in chunks:
        keyword, _, text = body.partition(b"\0")
        if kind in (b"tEXt", b"zTXt") and keyword == OLD_EXIF:
            lines = (_unpacked(text[1:]) if kind == b"zTXt" else text).split(b"\n")[3:]
            try:
                return bytes.fromhex(b"".join(lines).decode("ascii"))
            except ValueError:
                return b""
    return b""


def _unpacked(data: bytes) -> bytes:
    """Return the decompressed data; nothing where it is broken, or too large."""
    decompressor = zlib.decompressobj()
    try:
        unpacked = decompressor.decompress(data, MOST_METADATA)
    except zlib.error:
        return b""
    return unpacked if decompressor.eof else b""
