"""Numbers of every other kind of file as 8-bit RGB: beside values that are worked out here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images.pixels.alpha import INVISIBLE, UNSET
from featuresExtractor.images.pixels.meaning import UNSTATED
from featuresExtractor.images.pixels.ranges import FULL, NARROW, SMALL, levels
from featuresExtractor.images.pixels.values import to_rgb
from featuresExtractor.images.settings import STORED, Decoding

TWELVE = Decoding((0.0, 4095.0))


def random_rgb(size: tuple[int, int], seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def pixel(image: Image.Image) -> Any:
    return image.getpixel((0, 0))


def saved(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    """The image after it has been written to a file of `kind` and opened again."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [("L", 77, (77, 77, 77)), ("1", 1, (255, 255, 255)), ("1", 0, (0, 0, 0)), ("RGBX", (1, 2, 3, 9), (1, 2, 3))],
)
def test_greyscale_and_padded_pixels_become_rgb(mode: str, colour: Any, shown: tuple[int, int, int]) -> None:
    rgb, _ = to_rgb(Image.new(mode, (3, 2), colour))
    assert (rgb.mode, rgb.size, pixel(rgb)) == ("RGB", (3, 2), shown)


def test_palette_colours_are_looked_up() -> None:
    image = random_rgb((8, 8)).quantize(16)
    assert image.mode == "P"
    assert np.array_equal(np.asarray(to_rgb(image)[0]), np.asarray(image.convert("RGB")))


def over_white(value: int, alpha: int) -> float:
    """Porter and Duff's `over` on white, by hand."""
    return value * alpha / 255 + 255 * (1 - alpha / 255)


@pytest.mark.parametrize("alpha", [0, 1, 100, 254, 255])
def test_transparent_pixels_are_laid_over_white(alpha: int) -> None:
    for mode, colour in (("RGBA", (10, 100, 200, alpha)), ("LA", (50, alpha))):
        image = Image.new(mode, (1, 1), colour)
        expected = [over_white(value, alpha) for value in (colour[:3] if mode == "RGBA" else colour[:1] * 3)]
        assert np.allclose(pixel(to_rgb(image)[0]), expected, atol=1)


def test_palette_with_one_transparent_colour_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opened = saved(image, "PNG", transparency=1)
    assert opened.mode == "P"
    assert np.asarray(to_rgb(opened)[0]).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_degrees_of_transparency_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    opened = saved(image, "PNG", transparency=bytes([255, 100]))
    blue = [round(over_white(value, 100)) for value in (0, 0, 255)]
    assert np.allclose(np.asarray(to_rgb(opened)[0]), [[[255, 0, 0], blue]], atol=1)


@pytest.mark.parametrize(("mode", "key", "other"), [("RGB", (9, 8, 7), (1, 2, 3)), ("L", 9, 1)])
def test_colour_key_of_a_png_is_transparent(mode: str, key: Any, other: Any) -> None:
    image = Image.new(mode, (2, 1), key)
    image.putpixel((1, 0), other)
    opened = saved(image, "PNG", transparency=key)
    assert opened.mode == mode
    shown = [1, 2, 3] if mode == "RGB" else [1, 1, 1]
    assert np.asarray(to_rgb(opened)[0]).tolist() == [[[255, 255, 255], shown]]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    opened = saved(Image.new("RGB", (16, 16), (200, 60, 20)).convert("CMYK"), "JPEG", quality=100)
    assert opened.mode == "CMYK"
    assert np.allclose(pixel(to_rgb(opened)[0]), (200, 60, 20), atol=4)


SIXTEEN_BITS = [(0, 0), (65535, 255), (32768, 128), (257, 1), (128, 0), (129, 1), (65406, 254), (65407, 255)]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8_and_rounded(kind: str) -> None:
    values, expected = zip(*SIXTEEN_BITS, strict=True)
    opened = saved(Image.fromarray(np.array([values], np.uint16)), kind)
    assert opened.mode.startswith("I")
    rgb = np.asarray(to_rgb(opened)[0])
    assert rgb[0, :, 0].tolist() == list(expected)
    assert (rgb == rgb[..., :1]).all()


