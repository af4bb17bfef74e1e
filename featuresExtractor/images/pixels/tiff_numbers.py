"""Read what a TIFF says about its samples, beyond what Pillow uses. Tags have the numbers of TIFF 6.0."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImagePalette, TiffImagePlugin

from featuresExtractor.images.pixels.again import NATIVE, TileLayout, set_layout, sixteen_bits
from featuresExtractor.images.pixels.meaning import UNSTATED, Alpha, Coarse, Deep, Meaning
from featuresExtractor.images.pixels.ranges import RangeOf, fixed, full, stated, unknown

WIDTH, LENGTH, BITS, PHOTOMETRIC, FILL_ORDER, SAMPLES, STRIP_BYTES, PLANES = 256, 257, 258, 262, 266, 277, 279, 284
LOWEST, HIGHEST, COLOR_MAP, INK_SET, EXTRA, FORMAT, SMALLEST, LARGEST = 280, 281, 320, 332, 338, 339, 340, 341
COEFFICIENTS, SUBSAMPLING, BLACK_WHITE = 529, 530, 532
WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 2, 3, 5, 6, 8
COLORS = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}  # channels; one in all others
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
REC_601 = (0.299, 0.587, 0.114)
NO_HEADROOM = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
NUMBER_KINDS = {
    (UNSIGNED, 12): "12-bit integers",
    (UNSIGNED, 16): "16-bit integers",
    (UNSIGNED, 32): "32-bit integers",
    (SIGNED, 8): "signed 8-bit integers",
    (SIGNED, 16): "signed 16-bit integers",
    (SIGNED, 32): "signed 32-bit integers",
    (FLOAT, 32): "32-bit floats",
}
NATIVE_NUMBERS = {
    "I;16S": "I;16NS",
    "I;16BS": "I;16NS",
    "I;32S": "I;32NS",
    "I;32BS": "I;32NS",
    "F;32F": "F;32NF",
    "F;32BF": "F;32NF",
}
APART = "TIFF with PlanarConfiguration 2 of a kind that is not read; save it with interleaved channels"
BLACK_WHITE_IGNORED = "the values of black and white that the file states (ReferenceBlackWhite) are not applied"


class Tags:
    """The tags of a TIFF that say how its samples are stored."""

    def __init__(self, image: TiffImagePlugin.TiffImageFile) -> None:
        self.all: Any = image.tag_v2
        self.photometric: int | None = self.all.get(PHOTOMETRIC)
        self.bits: int = self.values(BITS, 1)[0]
        self.format: int = self.values(FORMAT, UNSIGNED)[0]
        self.samples: int = self.values(SAMPLES, 1)[0]
        self.planes: int = self.all.get(PLANES, 1)
        self.apart = self.planes == 2 and self.samples > 1
        self.compressed = bool(image.tile) and image.tile[0][0] == "libtiff"
        self.ends = "16B" if self.all.prefix == b"MM" else "16L"

    def values(self, tag: int, *default: Any) -> tuple[Any, ...]:
        """Return all values of a tag."""
        values = self.all.get(tag, default)
        return values if isinstance(values, tuple) else (values,)


def meaning(image: Image.Image) -> Meaning:
    """Return what an opened TIFF says, and correct how Pillow is about to decode it.

    Raises ValueError for what Pillow would take for something else.
    """
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    tags = Tags(image)
    _check(tags)
    if tags.photometric == PALETTE:
        _correct_palette(image, tags)
    alpha, remarks = _alpha(tags)
    if tags.bits == 16 and tags.apart and tags.compressed and image.mode == "RGB":
        return Meaning(alpha=alpha, coarse=Coarse("compressed TIFF with PlanarConfiguration 2"), remarks=remarks)
    if (tags.format, tags.bits) in NUMBER_KINDS:
        return Meaning(_deep(image, tags), alpha, remarks=remarks)
    set_layout(image, _layout(image, tags))
    return Meaning(alpha=alpha, remarks=remarks)


def _check(tags: Tags) -> None:
    if tags.photometric is None:
        raise ValueError("TIFF that does not say what its numbers mean (no PhotometricInterpretation)")
    if tags.photometric == CMYK and tags.all.get(INK_SET, 1) != 1:
        raise ValueError("TIFF of other inks than cyan, magenta, yellow and black")
    if tags.photometric == YCBCR and tags.samples > 3:
        raise ValueError("YCbCr TIFF with extra samples; save it as RGB")
    if tags.photometric == YCBCR and not tags.compressed:
        _check_ycbcr(tags)


def _check_ycbcr(tags: Tags) -> None:
    """Raise ValueError unless the colours are whole and of Rec. 601; what is compressed is converted by libtiff."""
    whole = SUBSAMPLING not in tags.all and sum(tags.values(STRIP_BYTES)) >= 3 * tags.all[WIDTH] * tags.all[LENGTH]
    if not whole and tags.values(SUBSAMPLING, 2, 2) != (1, 1):
        raise ValueError("uncompressed YCbCr TIFF with subsampled colours; save it as RGB")
    of_601 = np.allclose(_numbers(tags.values(COEFFICIENTS, *REC_601)), REC_601, atol=1e-4)
    if not of_601 or _numbers(tags.values(BLACK_WHITE, *NO_HEADROOM)) != NO_HEADROOM:
        raise ValueError("uncompressed YCbCr TIFF of unusual coefficients, black or white; save it as RGB")


def _numbers(values: tuple[Any, ...]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _correct_palette(image: TiffImagePlugin.TiffImageFile, tags: Tags) -> None:
    """Take the colours of a palette as 8-bit ones where none is above 255, as libtiff does: some programs do so."""
    colors = tags.values(COLOR_MAP)
    if colors and max(colors) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def _alpha(tags: Tags) -> tuple[Alpha, tuple[str, ...]]:
    """Return what the channel behind the colours is, and remarks. Pillow takes one without ExtraSamples for opacity."""
    alpha = {1: Alpha.PREMULTIPLIED, 2: Alpha.STRAIGHT}.get(tags.values(EXTRA, 0)[0], Alpha.NONE)
    if alpha is Alpha.PREMULTIPLIED and tags.apart and tags.compressed:
        alpha = Alpha.STRAIGHT  # Pillow divides these, whatever their rawmode says
    extra = tags.samples - COLORS.get(tags.photometric or 0, 1) - (alpha is not Alpha.NONE)
    remarks = [UNSTATED] * (extra > 0)
    if tags.photometric == RGB and BLACK_WHITE in tags.all:
        usual = (0.0, float((1 << tags.bits) - 1)) * 3
        remarks += [BLACK_WHITE_IGNORED] * (_numbers(tags.values(BLACK_WHITE)) != usual)
    return alpha, tuple(remarks)


def _deep(image: TiffImagePlugin.TiffImageFile, tags: Tags) -> Deep:
    layout, mode = _layout(image, tags), image.mode
    if len(image.getbands()) > 1:
        return Deep(partial(sixteen_bits, image, layout), mode=mode, range_of=_range_of(tags))
    set_layout(image, layout)
    kind = NUMBER_KINDS[tags.format, tags.bits]
    return Deep(partial(_grey, image, tags), kind, "L", _range_of(tags), tags.photometric == WHITE_IS_ZERO)


def _grey(image: Image.Image, tags: Tags) -> NDArray[Any]:
    """Return grey samples (H, W); Pillow gives unsigned 32-bit and signed 8-bit ones as if they were the other kind."""
    values = np.asarray(image)
    views: dict[tuple[int, int], type[np.generic]] = {(UNSIGNED, 32): np.uint32, (SIGNED, 8): np.int8}
    return values.view(views.get((tags.format, tags.bits), values.dtype))


def _range_of(tags: Tags) -> RangeOf:
    """Return the function for the range of the samples: as the tags state it, or else as the kind of number has it."""
    own = {(UNSIGNED, 16): full, (UNSIGNED, 12): fixed(0, 4095)}.get((tags.format, tags.bits), unknown)
    whole = (0.0, float((1 << tags.bits) - 1))
    for lowest, highest, statistics in ((LOWEST, HIGHEST, True), (SMALLEST, LARGEST, False)):
        lows, highs = _numbers(tags.values(lowest, *[0] * (tags.format == UNSIGNED))), _numbers(tags.values(highest))
        if lows and highs and min(lows) < max(highs) and (min(lows), max(highs)) != whole:
            own = stated((min(lows), max(highs)), statistics, own)
    return own


def _layout(image: TiffImagePlugin.TiffImageFile, tags: Tags) -> TileLayout:
    """Return how the bytes are laid out: premultiplied colours as they are, planes by their own names, and 16-bit
    colours and wide numbers in their own byte order, which after decompression is the machine's."""
    if tags.planes == 2 and (tags.apart or not tags.compressed):
        return _planes(image, tags)
    if tags.bits == 16 and len(image.getbands()) > 1:
        ends = NATIVE if tags.compressed else tags.ends
        return lambda _number, own: f"{_straight(own).split(';')[0]};{ends}"
    if tags.compressed:
        return lambda _number, own: NATIVE_NUMBERS.get(own, _straight(own))
    return lambda _number, own: _straight(own)


