"""Read JPEG files: corrupt pixel data is an error, and broken metadata is not.

libjpeg-turbo reports corrupt data as warnings, which Pillow drops and simplejpeg raises; the pixels of both are equal.
Where a warning is about something else (metadata, bytes between segments, padding before the end), the file is decoded
once more without it.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from featuresExtractor.images.formats.orientation import orientation_of

MAGIC = b"\xff\xd8\xff"
SOI, EOI, SOS, COM, APP0, APP1, APP2, APP14, APP15 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # those that hold width and height
MODES = {1: ("L", "GRAY"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK")}
"""Components -> Pillow's mode and simplejpeg's name of it."""
JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
MOST_JUNK = 2**16  # bytes between two segments
SLACK = 16  # bytes that libjpeg reads ahead, and then does not count as padding
TRUNCATED = "truncated JPEG"
NEXT_SEGMENT = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


class Segment(NamedTuple):
    """A marker, and where in the file its contents are."""

    marker: int
    start: int
    stop: int


class Jpeg:
    """The first image of a JPEG or MPO file, of which only the header was read; ValueError where it is none."""

    format = "JPEG"

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.segments = list(_segments(file))
        frame = next((segment for segment in self.segments if segment.marker in FRAMES), None)
        if frame is None:
            raise ValueError("corrupt JPEG data (no frame header before the pixels)")
        self.size, self.components = _frame(_contents(file, frame))
        self.orientation = 1

    def image(self) -> Image.Image:
        """Return the pixels, as stored: L, RGB or CMYK. ValueError for corrupt data."""
        most = self.segments[-1].stop + 16 * self.size[0] * self.size[1] + 2**20  # bytes; no pixels are behind
        length = min(most, self.file.seek(0, io.SEEK_END))
        self.file.seek(0)
        data = self.file.read(length)
        bodies = [(segment.marker, data[segment.start : segment.stop]) for segment in self.segments]
        self.orientation = orientation_of(_joined(bodies, APP1, b"Exif\0\0"))
        image = self._decoded(data, bodies)
        image.format = self.format
        image.info |= _info(bodies)
        return image

    def _decoded(self, data: bytes, bodies: list[tuple[int, bytes]]) -> Image.Image:
        try:
            return self._strictly(data)
        except ValueError:
            clean: bytes | None = _without_metadata(bodies) + data[self.segments[-1].stop :]
        while clean is not None:  # libjpeg counts what it did not read ahead: padding goes in one or two steps
            try:
                return self._strictly(clean)
            except ValueError as error:
                reason = str(error)
            if "subsampling" in reason:  # one that TurboJPEG has no name for: nothing shows whether it is whole
                return _by_pillow(clean)
            clean = _without_padding(clean, reason)
        raise ValueError(_in_our_words(reason))

    def _strictly(self, data: bytes) -> Image.Image:
        """Return the image; ValueError for whatever libjpeg warns of."""
        mode, colors = MODES[self.components]
        buffer = np.empty((self.size[1], self.size[0], self.components), np.uint8)  # no larger than the header says
        pixels = simplejpeg.decode_jpeg(data, colors, buffer=buffer, strict=True)
        if pixels.shape != buffer.shape:
            raise ValueError("its headers contradict each other")
        if mode == "CMYK":
            np.invert(pixels, out=pixels)  # as Pillow has them: 0 is no ink
        return Image.frombuffer(mode, self.size, buffer, "raw", mode, 0, 1)


def _by_pillow(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            image.load()
    except UnidentifiedImageError as error:
        raise ValueError("corrupt JPEG data (its headers)") from error
    except OSError as error:
        raise ValueError(f"corrupt JPEG data ({error})") from error
    return image


def _segments(file: IO[bytes]) -> Iterator[Segment]:
    """Yield the segments before the pixels; the last one is the header of the first scan."""
    file.seek(2)
    marker = SOI
    while marker != SOS:
        marker = _next_marker(file)
        if marker in (SOI, EOI):
            raise ValueError("corrupt JPEG data (it ends before its pixels)")
        if marker not in ALONE:
            start = file.tell() + 2
            length = int.from_bytes(_exactly(file, 2))
            yield Segment(marker, start, start + max(length, 2) - 2)
            file.seek(start + max(length, 2) - 2)


def _next_marker(file: IO[bytes]) -> int:
    byte = _exactly(file, 1)
    for _ in range(MOST_JUNK):
        if byte == b"\xff":
            while byte == b"\xff":
                byte = _exactly(file, 1)
            if byte != b"\0":
                return byte[0]
        byte = _exactly(file, 1)
    raise ValueError("corrupt JPEG data (no segment where one must be)")


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ValueError(TRUNCATED)
    return data


def _contents(file: IO[bytes], segment: Segment) -> bytes:
    file.seek(segment.start)
    return _exactly(file, segment.stop - segment.start)


def _frame(body: bytes) -> tuple[tuple[int, int], int]:
    """Return width and height, and the number of components; ValueError for what is not read here."""
    try:
        bits, height, width, components = struct.unpack_from(">BHHB", body)
    except struct.error as error:
        raise ValueError("corrupt JPEG data (its frame header is too short)") from error
    if bits != 8:
        raise ValueError(f"JPEG with {bits} bits per sample is not read here; save it with 8 bits, or as PNG")
    if components not in MODES:
        raise ValueError(f"JPEG with {components} components is not read here; 1, 3 and 4 are")
    if not width or not height:
        raise ValueError(f"corrupt JPEG data ({width} x {height} pixels)")
    return (width, height), components


def _joined(bodies: list[tuple[int, bytes]], marker: int, name: bytes) -> bytes:
    """Return the contents of all segments of a name, without it: large blocks are spread over several."""
    return b"".join(body[len(name) :] for mark, body in bodies if mark == marker and body.startswith(name))


def _info(bodies: list[tuple[int, bytes]]) -> dict[str | tuple[int, int], Any]:
    """Return what the meaning of the pixels depends on, by Pillow's names: colour profile and Adobe's marker."""
    info: dict[str | tuple[int, int], Any] = {}
    parts = sorted(body[12:] for mark, body in bodies if mark == APP2 and body.startswith(b"ICC_PROFILE\0"))
    if parts and all(len(part) > 2 for part in parts) and parts[0][1] == len(parts):
        info["icc_profile"] = b"".join(part[2:] for part in parts)
    for mark, body in bodies:
        if mark == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            info |= {"adobe": int.from_bytes(body[5:7]), "adobe_transform": body[11]}
    return info


def _without_metadata(bodies: list[tuple[int, bytes]]) -> bytes:
    """Return the segments that make the pixels, and what JFIF and Adobe say about the colours of the components."""
    components = next(body[5] for mark, body in bodies if mark in FRAMES)
    kept = [b"\xff\xd8"]
    for mark, body in bodies:
        if mark == APP0 and body.startswith(b"JFIF\0") and len(body) >= len(JFIF):
            body = JFIF
        elif mark == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
            body = body[:11] + bytes([_transform(body[11], components)])
        elif APP0 <= mark <= APP15 or mark == COM:
            continue
        kept.append(b"\xff%c%b%b" % (mark, (len(body) + 2).to_bytes(2), body))
    return b"".join(kept)


def _transform(value: int, components: int) -> int:
    """Return Adobe's code of the colours; for an unknown one what libjpeg takes it for."""
    usual = 2 if components == 4 else 1
    return value if value in (0, usual) else usual


def _without_padding(data: bytes, message: str) -> bytes | None:
    """Return the file without the zeros before its end that `message` is about; None where these are no padding."""
    count = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    end = _end(data)
    if count is None or end is None:
        return None
    padding, zeros = int(count[1]), end - len(data[:end].rstrip(b"\0"))
    return data[: end - padding] + data[end:] if padding <= zeros <= padding + SLACK else None


def _end(data: bytes) -> int | None:
    """Return where the marker is that ends the image, after any number of scans."""
    place = 2
    while marker := NEXT_SEGMENT.search(data, place):
        if data[marker.end() - 1] == EOI:
            return marker.start()
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return None


def _in_our_words(message: str) -> str:
    if message.startswith("Premature end of"):
        return TRUNCATED
    return f"corrupt JPEG data (libjpeg: {message.removeprefix('Corrupt JPEG data: ')})"