def test_big_endian_16_bits_are_scaled_too() -> None:
    image = Image.frombytes("I;16B", (2, 1), np.array([32768, 65535], ">u2").tobytes())
    assert np.asarray(to_rgb(image)[0])[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "CMYK", "RGBX"])
def test_other_modes_of_pillow_are_converted(mode: str) -> None:
    image = random_rgb((8, 8)).convert(mode)
    assert np.abs(np.asarray(to_rgb(image)[0]).astype(int) - np.asarray(random_rgb((8, 8)))).max() <= 8


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_modes_of_pillow_are_laid_over_white(mode: str) -> None:
    stored = (20, 40, 60, 100)[-2 if mode == "La" else 0 :]
    rgb, _ = to_rgb(Image.frombytes(mode, (1, 1), bytes(stored)))
    assert np.abs(np.array(pixel(rgb)) - (np.array(stored[:-1]) + 255 - stored[-1])).max() <= 1


@pytest.mark.parametrize(("mode", "kind"), [("I", "32-bit integers"), ("F", "32-bit floats")])
def test_numbers_of_unknown_range_are_refused(mode: str, kind: str) -> None:
    for value in (0, 70_000):
        with pytest.raises(ValueError, match=f"{kind} of unknown range: pass --value-range LOW HIGH, or save it as 8"):
            to_rgb(Image.new(mode, (2, 2), value))
    assert pixel(to_rgb(Image.new(mode, (2, 2), 1000), Decoding((0.0, 4000.0)))[0]) == (64, 64, 64)


