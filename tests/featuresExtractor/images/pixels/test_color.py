"""Colour profiles: named and not applied, or converted, beside the same conversion in numpy."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from featuresExtractor.images.pixels.color import BROKEN, LONGEST, PLAIN_CMYK, profile_of
from featuresExtractor.images.pixels.values import to_rgb
from featuresExtractor.images.settings import STORED, Decoding
from tests.featuresExtractor.images.pixels.test_values import png

SRGB = Decoding(color="srgb")
D65, D50 = (0.3127, 0.3290), np.array([0.9642, 1.0, 0.8249])
PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "Adobe RGB (1998)": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
NOT_APPLIED = "the colour profile '{}' is not applied (--color srgb converts)"


def xyz(place: tuple[float, float]) -> NDArray[Any]:
    x, y = place
    return np.array([x / y, 1, (1 - x - y) / y])


def to_d50(name: str) -> NDArray[Any]:
    """The matrix from linear RGB of the primaries, white D65, to XYZ adapted to D50 by Bradford's method."""
    columns = np.stack([xyz(place) for place in PRIMARIES[name]], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz(D65))
    gains = (BRADFORD @ D50) / (BRADFORD @ xyz(D65))
    adapted: NDArray[Any] = np.linalg.inv(BRADFORD) @ (gains[:, None] * BRADFORD) @ matrix
    return adapted


def curve(values: NDArray[Any]) -> NDArray[Any]:
    """sRGB's numbers of linear light."""
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values.clip(1e-9) ** (1 / 2.4) - 0.055)


def linear(numbers: NDArray[Any], name: str) -> NDArray[Any]:
    """Linear light of numbers in 0..1: by sRGB's curve, for Adobe RGB by a power of 563 / 256."""
    if name.startswith("Adobe"):
        return numbers ** (563 / 256)
    return np.where(numbers <= 0.04045, numbers / 12.92, ((numbers + 0.055) / 1.055) ** 2.4)


def tag_xyz(values: NDArray[Any]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *np.rint(values * 65536).astype(int))


