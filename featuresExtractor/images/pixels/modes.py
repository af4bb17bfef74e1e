"""Read what files of all formats say about their samples, as far as Pillow does not use it."""

from __future__ import annotations

import struct
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from featuresExtractor.images.pixels import jpeg2000, png_numbers, tiff_numbers
from featuresExtractor.images.pixels.meaning import UNSTATED, Alpha, Coarse, Deep, Meaning
from featuresExtractor.images.pixels.ranges import fixed, full, unknown

TGA_FOOTER = b"TRUEVISION-XFILE.\0"


def meaning_of(image: Image.Image) -> Meaning:
    """Return what the file that is open as `image`, and not loaded yet, says about its numbers.

    Raises ValueError for what would be taken for something else.
    """
    if isinstance(image, ImageFile.ImageFile) and image.fp and image.format in READERS:
        return READERS[image.format](image)
    return _by_mode(image)


def _by_mode(image: Image.Image) -> Meaning:
    """Return what Pillow's mode alone says: the range of 16-bit integers is known, that of others is not."""
    if image.mode.startswith("I;16"):
        return Meaning(Deep(partial(np.asarray, image)))
    if image.mode in ("I", "F"):
        kind = "32-bit floats" if image.mode == "F" else "32-bit integers"
        return Meaning(Deep(partial(np.asarray, image), kind, range_of=unknown))
    return Meaning()


def _doubtful(_image: ImageFile.ImageFile) -> Meaning:
    """Return that alpha which is zero everywhere was never set: of BMP, ICO and CUR."""
    return Meaning(alpha=Alpha.DOUBTFUL)


def _tga(image: ImageFile.ImageFile) -> Meaning:
    """Return what the attribute bits of a TGA and the extension area of its second version say about alpha."""
    file = _file(image)
    file.seek(17)
    attribute_bits = file.read(1)[0] & 15
    file.seek(-26, 2)
    footer = file.read(26)
    kind = 3
    if footer.endswith(TGA_FOOTER) and (area := struct.unpack("<I", footer[:4])[0]):
        file.seek(area + 494)
        kind = (file.read(1) or b"\3")[0]
    if not attribute_bits or kind in (0, 1, 2):
        return Meaning(alpha=Alpha.NONE)
    return Meaning(alpha=Alpha.PREMULTIPLIED if kind == 4 else Alpha.DOUBTFUL)


def _psd(image: ImageFile.ImageFile) -> Meaning:
    """Return whether the fourth channel of a PSD is opacity: then its number of layers is negative."""
    file = _file(image)
    file.seek(26)
    for _ in range(2):  # the colours of the palette, and the resources
        file.seek(struct.unpack(">I", file.read(4))[0], 1)
    section, layers, count = struct.unpack(">IIh", file.read(10).ljust(10, b"\0"))
    if image.mode != "RGBA" or (section and layers and count < 0):
        return Meaning()
    return Meaning(alpha=Alpha.NONE, remarks=(UNSTATED,))


def _sgi(image: ImageFile.ImageFile) -> Meaning:
    """Return that of 16-bit samples Pillow gives the high bytes alone."""
    file = _file(image)
    file.seek(3)
    return Meaning(coarse=Coarse("SGI")) if file.read(1) == b"\2" else Meaning()


def _ppm(image: ImageFile.ImageFile) -> Meaning:
    """Return how a PGM or PPM of more than 8 bits is read; Pillow scales its numbers, those of colours to 8 bits."""
    tile: Any = image.tile[0]
    decoder, _, offset, details = tile
    maxval = details[1] if decoder.startswith("ppm") else 65535 * (details == "I;16B")
    if image.mode == "F" or maxval < 256:
        return _by_mode(image)
    range_of = full if maxval == 65535 else fixed(0, maxval)
    if decoder != "ppm_plain":
        return Meaning(Deep(partial(_binary, image, offset), mode=image.mode.replace("I", "L"), range_of=range_of))
    if image.mode == "I":
        return Meaning(Deep(partial(_unscaled, image, maxval / 65535), range_of=range_of))
    return Meaning(coarse=Coarse("plain PPM", maxval == 65535))


def _binary(image: ImageFile.ImageFile, offset: int) -> NDArray[np.uint16]:
    """Return the 16-bit numbers of a binary PGM or PPM."""
    file, channels = _file(image), len(image.getbands())
    file.seek(offset)
    data = file.read(2 * image.width * image.height * channels)
    if len(data) < 2 * image.width * image.height * channels:
        raise OSError("image file is truncated")
    return np.frombuffer(data, ">u2").reshape(image.height, image.width, -1).squeeze(2 if channels == 1 else ())


def _unscaled(image: Image.Image, factor: float) -> NDArray[np.uint16]:
    return np.rint(np.asarray(image) * factor).astype(np.uint16)


def _fits(image: ImageFile.ImageFile) -> Meaning:
    """Return how the numbers of a FITS are read: BSCALE times the stored one plus BZERO; 16-bit ones are signed, and by
    a BZERO of 32768 unsigned. ValueError for one of several planes, of which Pillow reads the first."""
    cards = _cards(_file(image))
    prefix = "Z" if cards.get("ZIMAGE") == "T" else ""
    if int(cards.get(f"{prefix}NAXIS", 0)) > 2 and int(cards.get(f"{prefix}NAXIS3", 1)) > 1:
        raise ValueError("FITS of several planes; save the one that is meant, or all as an RGB image")
    scale, zero = float(cards.get("BSCALE", 1)), float(cards.get("BZERO", 0))
    unsigned = image.mode == "I;16" and (scale, zero) == (1, 32768)
    if image.mode == "L" and (scale, zero) == (1, 0):
        return Meaning()
    kind = {"L": "8-bit integers with BZERO or BSCALE", "I;16": "signed 16-bit integers", "I": "32-bit integers"}
    read = partial(_physical, image, scale, zero)
    return Meaning(Deep(read, kind.get(image.mode, "floats"), range_of=full if unsigned else unknown))


def _physical(image: Image.Image, scale: float, zero: float) -> NDArray[Any]:
    stored = np.asarray(image)
    return (stored.view(np.int16) if image.mode == "I;16" else stored) * scale + zero


def _cards(file: IO[bytes]) -> dict[str, str]:
    """Return the keywords of the first header of a FITS that announces an image."""
    file.seek(0)
    cards: dict[str, str] = {}
    while len(card := file.read(80).decode("ascii", "replace")) == 80:
        name, value = card[:8].strip(), card[10:].split("/")[0].strip()
        if name == "END" and cards.get("NAXIS") != "0":
            break
        if name == "END":
            cards = {}
            file.seek(-file.tell() % 2880, 1)
        cards[name] = value
    return cards


def _file(image: ImageFile.ImageFile) -> IO[bytes]:
    assert image.fp is not None
    return image.fp


READERS = {
    "BMP": _doubtful,
    "CUR": _doubtful,
    "DIB": _doubtful,
    "FITS": _fits,
    "ICO": _doubtful,
    "JPEG2000": jpeg2000.meaning,
    "PNG": png_numbers.meaning,
    "PPM": _ppm,
    "PSD": _psd,
    "SGI": _sgi,
    "TGA": _tga,
    "TIFF": tiff_numbers.meaning,
}