def test_levels_are_those_of_exact_arithmetic() -> None:
    everything = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(levels(everything, FULL), (everything.astype(int) + 128) // 257)
    for low, high in [(0, 4095), (100, 1123), (-5, 70_000)]:
        exact = [min(255, max(0, (510 * (int(v) - low) + (high - low)) // (2 * (high - low)))) for v in everything[::7]]
        assert np.array_equal(levels(everything[::7], (low, high)), exact)
        assert np.array_equal(levels(everything[::7].astype(">u2"), (low, high)), exact)
        assert np.array_equal(levels(everything[::7].astype(np.float64), (low, high)), exact)


# --- PNG ---

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def png(samples: NDArray[Any], kind: int, bits: int, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """A PNG of samples (H, W, C), of colour type `kind`, with `chunks` before its data."""
    height, width = samples.shape[:2]

    def rows(part: NDArray[Any]) -> bytes:
        if not part.size:
            return b""
        table = (part.reshape(len(part), -1)[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
        data = np.packbits(table.reshape(len(part), -1).astype(np.uint8), axis=1)
        return b"".join(b"\0" + row.tobytes() for row in data)

    passes = [samples[top::down, left::across] for top, left, down, across in ADAM7] if interlaced else [samples]
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    data = zlib.compress(b"".join(map(rows, passes)))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def read(data: bytes, decoding: Decoding = STORED) -> tuple[NDArray[Any], tuple[str, ...]]:
    with Image.open(io.BytesIO(data)) as image:
        rgb, remarks = to_rgb(image, decoding)
        return np.asarray(rgb).astype(int), remarks


def random_samples(channels: int, bits: int) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, 2**bits, (11, 13, channels))


PNGS = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 8),
    (0, 16),
    (2, 8),
    (2, 16),
    (3, 1),
    (3, 2),
    (3, 4),
    (3, 8),
    (4, 8),
    (4, 16),
    (6, 8),
    (6, 16),
]


@pytest.mark.parametrize(("kind", "bits"), PNGS)
@pytest.mark.parametrize("interlaced", [False, True])
def test_every_kind_of_png_is_what_its_numbers_say(kind: int, bits: int, interlaced: bool) -> None:
    samples, chunks = random_samples(CHANNELS[kind], bits), []
    values = samples * 255 / (2**bits - 1)
    if kind == 3:
        table = np.random.default_rng(2).integers(0, 256, (2**bits, 3))
        chunks = [(b"PLTE", table.astype(np.uint8).tobytes())]
        values = table[samples[..., 0]].astype(float)
    if kind in (4, 6):
        share = values[..., -1:] / 255
        values = values[..., :-1] * share + 255 * (1 - share)
    rgb, remarks = read(png(samples, kind, bits, *chunks, interlaced=interlaced))
    assert np.abs(rgb - values).max() <= (1.3 if kind in (4, 6) else 0.5 + 1e-9)
    assert remarks == ()


@pytest.mark.parametrize(("kind", "bits"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_only_pixels_of_exactly_the_transparent_colour_are_transparent(kind: int, bits: int) -> None:
    """At 16 bits the high bytes of two pixels are those of the transparent colour, and only one is that colour."""
    key = {1: 1, 2: 2, 4: 5, 8: 9, 16: 0x1234}[bits]
    near = {1: 0, 2: 1, 4: 10, 8: 153, 16: 0x1235}[bits]
    samples = np.array([[[key] * CHANNELS[kind], [near] * CHANNELS[kind]]])
    rgb, _ = read(png(samples, kind, bits, (b"tRNS", struct.pack(">H", key) * CHANNELS[kind])))
    shown = (2 * 255 * near + 2**bits - 1) // (2 * (2**bits - 1))
    assert rgb.tolist() == [[[255] * 3, [shown] * 3]]


def test_transparent_colour_with_unused_bits_set_is_still_found() -> None:
    samples = np.array([[[1, 2, 3], [4, 5, 6]]])
    rgb, _ = read(png(samples, 2, 8, (b"tRNS", struct.pack(">HHH", 0xFF01, 0xFF02, 0xFF03))))
    assert rgb.tolist() == [[[255] * 3, [4, 5, 6]]]


def test_transparent_entries_of_a_palette_of_few_bits_are_laid_over_white() -> None:
    chunks = [(b"PLTE", bytes([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])), (b"tRNS", bytes([255, 0, 51]))]
    rgb, _ = read(png(np.arange(4).reshape(1, 4, 1), 3, 2, *chunks))
    assert np.abs(rgb - [[[0, 0, 0], [255, 255, 255], [212, 214, 216], [70, 80, 90]]]).max() <= 1


@pytest.mark.parametrize("kind", [0, 2, 4, 6])
@pytest.mark.parametrize("bits", [10, 12])
def test_fewer_bits_in_16_are_remarked_upon_and_read_with_a_range(kind: int, bits: int) -> None:
    samples = random_samples(CHANNELS[kind], bits)
    if kind in (4, 6):
        samples[..., -1] = 65535
    colors = samples[..., :-1] if kind in (4, 6) else samples
    rgb, remarks = read(png(samples, kind, 16))
    assert remarks == (SMALL[4096],)
    rgb, remarks = read(png(samples, kind, 16), Decoding((0.0, 2.0**bits - 1)))
    assert np.abs(rgb - colors * 255 / (2**bits - 1)).max() <= 0.5 + 1e-9
    assert remarks == ()


def test_alpha_of_fewer_bits_is_scaled_like_the_colours() -> None:
    samples = np.array([[[2000, 1000, 0, 4095], [2000, 1000, 0, 1365]]])
    share = np.array([[[1], [1 / 3]]])
    expected = samples[..., :3] / 4095 * 255 * share + 255 * (1 - share)
    assert np.abs(read(png(samples, 6, 16), TWELVE)[0] - expected).max() <= 1.3


@pytest.mark.parametrize(
    ("highest", "remark"), [(255, 4096), (4095, 4096), (4096, 16384), (16383, 16384), (16384, 0), (0, 0)]
)
def test_remark_about_values_that_use_little_of_16_bits(highest: int, remark: int) -> None:
    _, remarks = read(png(np.array([[[0], [highest]]]), 0, 16))
    assert remarks == ((SMALL[remark],) if remark else ())


def as_they_are(values: NDArray[Any], _bits: int) -> NDArray[Any]:
    return values


def shifted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    return values << (16 - bits)


def repeated(values: NDArray[Any], bits: int) -> NDArray[Any]:
    return values << (16 - bits) | values >> (2 * bits - 16)


def linear(values: NDArray[Any], bits: int) -> Any:
    return np.rint(values * 65535 / (2**bits - 1)).astype(int)


@pytest.mark.parametrize("stored", [as_they_are, shifted, repeated, linear])
@pytest.mark.parametrize("dark", [1, 20])
@pytest.mark.parametrize(("kind", "bits"), [(0, 10), (2, 12), (6, 14), (4, 12)])
def test_significant_bits_of_a_png_give_the_range(
    stored: Callable[[NDArray[Any], int], NDArray[Any]], dark: int, kind: int, bits: int
) -> None:
    """Scaled up to 16 bits as the standard has it, or stored as they are; in bright images and in dark ones."""
    values = random_samples(CHANNELS[kind], bits) // dark
    samples = stored(values, bits)
    if kind in (4, 6):
        samples[..., -1], values = 65535, values[..., :-1]
    rgb, remarks = read(png(samples, kind, 16, (b"sBIT", bytes([bits] * CHANNELS[kind]))))
    assert np.abs(rgb - values * 255 / (2**bits - 1)).max() <= 0.51
    assert remarks == ()


# --- PGM, PPM, PFM ---


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("maxval", [1, 15, 255, 256, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_of_a_pgm_or_ppm_are_parts_of_its_maxval(channels: int, maxval: int, plain: bool) -> None:
    values = np.random.default_rng(1).integers(0, maxval + 1, (6, 7, channels))
    kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[channels, plain]
    body = (
        " ".join(map(str, values.ravel())).encode()
        if plain
        else values.astype(">u2" if maxval > 255 else "u1").tobytes()
    )
    rgb, remarks = read(b"P%d\n# 7 x 6\n7 6\n%d\n" % (kind, maxval) + body)
    assert np.abs(rgb - values * 255 / maxval).max() <= 0.5 + 1e-9
    assert remarks == ()


@pytest.mark.parametrize(("channels", "plain"), [(1, False), (1, True), (3, False)])
def test_a_range_is_in_the_numbers_of_the_pgm_or_ppm_itself(channels: int, plain: bool) -> None:
    values = random_samples(channels, 12)
    body = " ".join(map(str, values.ravel())).encode() if plain else values.astype(">u2").tobytes()
    for maxval in (4095, 10_000, 65535):
        data = b"P%d 13 11 %d\n" % (2 if plain else 5 + channels // 3, maxval) + body
        assert np.abs(read(data, TWELVE)[0] - values * 255 / 4095).max() <= 0.5 + 1e-9
        assert read(data)[1] == ((SMALL[4096],) if maxval == 65535 else ())


def test_a_truncated_ppm_of_16_bits_is_refused() -> None:
    with pytest.raises(OSError, match="truncated"):
        read(b"P6 3 3 65535\n" + bytes(53))


def test_floats_of_a_pfm_are_read_with_a_range_alone() -> None:
    data = b"Pf\n2 1\n-1.0\n" + np.array([0.25, 1.5], "<f4").tobytes()
    with pytest.raises(ValueError, match="32-bit floats of unknown range"):
        read(data)
    assert read(data, Decoding((0.0, 1.0)))[0][0, :, 0].tolist() == [64, 255]


# --- JPEG 2000 ---


def jpeg2000(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG2000", irreversible=False, **options)
    return file.getvalue()


def test_jpeg_2000_of_12_bits_is_scaled_by_its_own_bits() -> None:
    """Pillow writes 16 bits alone: written 12 bits off the middle, and its header changed, the file has 12."""
    values = random_samples(1, 12)[..., 0]
    data = jpeg2000(Image.fromarray((values + 2**15 - 2**11).astype(np.uint16)))
    size = data.index(b"\xff\x4f\xff\x51") + 4 + 38
    assert data[size] == 15
    data = data[:size] + bytes([11]) + data[size + 1 :]
    assert np.abs(read(data)[0][..., 0] - values * 255 / 4095).max() <= 0.5 + 1e-9
    assert read(data)[1] == ()
    assert np.abs(read(data, Decoding((0.0, 8190.0)))[0][..., 0] - values * 255 / 8190).max() <= 0.5 + 1e-9


def test_12_bits_in_a_jpeg_2000_of_16_are_remarked_upon() -> None:
    data = jpeg2000(Image.fromarray(random_samples(1, 12)[..., 0].astype(np.uint16)))
    assert read(data)[1] == (SMALL[4096],)
    assert np.abs(read(data, TWELVE)[0] - random_samples(1, 12) * 255 / 4095).max() <= 0.5 + 1e-9


def test_fourth_channel_of_a_jpeg_2000_is_opacity_only_where_it_is_defined_so() -> None:
    samples = random_samples(4, 8).astype(np.uint8)
    share = samples[..., 3:] / 255
    rgb, remarks = read(jpeg2000(Image.fromarray(samples)))
    assert np.abs(rgb - (samples[..., :3] * share + 255 * (1 - share))).max() <= 1
    assert remarks == ()
    infrared = jpeg2000(Image.fromarray(samples)).replace(b"\0\3\0\1\0\0\0\0", b"\0\3\xff\xff\xff\xff\0\0")
    for data in (jpeg2000(Image.fromarray(samples), no_jp2=True), infrared):
        rgb, remarks = read(data)
        assert np.array_equal(rgb, samples[..., :3])
        assert remarks == (UNSTATED,)


# --- FITS, SGI ---


def fits(values: NDArray[Any], bits: int, **cards: object) -> bytes:
    given = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": values.ndim} | {
        f"NAXIS{axis + 1}": side for axis, side in enumerate(values.shape[::-1])
    }
    text = "".join(f"{name:8}= {value!s:>20}".ljust(80) for name, value in (given | cards).items()) + "END"
    data = values.tobytes()
    return text.ljust(2880).encode() + data + bytes(-len(data) % 2880)


def test_fits_of_16_bits_is_signed_unless_it_says_otherwise() -> None:
    values = np.array([[0, 1000], [30_000, 65535]])
    stored = (values - 32768).astype(">i2")
    rgb, _ = read(fits(stored[::-1], 16, BZERO=32768))
    assert rgb[..., 0].tolist() == [[0, 4], [117, 255]]
    with pytest.raises(ValueError, match="signed 16-bit integers of unknown range"):
        read(fits(stored, 16))
    rgb, _ = read(fits(stored[::-1], 16, BSCALE=2), Decoding((-65536.0, 65534.0)))
    assert np.abs(rgb[..., 0] - values * 255 / 65535).max() <= 0.5 + 1e-9


def test_fits_of_8_bits_is_read_and_its_kinds_of_unknown_range_are_refused() -> None:
    assert read(fits(np.array([[3, 200]], np.uint8), 8))[0][0, :, 0].tolist() == [3, 200]
    for bits, kind in ((32, ">i4"), (-32, ">f4")):
        with pytest.raises(ValueError, match="of unknown range"):
            read(fits(np.array([[3, 200]], kind), bits))
        assert read(fits(np.array([[3, 200]], kind), bits), Decoding((0.0, 255.0)))[0][0, :, 0].tolist() == [3, 200]
    with pytest.raises(ValueError, match="FITS of several planes"):
        read(fits(np.zeros((3, 2, 2), np.uint8), 8))


def test_sgi_of_16_bits_is_read_by_its_high_bytes_and_with_no_other_range(tmp_path: Path) -> None:
    samples = random_samples(3, 16)
    header = struct.pack(">hbbHHHH", 474, 0, 2, 3, 13, 11, 3).ljust(512, b"\0")

    def sgi(values: NDArray[Any]) -> bytes:
        return header + values[::-1].transpose(2, 0, 1).astype(">u2").tobytes()

    assert np.abs(read(sgi(samples))[0] - samples * 255 / 65535).max() <= 1
    assert read(sgi(samples // 16))[1] == (SMALL[4096],)
    with pytest.raises(ValueError, match="SGI of more than 8 bits: only the high 8 are read"):
        read(sgi(samples), TWELVE)


# --- alpha that is, and is not, opacity ---

COLORS = np.random.default_rng(5).integers(0, 256, (6, 5, 3)).astype(np.uint8)
RAMP = np.linspace(0, 255, 30).round().astype(np.uint8).reshape(6, 5, 1)


def over(alpha: NDArray[Any]) -> NDArray[Any]:
    """The colours over white."""
    return COLORS * (alpha / 255.0) + 255 * (1 - alpha / 255.0)


def tga(alpha: NDArray[Any], attribute_bits: int, kind: int | None = None) -> bytes:
    """A TGA of 32 bits a pixel, the first row at the top; in version 2 with the `kind` of its alpha."""
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 5, 6, 32, 32 | attribute_bits)
    data = head + np.concatenate([COLORS[..., ::-1], alpha], axis=-1).tobytes()
    if kind is None:
        return data
    area = struct.pack("<H", 495) + bytes(492) + bytes([kind])
    return data + area + struct.pack("<II", len(data), 0) + b"TRUEVISION-XFILE.\0"


@pytest.mark.parametrize(
    ("data", "shown", "remarks"),
    [
        (tga(RAMP, 8), over(RAMP), ()),
        (tga(RAMP, 0), COLORS, ()),
        (tga(RAMP * 0, 0), COLORS, ()),
        (tga(RAMP * 0, 8), COLORS, (UNSET,)),
        (tga(RAMP, 8, 3), over(RAMP), ()),
        (tga(RAMP, 8, 2), COLORS, ()),
        (tga(RAMP, 8, 1), COLORS, ()),
        (tga(RAMP, 8, 0), COLORS, ()),
    ],
)
def test_alpha_of_a_tga_is_what_its_header_says(data: bytes, shown: NDArray[Any], remarks: tuple[str, ...]) -> None:
    rgb, actual = read(data)
    assert np.abs(rgb - shown).max() <= 1
    assert actual == remarks


def test_alpha_of_a_tga_by_which_its_colours_are_multiplied_is_laid_over_white() -> None:
    rgb, _ = read(tga(np.maximum(RAMP, COLORS.max(axis=-1, keepdims=True)), 8, 4))
    assert np.abs(rgb - (COLORS + 255.0 - np.maximum(RAMP, COLORS.max(axis=-1, keepdims=True)))).max() <= 1


MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp(alpha: NDArray[Any], header: int, masks: tuple[int, ...] = ()) -> bytes:
    """A BMP of 32 bits a pixel with a header of so many bytes (40: plain; 56, 108 and 124 hold masks)."""
    pixels = np.concatenate([COLORS[::-1, :, ::-1], alpha[::-1]], axis=-1).tobytes()
    info = struct.pack("<IiiHHIIiiII", header, 5, 6, 1, 32, 3 if masks else 0, len(pixels), 0, 0, 0, 0)
    info = (info + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(pixels), 0, 0, 14 + len(info)) + info + pixels


@pytest.mark.parametrize(
    ("data", "shown", "remarks"),
    [
        (bmp(RAMP, 40), COLORS, ()),
        (bmp(RAMP * 0, 40), COLORS, ()),
        (bmp(RAMP, 40, MASKS[:3]), COLORS, ()),
        (bmp(RAMP, 56, MASKS), over(RAMP), ()),
        (bmp(RAMP * 0, 56, MASKS), COLORS, (UNSET,)),
        (bmp(RAMP, 108, MASKS), over(RAMP), ()),
        (bmp(RAMP * 0, 108, MASKS), COLORS, (UNSET,)),
        (bmp(RAMP, 124, MASKS), over(RAMP), ()),
        (bmp(RAMP * 0, 124, MASKS), COLORS, (UNSET,)),
        (bmp(RAMP, 124, (*MASKS[:3], 0)), COLORS, ()),
    ],
)
def test_alpha_of_a_bmp_is_opacity_unless_it_is_zero_everywhere(
    data: bytes, shown: NDArray[Any], remarks: tuple[str, ...]
) -> None:
    rgb, actual = read(data)
    assert np.abs(rgb - shown).max() <= 1
    assert actual == remarks


@pytest.mark.parametrize(("alpha", "shown", "remarks"), [(RAMP, over(RAMP), ()), (RAMP * 0, COLORS, (UNSET,))])
def test_alpha_of_an_icon_is_opacity_unless_it_is_zero_everywhere(
    alpha: NDArray[Any], shown: NDArray[Any], remarks: tuple[str, ...]
) -> None:
    file = io.BytesIO()
    image = Image.fromarray(np.concatenate([COLORS, alpha], axis=-1))
    image.save(file, "ICO", bitmap_format="bmp", sizes=[image.size])
    rgb, actual = read(file.getvalue())
    assert np.abs(rgb - shown).max() <= 1
    assert actual == remarks


def psd(layers: int) -> bytes:
    """A PSD of three colours and a fourth channel, that announces so many layers."""
    section = struct.pack(">Ih", 2, layers) if layers else b""
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 4, 6, 5, 8, 3) + bytes(8) + struct.pack(">I", len(section)) + section
    planes = np.concatenate([COLORS, RAMP], axis=-1).transpose(2, 0, 1)
    return head + b"\0\0" + planes.tobytes()


def test_fourth_channel_of_a_psd_is_opacity_only_where_its_number_of_layers_is_negative() -> None:
    rgb, remarks = read(psd(-1))
    assert np.abs(rgb - over(RAMP)).max() <= 1
    assert remarks == ()
    for layers in (0, 1):
        rgb, remarks = read(psd(layers))
        assert np.array_equal(rgb, COLORS)
        assert remarks == (UNSTATED,)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_a_fully_transparent_image_is_white_and_remarked_upon(kind: str) -> None:
    file = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    Image.new("RGBA", (4, 4), (9, 99, 200, 0)).save(file, kind, **options)
    rgb, remarks = read(file.getvalue())
    assert (rgb == 255).all()
    assert remarks == (INVISIBLE,)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "ICO", "JPEG2000"])
def test_formats_with_opacity_are_laid_over_white(kind: str) -> None:
    file = io.BytesIO()
    image = Image.fromarray(np.concatenate([COLORS, RAMP], axis=-1))
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "ICO": {"sizes": [image.size]}}
    image.save(file, kind, **options.get(kind, {}))
    rgb, remarks = read(file.getvalue())
    assert np.abs(rgb - over(RAMP)).max() <= 1
    assert remarks == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_ordinary_images_are_what_pillow_makes_of_them(kind: str, mode: str) -> None:
    file = io.BytesIO()
    random_rgb((20, 30)).convert(mode).save(file, kind)
    rgb, remarks = read(file.getvalue())
    assert np.array_equal(rgb, np.asarray(Image.open(file).convert("RGB")))
    assert remarks == ()


def test_16_bits_that_lie_close_together_are_remarked_upon() -> None:
    values = (np.arange(64, dtype=np.uint16).reshape(8, 8) + 30000).astype(np.uint16)
    _, remarks = to_rgb(Image.fromarray(values))
    assert remarks == (NARROW,)