def tag_curve(name: str) -> bytes:
    if name.startswith("Adobe"):
        return b"curv" + struct.pack(">4xIHxx", 1, 0x0233)
    return b"para" + struct.pack(
        ">4xHxx5i", 3, *(round(v * 65536) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    )


def icc(tags: dict[bytes, bytes], space: bytes, kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 4 with these tags."""
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", start + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"none", 0x04200000, kind, space, b"XYZ ")
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + data


def text(words: str) -> bytes:
    data = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def rgb_profile(name: str, called: str | None = None) -> bytes:
    columns = to_d50(name).T
    colorants = {tag: tag_xyz(column) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tag_curve(name))
    words = {b"desc": text(called or name), b"cprt": text("none"), b"wtpt": tag_xyz(D50)}
    return icc(words | colorants | curves, b"RGB ")


def grey_profile(gamma: int = 0x0180) -> bytes:
    words = {b"desc": text("Grey of gamma 1.5"), b"cprt": text("none"), b"wtpt": tag_xyz(D50)}
    return icc(words | {b"kTRC": b"curv" + struct.pack(">4xIHxx", 1, gamma)}, b"GRAY")


def expected_srgb(numbers: NDArray[Any], name: str) -> NDArray[Any]:
    light = linear(numbers / 255.0, name) @ to_d50(name).T @ np.linalg.inv(to_d50("sRGB")).T
    return curve(light.clip(0, 1)) * 255


COLORS = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def opened(image: Image.Image, kind: str, profile: bytes | None) -> Image.Image:
    file = io.BytesIO()
    options: dict[str, Any] = {} if profile is None else {"icc_profile": profile}
    image.save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("name", ["Display P3", "Adobe RGB (1998)"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_profile_is_named_and_not_applied_unless_asked_for(name: str, kind: str) -> None:
    image = Image.fromarray(COLORS)
    rgb, remarks = to_rgb(opened(image, kind, rgb_profile(name)))
    assert np.array_equal(np.asarray(rgb), COLORS)
    assert remarks == (NOT_APPLIED.format(name),)
    rgb, remarks = to_rgb(opened(image, kind, rgb_profile(name)), SRGB)
    assert np.abs(np.asarray(rgb) - expected_srgb(COLORS, name)).max() <= 2
    assert np.abs(np.asarray(rgb) - COLORS.astype(float)).max() > 20
    assert remarks == ()


def test_opacity_is_kept_where_colours_are_converted() -> None:
    image = Image.fromarray(np.dstack([COLORS, np.full(COLORS.shape[:2], 51, np.uint8)]))
    rgb, _ = to_rgb(opened(image, "PNG", rgb_profile("Display P3")), SRGB)
    assert np.abs(np.asarray(rgb) - (expected_srgb(COLORS, "Display P3") * 0.2 + 255 * 0.8)).max() <= 1.5


def test_16_bit_colours_and_palettes_are_converted_too() -> None:
    packed = b"x\0\0" + zlib.compress(rgb_profile("Display P3"))
    data = png(COLORS.astype(int) * 257, 2, 16, (b"iCCP", packed))
    assert (
        np.abs(np.asarray(to_rgb(Image.open(io.BytesIO(data)), SRGB)[0]) - expected_srgb(COLORS, "Display P3")).max()
        <= 2
    )
    few = Image.fromarray(COLORS).quantize(16)
    rgb, _ = to_rgb(opened(few, "PNG", rgb_profile("Display P3")), SRGB)
    assert np.abs(np.asarray(rgb) - expected_srgb(np.asarray(few.convert("RGB")), "Display P3")).max() <= 2


def built_in_srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("profile", [rgb_profile("sRGB", "a camera's own"), built_in_srgb()])
@pytest.mark.parametrize("decoding", [STORED, SRGB])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_srgb_is_known_by_its_numbers_and_changes_nothing(profile: bytes, decoding: Decoding, mode: str) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    rgb, remarks = to_rgb(opened(image, "PNG", profile), decoding)
    assert np.array_equal(np.asarray(rgb), np.asarray(image.convert("RGB")))
    assert remarks == ()


def test_a_profile_that_only_calls_itself_srgb_is_not_taken_for_it() -> None:
    _, remarks = to_rgb(opened(Image.fromarray(COLORS), "PNG", rgb_profile("Display P3", "sRGB IEC61966-2.1")))
    assert remarks == (NOT_APPLIED.format("sRGB IEC61966-2.1"),)


def test_grey_is_converted_by_a_grey_profile_and_by_one_for_rgb() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb, remarks = to_rgb(opened(Image.fromarray(grey), "PNG", grey_profile()), SRGB)
    assert np.abs(np.asarray(rgb)[..., 1] - curve((grey / 255.0) ** 1.5) * 255).max() <= 2
    assert remarks == ()
    _, remarks = to_rgb(opened(Image.fromarray(grey), "PNG", grey_profile()))
    assert remarks == (NOT_APPLIED.format("Grey of gamma 1.5"),)
    rgb, _ = to_rgb(opened(Image.fromarray(grey), "PNG", rgb_profile("Adobe RGB (1998)")), SRGB)
    assert np.abs(np.asarray(rgb) - expected_srgb(np.dstack([grey] * 3), "Adobe RGB (1998)")).max() <= 2


INKS = np.random.default_rng(1).integers(0, 256, (20, 20, 4)).astype(np.uint8)


def plain(inks: NDArray[Any]) -> NDArray[Any]:
    return (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255


def cmyk_profile() -> bytes:
    """A printer whose inks are those of the plain formula, with light linear in it: a table of 9 steps, to Lab."""
    steps = np.linspace(0, 1, 9)
    inks = np.stack(np.meshgrid(*[steps] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    light = (1 - inks[:, :3]) * (1 - inks[:, 3:])
    ratio = light @ to_d50("sRGB").T / D50
    roots = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([1.16 * roots[:, 1] - 0.16, *(np.array([5, 2])[:, None] * -np.diff(roots).T)])
    lab = np.stack([lab[0], (lab[1] * 100 + 128) / 255, (lab[2] * 100 + 128) / 255], axis=-1).clip(0, 1)
    line = struct.pack(">4H", 0, 65535, 0, 65535)
    head = b"mft2" + struct.pack(">4x3Bx9i2H", 4, 3, 9, *[65536, 0, 0, 0, 65536, 0, 0, 0, 65536], 2, 2)
    table = np.rint(lab * [65280, 65280, 65280]).astype(">u2").tobytes()
    words = {b"desc": text("Inks"), b"cprt": text("none"), b"wtpt": tag_xyz(D50)}
    lut = head + line[:4] * 4 + table + line[:4] * 3
    profile = icc(words | {b"A2B0": lut, b"A2B1": lut}, b"CMYK", b"prtr")
    return profile[:20] + b"Lab " + profile[24:]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_the_plain_formula_or_by_its_profile(kind: str) -> None:
    flat = np.broadcast_to(np.array([30, 120, 200, 40], np.uint8), (16, 16, 4))
    image = Image.frombytes("CMYK", (16, 16), flat.tobytes())
    rgb, remarks = to_rgb(opened(image, kind, None))
    assert np.abs(np.asarray(rgb) - plain(flat)).max() <= 3
    assert remarks == ()
    assert to_rgb(opened(image, kind, None), SRGB)[1] == (PLAIN_CMYK,)
    rgb, remarks = to_rgb(opened(image, kind, cmyk_profile()))
    assert np.abs(np.asarray(rgb) - plain(flat)).max() <= 3
    assert remarks == (NOT_APPLIED.format("Inks"),)
    rgb, remarks = to_rgb(opened(image, kind, cmyk_profile()), SRGB)
    assert np.abs(np.asarray(rgb) - curve(plain(flat) / 255) * 255).max() <= 6
    assert np.abs(np.asarray(rgb) - plain(flat)).max() > 30
    assert remarks == ()


@pytest.mark.parametrize("decoding", [STORED, SRGB])
@pytest.mark.parametrize("profile", [b"no profile", rgb_profile("Display P3")[:200], cmyk_profile(), b"\0" * 4000])
def test_a_profile_that_cannot_be_used_is_named_and_stops_no_image(profile: bytes, decoding: Decoding) -> None:
    rgb, remarks = to_rgb(opened(Image.fromarray(COLORS), "PNG", profile), decoding)
    assert np.array_equal(np.asarray(rgb), COLORS)
    assert remarks == (BROKEN,)


def test_a_profile_that_cannot_be_unpacked_is_named_too() -> None:
    data = png(COLORS.astype(int), 2, 8, (b"iCCP", b"x\0\0no deflate"))
    assert to_rgb(Image.open(io.BytesIO(data)))[1] == (BROKEN,)


def test_a_cmyk_image_with_a_profile_for_rgb_falls_back_to_the_plain_formula() -> None:
    image = Image.frombytes("CMYK", (20, 20), INKS.tobytes())
    rgb, remarks = to_rgb(opened(image, "TIFF", rgb_profile("Display P3")), SRGB)
    assert np.abs(np.asarray(rgb) - plain(INKS)).max() <= 1
    assert remarks == (BROKEN, PLAIN_CMYK)


def test_the_name_of_a_profile_is_short_and_prints_in_one_line() -> None:
    profile = profile_of(rgb_profile("Display P3", "\x1b[31mred\n'and'\tmore " + 200 * "x"))
    assert profile
    assert len(profile.name) <= LONGEST
    assert profile.name.isprintable()
    assert profile_of(rgb_profile("Display P3", " ")).name == "without a name"  # type: ignore[union-attr]


def test_threads_share_a_conversion() -> None:
    """Sixteen threads, two profiles, and colours that differ from thread to thread."""
    generator = np.random.default_rng(7)
    parts = [generator.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(64)]
    names = ["Display P3", "Adobe RGB (1998)"] * 32
    images = [opened(Image.fromarray(part), "PNG", rgb_profile(name)) for part, name in zip(parts, names, strict=True)]
    with ThreadPoolExecutor(16) as pool:
        actual = list(pool.map(lambda image: np.asarray(to_rgb(image, SRGB)[0]), images))
    for rgb, part, name in zip(actual, parts, names, strict=True):
        assert np.abs(rgb - expected_srgb(part, name)).max() <= 2
