"""Names in error lines: how many, how printed, and the nearest one."""

from __future__ import annotations

import pytest

from common.errors import listed, nearest, printable


def test_few_names_are_all_listed() -> None:
    assert listed(["b.jpg", "a.jpg"]) == "b.jpg, a.jpg"


def test_ten_names_are_listed_and_the_rest_counted() -> None:
    assert listed(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(map(str, range(1234))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,224 more"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("été 1.jpg", "été 1.jpg"), ("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\nb", r"a\nb"), ("\udcff.png", r"\udcff.png")],
)
def test_names_cannot_rewrite_the_terminal(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert listed([name]) == shown


def test_nearest_name_is_offered_only_when_one_is_near() -> None:
    assert nearest("resnet5", ["alexnet", "resnet50"]) == "; did you mean 'resnet50'?"
    assert nearest("zzz", ["alexnet", "resnet50"]) == ";"
