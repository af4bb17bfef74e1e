"""TIFFs of every photometric interpretation, depth, byte order, layout and compression, beside TIFF 6.0's formulas."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from featuresExtractor.images.pixels.meaning import UNSTATED
from featuresExtractor.images.pixels.ranges import CLIPPED, EXCEEDED, FAINT, OWN_EXTREMES, SMALL, STATISTICS
from featuresExtractor.images.pixels.values import to_rgb
from featuresExtractor.images.settings import Decoding
from tests.featuresExtractor.images.tiffs import DEFLATE, LZW, PACKBITS, RAW, write_tiff

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLORS = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}
GAMMA = 1 / 2.4


def random_samples(photometric: int, bits: int, extra: int = 0, seed: int = 0) -> NDArray[np.generic]:
    generator = np.random.default_rng(seed)
    shape = (12, 13, COLORS.get(photometric, 1) + extra)
    return generator.integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)


def expected_rgb(samples: NDArray[np.generic], photometric: int, bits: int, table: NDArray[Any]) -> Any:
    """The colours (H, W, 3) in 0..255 by the formulas of TIFF 6.0, before any rounding."""
    values = samples[..., : COLORS.get(photometric, 1)].astype(float) * 255 / (2**bits - 1)
    if photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return np.repeat(255 - values if photometric == WHITE_IS_ZERO else values, 3, axis=-1)
    if photometric == PALETTE:
        return table[samples[..., 0].astype(int)].astype(float)
    if photometric == CMYK:
        return (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    if photometric == YCBCR:
        y, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
        green = y - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
        return np.stack([y + 1.402 * red, green, y + 1.772 * blue], axis=-1).clip(0, 255)
    return values if photometric == RGB else lab_to_srgb(samples)


def lab_to_srgb(samples: NDArray[np.generic]) -> Any:
    """CIE L*a*b* under D50 (a and b signed bytes) in sRGB, by Bradford's matrix from D50 and the curve of IEC 61966."""
    light = samples[..., 0].astype(float) * 100 / 255
    a, b = (samples[..., channel].astype(np.int8).astype(float) for channel in (1, 2))
    middle = (light + 16) / 116
    roots = np.stack([middle + a / 500, middle, middle - b / 200], axis=-1)
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * [0.9642, 1, 0.8249]
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.033454],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = (xyz @ np.array(matrix).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear**GAMMA - 0.055) * 255


def layouts(bits: int, channels: int) -> list[dict[str, Any]]:
    """Every byte order, compression, planar configuration and predictor that goes with so many bits and channels."""
    predictors = [(RAW, 1), (PACKBITS, 1), (LZW, 1), (DEFLATE, 1), *[(LZW, 2), (DEFLATE, 2)] * (bits in (8, 16))]
    return [
        {"order": order, "compression": compression, "planar": planar, "predictor": predictor}
        for order, (compression, predictor), planar in product("<>", predictors, (1, 2))
        if planar == 1 or channels > 1 or compression == RAW
    ]


def palette_tags(bits: int, scale: int = 257) -> tuple[NDArray[Any], dict[int, Any]]:
    table = np.random.default_rng(3).integers(0, 256, (2**bits, 3))
    return table, {320: (3, (table * scale).T.ravel().tolist())}


def read(path: Path, decoding: Decoding | None = None) -> tuple[NDArray[Any], tuple[str, ...]]:
    with Image.open(path) as image:
        rgb, remarks = to_rgb(image, decoding or Decoding())
        return np.asarray(rgb), remarks


def answers(path: Path, samples: NDArray[Any], expected: NDArray[Any], within: float, **case: Any) -> Counter[str]:
    """How often the file is read, refused by name, or of a kind that Pillow does not open, over all its layouts; a
    value that is off by more than `within` fails."""
    actual: Counter[str] = Counter()
    for layout in layouts(case["bits"], samples.shape[-1]):
        write_tiff(path, samples, **case, **layout)
        try:
            rgb, _ = read(path)
        except UnidentifiedImageError:
            actual["unknown"] += 1
        except ValueError as error:
            actual["refused" if "save it" in str(error) else str(error)] += 1
        else:
            assert np.abs(rgb - expected).max() <= within, layout
            actual["read"] += 1
    return actual