def _straight(rawmode: str) -> str:
    return rawmode.replace("RGBa", "RGBA")


def _planes(image: TiffImagePlugin.TiffImageFile, tags: Tags) -> TileLayout:
    """Return the layout of planes that are stored one after another."""
    if tags.compressed:
        of_eight_bits = ["CMYK", *["RGBA"] * bool(tags.values(EXTRA))] if tags.bits == 8 else []
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "F", "RGB", *of_eight_bits):
            raise ValueError(APART)
        return lambda _number, own: _straight(own)
    if tags.samples == 1:
        return lambda _number, _own: _whole_rawmode(tags)
    if image.mode not in ("RGB", "RGBA", *["CMYK"] * (tags.bits == 8)) or len(image.tile) % tags.samples:
        raise ValueError(APART)
    each, ends = len(image.tile) // tags.samples, f";{tags.ends}" if tags.bits == 16 else ""
    names = [*image.mode, *[""] * tags.samples]  # planes behind the colours are skipped
    return lambda number, _own: names[number // each] and names[number // each] + ends


def _whole_rawmode(tags: Tags) -> str:
    """Return the rawmode of a single plane, of which Pillow takes the first letter alone."""
    key: Any = (tags.all.prefix, tags.photometric, (tags.format,), tags.all.get(FILL_ORDER, 1), (tags.bits,), ())
    return TiffImagePlugin.OPEN_INFO[key][1]
