"""Names of pairs."""

from __future__ import annotations

import unicodedata

import pytest

from common.names.matching import match, stem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00001.jpg", "00001"),
        ("a b.tar.PNG", "a b.tar"),
        ("bare", "bare"),
        ("scene.1", "scene.1"),
        ("scene.1.png", "scene.1"),
        ("IMG_1.HEIC", "IMG_1"),
        ("photo.jpg?w=640", "photo.jpg?w=640"),
        (".png", ".png"),
        ("cat/.png", "cat/.png"),
        ("cat.dog/0001.png", "cat.dog/0001"),
        ("cat.dog/0001", "cat.dog/0001"),
    ],
)
def test_only_the_suffix_of_an_image_is_a_suffix(name: str, expected: str) -> None:
    assert stem(name) == expected


@pytest.mark.parametrize(
    ("left", "right", "pairs"),
    [
        (["b.jpg", "a.jpg"], ["a.png", "b.png"], [("b.jpg", "b.png"), ("a.jpg", "a.png")]),
        (["a.jpg", "a.png"], ["a.png", "a.jpg"], [("a.jpg", "a.jpg"), ("a.png", "a.png")]),
        (["a.jpg", "a.png"], ["a.png"], [("a.png", "a.png")]),
        (["a.jpg", "a.png"], ["a.tif"], []),
        (["scene.1.png", "scene.png"], ["scene", "scene.1"], [("scene.1.png", "scene.1"), ("scene.png", "scene")]),
        (["x/a.png", "y/a.png"], ["y/a.jpg"], [("y/a.png", "y/a.jpg")]),
        (["e\u0301.png"], ["\u00e9.png"], [("e\u0301.png", "\u00e9.png")]),
    ],
)
def test_names_are_matched_in_full_then_without_suffix(
    left: list[str], right: list[str], pairs: list[tuple[str, str]]
) -> None:
    matched = match(left, right)
    assert [(left[one], right[other]) for one, other in matched.pairs] == pairs
    assert {left[index] for index in matched.left} == set(left) - {one for one, _ in pairs}
    assert {right[index] for index in matched.right} == set(right) - {other for _, other in pairs}


def test_names_of_one_stem_that_cannot_be_paired_are_told_of() -> None:
    assert match(["a.jpg", "a.png", "b.jpg"], ["a.tif", "b.jpg"]).doubles == ["a.jpg", "a.png", "a.tif"]


def test_folders_count_unless_they_are_not_to() -> None:
    left, right = ["left/a.png", "x/b.png", "y/b.png"], ["right/a.png", "z/b.png"]
    assert match(left, right).pairs == []
    assert match(left, right, folders=False).pairs == [(0, 0)]


def test_stem_is_the_same_in_both_forms_of_an_accent() -> None:
    composed, decomposed = (unicodedata.normalize(form, "été.jpg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert stem(composed) == stem(decomposed) == "été"