CASES = [
    (WHITE_IS_ZERO, 1, {"read": 10}),
    (WHITE_IS_ZERO, 2, {"read": 10}),
    (WHITE_IS_ZERO, 4, {"read": 10}),
    (WHITE_IS_ZERO, 8, {"read": 14}),
    (WHITE_IS_ZERO, 16, {"read": 7, "unknown": 7}),  # big-endian ones are not known to Pillow
    (BLACK_IS_ZERO, 1, {"read": 10}),
    (BLACK_IS_ZERO, 2, {"read": 10}),
    (BLACK_IS_ZERO, 4, {"read": 10}),
    (BLACK_IS_ZERO, 8, {"read": 14}),
    (BLACK_IS_ZERO, 12, {"read": 5, "unknown": 5}),
    (BLACK_IS_ZERO, 16, {"read": 14}),
    (PALETTE, 1, {"read": 10}),
    (PALETTE, 2, {"read": 10}),
    (PALETTE, 4, {"read": 10}),
    (PALETTE, 8, {"read": 14}),
    (RGB, 8, {"read": 24}),
    (RGB, 16, {"read": 24}),
    (CMYK, 8, {"read": 24}),
    (CMYK, 16, {"read": 12, "refused": 12}),
    (YCBCR, 8, {"read": 22, "refused": 2}),
    (LAB, 8, {"read": 12, "refused": 12}),
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("photometric", "bits", "counts"), CASES)
def test_every_interpretation_at_every_depth_is_right_or_refused_by_name(
    photometric: int, bits: int, counts: dict[str, int], tmp_path: Path
) -> None:
    samples = random_samples(photometric, bits)
    table, extra = palette_tags(bits) if photometric == PALETTE else (np.zeros(0), {})
    extra |= {530: (3, [1, 1])} if photometric == YCBCR else {}
    expected = expected_rgb(samples, photometric, bits, table)
    exact = photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE)
    within = 0.5 + 1e-9 if exact and (photometric, bits) != (RGB, 16) else 1.2
    actual = answers(tmp_path / "a.tif", samples, expected, within, photometric=photometric, bits=bits, extra=extra)
    assert actual == counts


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [RAW, LZW, DEFLATE])
def test_16_bit_colours_keep_their_low_bytes(order: str, compression: int, tmp_path: Path) -> None:
    samples = random_samples(RGB, 16)
    write_tiff(tmp_path / "a.tif", samples, RGB, 16, order, compression)
    assert np.array_equal(read(tmp_path / "a.tif")[0], (samples.astype(int) + 128) // 257)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("meaning", [None, 0, 1, 2])
def test_a_fourth_sample_is_opacity_only_where_the_file_says_so(bits: int, meaning: int | None, tmp_path: Path) -> None:
    samples = random_samples(RGB, bits, 1)
    if meaning == 1:
        samples[..., :3] = np.minimum(samples[..., :3], samples[..., 3:])
    colors, share = expected_rgb(samples, RGB, bits, np.zeros(0)), samples[..., 3:].astype(float) / (2**bits - 1)
    over = {1: colors + 255 * (1 - share), 2: colors * share + 255 * (1 - share)}
    extra = {} if meaning is None else {338: (3, [meaning])}
    path = tmp_path / "a.tif"
    actual = answers(path, samples, over.get(meaning or 0, colors), 1.35, photometric=RGB, bits=bits, extra=extra)
    assert actual["read"] >= 12
    write_tiff(path, samples, RGB, bits, extra=extra)
    assert read(path)[1] == (() if meaning in (1, 2) else (UNSTATED,))


@pytest.mark.parametrize("meaning", [1, 2])
@pytest.mark.parametrize("compression", [RAW, LZW])
def test_grey_with_opacity_is_laid_over_white(meaning: int, compression: int, tmp_path: Path) -> None:
    samples = random_samples(BLACK_IS_ZERO, 8, 1).astype(float)
    grey, share = samples[..., :1] if meaning == 2 else samples.min(axis=-1, keepdims=True), samples[..., 1:] / 255
    stored = np.concatenate([grey, samples[..., 1:]], axis=-1).astype(np.uint8)
    write_tiff(tmp_path / "a.tif", stored, BLACK_IS_ZERO, compression=compression, extra={338: (3, [meaning])})
    expected = (grey * share if meaning == 2 else grey) + 255 * (1 - share)
    assert np.abs(read(tmp_path / "a.tif")[0] - expected).max() <= 1


def test_colours_of_a_palette_that_are_stored_as_8_bits_are_not_black(tmp_path: Path) -> None:
    samples = random_samples(PALETTE, 8)
    table, extra = palette_tags(8, scale=1)
    write_tiff(tmp_path / "a.tif", samples, PALETTE, extra=extra)
    assert np.array_equal(read(tmp_path / "a.tif")[0], table[samples[..., 0].astype(int)])


def test_rows_of_bits_in_the_other_order_are_read(tmp_path: Path) -> None:
    samples = random_samples(BLACK_IS_ZERO, 8)
    backwards = np.packbits(np.unpackbits(samples[..., 0].astype(np.uint8)[..., None], axis=-1)[..., ::-1], axis=-1)
    for planar in (1, 2):
        write_tiff(tmp_path / "a.tif", backwards, BLACK_IS_ZERO, planar=planar, extra={266: (3, [2])})
        assert np.array_equal(read(tmp_path / "a.tif")[0], np.repeat(samples, 3, axis=-1))
    write_tiff(tmp_path / "b.tif", backwards, WHITE_IS_ZERO, extra={266: (3, [2])})
    with pytest.raises(ValueError, match="TIFF of a kind that is not read; save it as PNG"):
        read(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("photometric", "extra", "message"),
    [
        (None, {}, "no PhotometricInterpretation"),
        (CMYK, {332: (3, [2])}, "other inks than cyan"),
        (YCBCR, {530: (3, [2, 2])}, "subsampled colours"),
        (YCBCR, {530: (3, [1, 1]), 532: (4, [16, 235, 128, 240, 128, 240])}, "unusual coefficients, black or white"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(
    photometric: int | None, extra: dict[int, Any], message: str, tmp_path: Path
) -> None:
    write_tiff(tmp_path / "a.tif", random_samples(photometric or 0, 8), photometric, extra=extra)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tif")


# --- numbers of unknown range ---

NUMBERS = [
    ("32-bit integers", np.uint32, 1, 2**31 + 7),
    ("signed 8-bit integers", np.int8, 2, -100),
    ("signed 16-bit integers", np.int16, 2, -30_000),
    ("signed 32-bit integers", np.int32, 2, -(2**30)),
    ("32-bit floats", np.float32, 3, -0.5),
]


@pytest.mark.parametrize(("kind", "dtype", "number", "offset"), NUMBERS)
@pytest.mark.parametrize(("order", "compression"), list(product("<>", (RAW, LZW, DEFLATE))))
def test_numbers_of_unknown_range_are_refused_and_read_with_a_range(
    kind: str, dtype: Any, number: int, offset: float, order: str, compression: int, tmp_path: Path
) -> None:
    if number == 1 and order == ">":
        pytest.skip("not known to Pillow")
    step = 0.1 if number == 3 else 10
    values = (offset + step * np.arange(16).reshape(4, 4)).astype(dtype)
    extra = {339: (3, [number])}
    path = tmp_path / "a.tif"
    write_tiff(path, values, BLACK_IS_ZERO, values.dtype.itemsize * 8, order, compression, extra=extra)
    with pytest.raises(ValueError, match=f"^{kind} of unknown range: pass --value-range LOW HIGH, or save it as 8 or"):
        read(path)
    low, high = offset + 2 * step, offset + 12 * step
    rgb, remarks = read(path, Decoding((low, high)))
    expected = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(rgb[..., 0] - expected).max() <= 0.5 + 1e-3
    assert remarks == (CLIPPED,)


@pytest.mark.parametrize(
    ("high", "remarks"), [(4095, ()), (3999, (CLIPPED,)), (4000, ()), (64_000, ()), (64_001, (FAINT,)), (9e9, (FAINT,))]
)
def test_a_range_that_does_not_look_like_that_of_the_values_is_remarked_upon(
    high: float, remarks: tuple[str, ...], tmp_path: Path
) -> None:
    write_tiff(tmp_path / "a.tif", ramp(4000), BLACK_IS_ZERO, 16)
    assert read(tmp_path / "a.tif", Decoding((0.0, high)))[1] == remarks


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(value: float, tmp_path: Path) -> None:
    values = np.array([[0, value]], np.float32)
    write_tiff(tmp_path / "a.tif", values, BLACK_IS_ZERO, 32, extra={339: (3, [3])})
    with pytest.raises(ValueError, match="not finite"):
        read(tmp_path / "a.tif", Decoding((0.0, 1.0)))


def test_a_range_leaves_8_bit_samples_alone(tmp_path: Path) -> None:
    samples = random_samples(RGB, 8)
    write_tiff(tmp_path / "a.tif", samples, RGB)
    assert np.array_equal(read(tmp_path / "a.tif", Decoding((0.0, 4095.0)))[0], samples)


def ramp(high: int) -> NDArray[np.uint16]:
    return np.linspace(0, high, 64).round().astype(np.uint16).reshape(8, 8)


def test_a_range_is_that_of_white_is_zero_too(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", ramp(4095), WHITE_IS_ZERO, 16)
    rgb, _ = read(tmp_path / "a.tif", Decoding((0.0, 4095.0)))
    assert np.abs(rgb[..., 0] - (255 - ramp(4095) / 4095 * 255)).max() <= 0.5


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("tags", [{341: "high"}, {340: "low", 341: "high"}, {281: "high"}, {280: "low", 281: "high"}])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO, RGB])
def test_the_range_that_a_file_states_is_used(
    bits: int, tags: dict[int, str], photometric: int, tmp_path: Path
) -> None:
    samples = random_samples(photometric, bits)
    numbers = {"low": 0, "high": 2**bits - 1}
    extra = {tag: (3, [numbers[name]] * samples.shape[-1]) for tag, name in tags.items()}
    write_tiff(tmp_path / "a.tif", samples, photometric, 16, extra=extra)
    rgb, remarks = read(tmp_path / "a.tif")
    assert np.abs(rgb - expected_rgb(samples, photometric, bits, np.zeros(0))).max() <= 0.5 + 1e-9
    assert remarks == ()


@pytest.mark.parametrize(
    ("values", "tags", "span", "remarks"),
    [
        (ramp(3000), {341: (3, [3500])}, (0, 3500), ()),
        (ramp(3000), {341: (3, [2999])}, (0, 65535), (EXCEEDED, SMALL[4096])),
        (ramp(3000), {281: (3, [2000])}, (0, 65535), (EXCEEDED, SMALL[4096])),
        (ramp(3000), {341: (3, [3000])}, (0, 3000), (OWN_EXTREMES,)),
        (ramp(30_000), {281: (3, [30_000])}, (0, 65535), (STATISTICS,)),
        (ramp(30_000), {280: (3, [0]), 281: (3, [65535])}, (0, 65535), ()),
        (ramp(1023), {281: (3, [1023])}, (0, 1023), ()),
        (ramp(3000), {280: (3, [9]), 281: (3, [9])}, (0, 65535), (SMALL[4096],)),
    ],
)
def test_a_stated_range_is_used_only_where_it_can_be_one(
    values: NDArray[np.uint16], tags: dict[int, Any], span: tuple[int, int], remarks: tuple[str, ...], tmp_path: Path
) -> None:
    write_tiff(tmp_path / "a.tif", values, BLACK_IS_ZERO, 16, extra=tags)
    rgb, actual = read(tmp_path / "a.tif")
    assert np.abs(rgb[..., 0] - (values - span[0]) / (span[1] - span[0]) * 255.0).max() <= 0.5 + 1e-9
    assert actual == remarks


def test_a_stated_range_makes_floats_and_signed_integers_readable(tmp_path: Path) -> None:
    floats = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    tags: dict[int, Any] = {339: (3, [3]), 340: (11, [-1.0]), 341: (11, [1.0])}
    write_tiff(tmp_path / "a.tif", floats, BLACK_IS_ZERO, 32, extra=tags)
    assert np.abs(read(tmp_path / "a.tif")[0][..., 0] - (floats + 1) / 2 * 255).max() <= 0.5 + 1e-4
    signed = np.linspace(-1024, 3000, 16).astype(np.int16).reshape(4, 4)
    tags = {339: (3, [2]), 340: (8, [-1024]), 341: (8, [3071])}
    write_tiff(tmp_path / "b.tif", signed, BLACK_IS_ZERO, 16, extra=tags)
    assert np.abs(read(tmp_path / "b.tif")[0][..., 0] - (signed + 1024.0) / 4095 * 255).max() <= 0.5 + 1e-9


def test_low_bits_of_planes_that_pillow_drops_are_not_scaled(tmp_path: Path) -> None:
    samples = random_samples(RGB, 12)
    write_tiff(tmp_path / "a.tif", samples, RGB, 16, compression=DEFLATE, planar=2)
    assert read(tmp_path / "a.tif")[1] == (SMALL[4096],)
    with pytest.raises(ValueError, match="only the high 8 are read, so --value-range cannot be applied"):
        read(tmp_path / "a.tif", Decoding((0.0, 4095.0)))
    write_tiff(tmp_path / "b.tif", samples, RGB, 16, planar=2)
    rgb, _ = read(tmp_path / "b.tif", Decoding((0.0, 4095.0)))
    assert np.abs(rgb - samples.astype(float) / 4095 * 255).max() <= 0.5
