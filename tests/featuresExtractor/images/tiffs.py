"""TIFF files made by hand from numbers: any photometric interpretation, depth, byte order, layout and compression."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RAW, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
WIDTHS = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d"}


def write_tiff(
    path: Path,
    samples: NDArray[np.generic],
    photometric: int | None,
    bits: int = 8,
    order: str = "<",
    compression: int = RAW,
    planar: int = 1,
    predictor: int = 1,
    extra: Mapping[int, tuple[int, Sequence[float]]] | None = None,
    rows: int = 5,
) -> Path:
    """Write samples (H, W) or (H, W, C) as they are, `bits` of each, in strips of `rows`; `order` is `<` or `>`.

    `extra` maps further tags to (type, values); with predictor 2 the samples are stored as differences.
    """
    values = samples[..., None] if samples.ndim == 2 else samples
    height, width, channels = values.shape
    planes = [values] if planar == 1 else [values[..., [channel]] for channel in range(channels)]
    if predictor == 2:
        planes = [np.diff(plane, axis=1, prepend=plane[:, :1] * 0) for plane in planes]
    starts = range(0, height, rows)
    strips = [packed(plane[start : start + rows], bits, order) for plane in planes for start in starts]
    strips = [compressed(strip, compression) for strip in strips]
    tags: dict[int, tuple[int, Sequence[float]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [compression]),
        273: (4, [8 + sum(map(len, strips[:number])) for number in range(len(strips))]),
        277: (3, [channels]),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [planar]),
        **({317: (3, [predictor])} if predictor != 1 else {}),
        **({262: (3, [photometric])} if photometric is not None else {}),
        **(extra or {}),
    }
    data = b"".join(strips)
    data += b"\0" * (len(data) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data))
    path.write_bytes(head + data + directory(tags, 8 + len(data), order))
    return path


def packed(values: NDArray[np.generic], bits: int, order: str) -> bytes:
    """Return the rows of samples (H, W, C) as a TIFF stores them: each row begins with a byte of its own."""
    if bits % 8 == 0:
        return values.astype(np.dtype(order + values.dtype.str[1:])).tobytes()
    table = (values.reshape(len(values), -1)[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return np.packbits(table.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def compressed(strip: bytes, compression: int) -> bytes:
    """Return a strip as its compression stores it; LZW and PackBits in their longest, simplest form."""
    if compression == DEFLATE:
        return zlib.compress(strip)
    if compression == PACKBITS:
        starts = range(0, len(strip), 128)
        return b"".join(bytes([len(strip[start : start + 128]) - 1]) + strip[start : start + 128] for start in starts)
    if compression == LZW:  # a clear code before every 250 bytes keeps all codes at 9 bits
        parts = [[256, *strip[start : start + 250]] for start in range(0, len(strip), 250)]
        table = (np.array([*chain(*parts), 257])[:, None] >> np.arange(9)[::-1]) & 1
        return np.packbits(table.astype(np.uint8)).tobytes()
    return strip


def directory(tags: Mapping[int, tuple[int, Sequence[float]]], at: int, order: str) -> bytes:
    """Return the directory of tags that stands at byte `at`; types: 3 and 4 are unsigned, 11 a float, 7 bytes."""
    entries, further = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        form = f"{order}{len(values)}{WIDTHS.get(kind, 'B')}"
        data = struct.pack(form, *values)
        if len(data) > 4:
            place = struct.pack(order + "I", behind + len(further))
            further += data + b"\0" * (len(data) % 2)
        else:
            place = data.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + place
    return struct.pack(order + "H", len(tags)) + entries + bytes(4) + further
