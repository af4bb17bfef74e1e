"""Images as a program gives them (paths, folders, PIL images), and their pixels as a network wants them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.errors import InputError, listed, printable
from common.progress import Bar, progress
from featuresExtractor.images.decode import decode_image, reason_of
from featuresExtractor.images.folders.dataset import FLAT_SIDES, find_images
from featuresExtractor.images.formats.orientation import AS_STORED, ORIENTATION, known, upright
from featuresExtractor.images.pixels.values import to_rgb
from featuresExtractor.transforms import prepare

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from adaptation.similarity.learned.networks import Network
    from featuresExtractor.images.settings import Decoding

logger = logging.getLogger(__name__)

One = str | os.PathLike[str] | Image.Image
Given = One | Iterable[One]
"""An image file, a folder of images, a PIL image, or several of them."""
_locks = [Lock() for _ in range(61)]  # loading an image in two threads is not safe, and one may be given twice
PLAIN = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # modes whose samples mean the same everywhere


def list_images(given: Given) -> list[Path | Image.Image]:
    """Return the images that are given, those of a folder in the order of their names; InputError where there are none,
    or where a folder holds pairs."""
    if not isinstance(given, (str, os.PathLike, Image.Image, Iterable)):
        raise InputError(f"{type(given).__name__}: not an image; give paths, PIL images, or a folder")
    several = [given] if isinstance(given, (str, os.PathLike, Image.Image)) else list(given)
    images = [image for each in several for image in _listed(each)]
    if not images:
        raise InputError("no image is given; give paths, PIL images, or a folder")
    return images


def is_one(given: Given) -> bool:
    """Return whether one image is given, and not a folder or several."""
    return isinstance(given, Image.Image) or (isinstance(given, (str, os.PathLike)) and not Path(given).is_dir())


def _listed(given: One) -> list[Path | Image.Image]:
    if isinstance(given, Image.Image):
        return [given]
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(f"{type(given).__name__}: not an image; give paths, PIL images, or a folder")
    path = Path(given)
    if path.is_dir():
        dataset = find_images(path)
        if dataset.sides != FLAT_SIDES:
            raise InputError(f"{path}: holds pairs; give {path / 'left'} or {path / 'right'}")
        for line in dataset.warnings():
            logger.warning(printable(line))
        return [image for (image,) in dataset.items]
    if not path.is_file():
        raise InputError(f"{printable(str(path))}: no such file or folder")
    return [path]


def name_of(image: Path | Image.Image, number: int) -> str:
    """Return how an image is called in results: the name of its file, or `image 3`."""
    return image.name if isinstance(image, Path) else f"image {number + 1}"


def own_rows(queries: Sequence[Path | Image.Image], gallery: Sequence[Path | Image.Image]) -> NDArray[np.int64]:
    """Return for each query (Q,) the row in which it is in the gallery itself: the same file, also behind a link, or
    the same PIL image; -1 where it is not there."""
    rows = {_identity(image): row for row, image in enumerate(gallery)}
    return np.array([rows.get(_identity(image), -1) for image in queries], np.int64)


def _identity(image: Path | Image.Image) -> object:
    return os.path.realpath(image) if isinstance(image, Path) else id(image)


def batches(
    images: Sequence[Path | Image.Image], networks: Sequence[Network], size: int, workers: int
) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield the pixels (n, 3, H, W) of `size` images at a time for each network, in order, read ahead by threads.
    InputError names the images that cannot be read."""
    numbered = list(enumerate(images))
    parts = [numbered[first : first + size] for first in range(0, len(images), size)]
    with ThreadPoolExecutor(workers) as pool, _bar(len(images), len(parts)) as bar:
        ahead = [pool.submit(_read, *each, networks) for each in parts[0]]
        for number, part in enumerate(parts):
            following = parts[number + 1] if number + 1 < len(parts) else []
            waiting, ahead = ahead, [pool.submit(_read, *each, networks) for each in following]
            read = [future.result() for future in waiting]
            if faults := [each for each in read if isinstance(each, str)]:
                for future in ahead:
                    future.cancel()
                raise InputError(f"unreadable: {listed(faults, 5)}; replace these images, or leave them out")
            yield [np.stack([pixels[which] for pixels in read]) for which in range(len(networks))]
            bar.update(len(part))


def _bar(images: int, parts: int) -> Bar:
    """A bar, where there is more than one look to take at it."""
    return progress(images, "embed", "images", disable=parts < 2)


def _read(number: int, image: Path | Image.Image, networks: Sequence[Network]) -> list[NDArray[np.uint8]] | str:
    """The pixels of one image for each network, or its name and why it cannot be read."""
    try:
        return [_pixels(image, network) for network in networks]
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        path = image if isinstance(image, Path) else Path(name_of(image, number))
        return f"{path} ({reason_of(error, path)})"


def _pixels(image: Path | Image.Image, network: Network) -> NDArray[np.uint8]:
    preprocessing = network.model.preprocessing
    if isinstance(image, Path):
        return decode_image(image, preprocessing, network.decoding).pixels
    return prepare(_rgb(image, network.decoding), preprocessing)


def _rgb(image: Image.Image, decoding: Decoding) -> Image.Image:
    """A PIL image in 8-bit RGB, upright. The image itself stays as it is, but for being loaded."""
    if image.mode not in PLAIN or any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or ()):
        deep = "" if image.mode not in PLAIN else " of 16 bits"
        raise ValueError(f"mode {image.mode}{deep}: only a file says what its samples mean; give its path")
    with _locks[id(image) % len(_locks)]:
        image.load()
        loaded = image.copy()
        orientation = _orientation(image)
    return upright(to_rgb(loaded, decoding)[0], orientation)


def _orientation(image: Image.Image) -> int:
    try:
        return known(image.getexif().get(ORIENTATION))
    except Exception:  # of broken metadata, which does not matter when a file is read either
        return AS_STORED
