"""Thumbnails of image files as data URIs: the whole image, upright, small and of bounded bytes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image

from common.machine.shortage import is_short
from common.machine.system import cores
from common.progress import progress
from featuresExtractor.images.decode import read_rgb

LONGEST_SIDE = 160  # pixels
MOST_BYTES = 8 * 1024
"""The most bytes of a thumbnail's JPEG: a photograph of 160 x 120 pixels takes 5 to 8 KB."""
FEWEST_BYTES = 1024  # of a thumbnail that must share a page with very many
MOST_TOGETHER = 2**25  # bytes of all thumbnails of a page
STEPS = ((160, 82), (160, 65), (160, 45), (128, 45), (96, 45), (64, 45), (48, 40), (32, 30), (16, 20))
"""Longest side in pixels and JPEG quality, tried in this order until the thumbnail is small enough."""


def thumbnail(path: Path, most: int = MOST_BYTES) -> str | None:
    """Return a data URI of the whole image as a JPEG: upright, its longest side at most 160 pixels, never enlarged.

    The JPEG has at most `most` bytes, from 1,024 on, and no metadata. None for a file that cannot be read.
    """
    try:
        image = read_rgb(path)
    except Exception as error:  # decoders raise whatever a broken file leads them to
        if is_short(error):
            raise
        return None
    return "data:image/jpeg;base64," + b64encode(_encoded(image, most)).decode("ascii")


def _encoded(image: Image.Image, most: int) -> bytes:
    """Return the image as a JPEG of at most `most` bytes: less quality first, then fewer pixels."""
    contents = b""
    for side, quality in STEPS:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)  # in place; leaves smaller images as they are
        image.info.clear()  # Pillow would write comments and profiles into the JPEG
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        contents = buffer.getvalue()
        if len(contents) <= most:
            break
    return contents


def thumbnails(paths: Iterable[Path], workers: int | None = None) -> dict[Path, str]:
    """Return the thumbnails of the files that can be read, each made once, in the order in which `paths` first names
    them. They are made by `workers` threads (default: as many as there are cores), and shown as a bar.

    All together have at most 32 MiB: where there are many, each may have fewer bytes, down to 1,024.
    """
    files = list(dict.fromkeys(paths))
    most = max(FEWEST_BYTES, min(MOST_BYTES, MOST_TOGETHER // max(1, len(files))))
    made: dict[Path, str] = {}
    with ThreadPoolExecutor(workers or cores()) as pool, progress(len(files), "thumbnails", "images") as bar:
        for path, uri in zip(files, pool.map(lambda path: thumbnail(path, most), files), strict=True):
            bar.update()
            if uri is not None:
                made[path] = uri
    return made
