"""Names that look like those of second views, and names that only look alike."""

from __future__ import annotations

import string

import pytest

from common.errors import InputError
from featuresExtractor.features.pairing.affixes import suspects

NAMES = [f"{name}.jpg" for name in ("boat", "cat", "dog", "hat", "kite", "lamp", "mug", "owl", "pot", "tree")]


def refused(names: list[str]) -> str:
    with pytest.raises(InputError) as raised:
        suspects(names)
    return str(raised.value)


PATTERNS = {
    "flip_{}.jpg": "'flip_' in front",
    "{}_flipped.jpg": "'_flipped' at the end",
    "{}-mirror.jpg": "'-mirror' at the end",
    "{}_1.jpg": "'_1' at the end",
    "{}(2).jpg": "'(2)' at the end",
    "x{}.jpg": "'x' in front",
    "{}f.png": "'f' at the end",
    "flipped/{}.jpg": "'flipped/' in front",
    "{}.jpeg": "the suffix of the image",
    "augmented_0_{}.jpg": "'augmented_0_' in front",
}


@pytest.mark.parametrize(("pattern", "affix"), PATTERNS.items())
@pytest.mark.parametrize("count", [10, 7, 5])
def test_an_affix_of_many_names_is_refused(pattern: str, affix: str, count: int) -> None:
    marked = [pattern.format(name.removesuffix(".jpg")) for name in NAMES]
    message = refused(NAMES + marked[:count])
    examples = f"{marked[0]} and {NAMES[0]}, {marked[1]} and {NAMES[1]}"
    assert message == f"{count} of {10 + count} names differ from another only by {affix} ({examples})"


@pytest.mark.parametrize(("pattern", "affix"), PATTERNS.items())
@pytest.mark.parametrize("count", [4, 2])
def test_an_affix_of_few_names_is_warned_of(pattern: str, affix: str, count: int) -> None:
    marked = [pattern.format(name.removesuffix(".jpg")) for name in NAMES]
    message = suspects(NAMES + marked[:count])
    assert message is not None
    assert message.startswith(f"{count} of {10 + count} names differ from another only by {affix} ({marked[0]} and ")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_name_is_no_pattern(pattern: str) -> None:
    assert suspects([*NAMES, pattern.format("cat")]) is None


@pytest.mark.parametrize("folder", ["photos/left/", "left\\", "a/b/"])
def test_an_affix_behind_the_folder_is_seen(folder: str) -> None:
    names = [f"{folder}{name}" for name in NAMES]
    assert "'flip_' in front" in refused(names + [f"{folder}flip_{name}" for name in NAMES])


@pytest.mark.parametrize("where", ["data/{}/all/", "{}/data/all/", "data/all/{}/"])
def test_a_folder_of_its_own_for_flipped_images_is_seen(where: str) -> None:
    names = [f"{where.format(folder).replace('//', '/')}{name}" for folder in ("", "flipped") for name in NAMES]
    names = [name.removeprefix("/") for name in names]
    assert "'flipped/' in front" in refused(names)


@pytest.mark.parametrize("views", [3, 5, 8])
def test_many_views_of_each_are_seen(views: int) -> None:
    names = NAMES + [f"{name.removesuffix('.jpg')}_crop{chr(97 + view)}.jpg" for view in range(views) for name in NAMES]
    assert refused(names).startswith(f"10 of {10 + 10 * views} names differ")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("{}_orig.jpg", "{}_flip.jpg"),
        ("orig_{}.jpg", "hflip_{}.jpg"),
        ("original/{}.jpg", "flipped/{}.jpg"),
        ("data/plain/{}.jpg", "data/mirrored/{}.jpg"),
    ],
)
def test_a_word_for_flipping_in_the_place_of_another_is_seen(one: str, other: str) -> None:
    bases = [name.removesuffix(".jpg") for name in NAMES]
    message = refused([one.format(base) for base in bases] + [other.format(base) for base in bases])
    assert message.startswith("10 of 20 names differ from another only by a word such as flip (")
    assert f"({other.format('boat')} and {one.format('boat')}, " in message


INNOCENT = {
    "numbers": [f"{number}.jpg" for number in range(1, 200)],
    "padded numbers": [f"{number:05d}.jpg" for number in range(1, 200)],
    "cameras": [f"IMG_{number}.jpg" for number in range(1, 120)],
    "numbered words": [f"{word}{number}.jpg" for word in ("cat", "dog", "") for number in ("", 1, 2, 11, 12) if word],
    "decimals": [f"{number / 2:g}.png" for number in range(40)],
    "two numbers": [f"{one}_{two}.jpg" for one in range(12) for two in range(12)],
    "views of objects": [f"{name}_{view}.jpg" for name in ("cat", "dog", "owl") for view in ("front", "side", "top")],
    "colours and shapes": [f"{one}_{two}" for one in ("red", "blue", "grey") for two in ("cube", "ball", "cone")],
    "a flip chart": ["flip_chart.jpg", "wall_chart.jpg", "tree.jpg", "cat.jpg"],
    "dates": [f"2024-{month:02d}-{day:02d}.jpg" for month in range(1, 13) for day in range(1, 29)],
    "hashes": [f"{number * 2654435761 % 2**32:08x}.jpg" for number in range(500)],
    "short": ["a", "b"],
    "none": [],
}


@pytest.mark.parametrize("names", INNOCENT.values(), ids=INNOCENT)
def test_names_that_only_look_alike_are_left_in_peace(names: list[str]) -> None:
    assert suspects(names) is None


def test_short_names_are_refused_by_no_accident() -> None:
    letters = string.ascii_uppercase
    assert suspects([*letters, *(one + two for one in letters for two in letters)]) is not None
    assert suspects([f"{number:x}" for number in range(1024)]) is not None


def test_the_longest_names_take_no_time() -> None:
    assert suspects([f"{number:06d}" + "x" * 200 for number in range(20_000)]) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("im{}_0", "im{}_1"),
        ("im{}_a", "im{}_b"),
        ("orig_im{}", "aug_im{}"),
        ("im{}-orig", "im{}-rot90"),
        ("a/im{}", "b/im{}"),
    ],
)
def test_names_that_all_come_in_twos_are_warned_of(one: str, other: str) -> None:
    names = [form.format(number) + ".png" for form in (one, other) for number in range(100, 120)]
    message = suspects(names)
    assert message
    assert "40 of 40 names come in twos that differ by" in message
    assert suspects(names[:-1]) is None
