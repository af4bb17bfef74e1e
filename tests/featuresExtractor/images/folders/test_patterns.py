"""Patterns in names, and the commands that are printed for them, which are run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from featuresExtractor.images.folders.dataset import find_images
from featuresExtractor.images.folders.patterns import difference, sides_in_names


def told(left: str, right: str, root: Path = Path("d"), numbers: range = range(40)) -> str:
    """What is said of names such as `img{}_left.jpg`, in which numbers are put."""
    return difference([left.format(number) for number in numbers], [right.format(number) for number in numbers], root)


@pytest.mark.parametrize(
    ("left", "right", "pattern"),
    [
        ("img{}_left.jpg", "img{}_right.jpg", "left names end in '_left' and right names end in '_right'"),
        ("{:03}_l.png", "{:03}_r.tif", "left names end in '_l' and right names end in '_r'"),
        ("left-{}.jpg", "right-{}.jpg", "left names begin with 'left-' and right names begin with 'right-'"),
        ("L{:04}.jpg", "R{:04}.jpg", "left names begin with 'L' and right names begin with 'R'"),
        ("{:03}.jpg", "{:03}_r.jpg", "right names end in '_r', and the others do not"),
        ("cat{}a.jpg", "cat{}b.jpg", "left names end in 'a' and right names end in 'b'"),
        ("img_left_{}.jpg", "img_right_{}.jpg", "left names hold 'left' and right names hold 'right'"),
        ("x{}/a_left.jpg", "x{}/a_right.jpg", "left names end in '_left' and right names end in '_right'"),
        ("{:03}.jpg", "{}.jpg", "leading zeros are lost, such as '000.jpg' and '0.jpg'"),
        ("Img{}.JPG", "img{}.jpg", "upper and lower case differ, such as 'Img0.JPG' and 'img0.jpg'"),
        ("cat/{}.jpg", "{}.jpg", "the folders differ, such as 'cat/0.jpg' and '0.jpg'"),
    ],
)
def test_the_difference_between_names_is_seen(left: str, right: str, pattern: str) -> None:
    actual = told(left, right)
    assert actual.startswith(pattern)
    assert f"{left.format(0)} and {right.format(0)}" in actual.replace("'", "")


@pytest.mark.parametrize(("left", "right"), [("{}.jpg", "9{}.jpg"), ("a{}.jpg", "x{}y7{}z.jpg")])
def test_names_that_differ_otherwise_have_no_pattern(left: str, right: str) -> None:
    some = [left.format(number) for number in range(10)]
    others = [right.format(100 - number, 3 * number) for number in range(10)]
    assert difference(some, others, Path("d")) == ""


def test_a_few_others_do_not_hide_a_pattern() -> None:
    left = ["cover.jpg", *(f"{number}_left.jpg" for number in range(30)), "z.jpg"]
    right = ["back.png", *(f"{number}_right.jpg" for number in range(3, 33))]
    assert difference(left, right, Path("d")).startswith("left names end in '_left' and right names end in '_right' (")


@pytest.mark.parametrize(
    ("left", "right"),
    [("a{}_left.jpg", "a{}_right.jpg"), ("L{}.png", "R{}.png"), ("{}.png", "{}.b.png"), ("cata{}a.png", "cata{}b.png")],
)
def test_the_printed_command_makes_pairs(left: str, right: str, tmp_path: Path) -> None:
    root = tmp_path / "a set's folder"
    for side, names in (("left", left), ("right", right)):
        (root / side).mkdir(parents=True)
        for number in range(12):
            (root / side / names.format(number)).touch()
    command = told(left, right, root, range(12)).partition("for example with bash: ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert len(find_images(root)) == 12


def test_names_that_a_shell_would_read_otherwise_are_in_no_command() -> None:
    actual = told("{}_$(touch x).jpg", "{}_`y`.jpg")
    assert "left names end in '_$(touch x)'" in actual
    assert "bash" not in actual


def test_pairs_in_one_folder_are_seen() -> None:
    assert sides_in_names(["b.jpg", "a-L.jpg", "a-R.png"]) == (1, "a-L.jpg", "a-R.png")
    assert sides_in_names(["cleft.jpg", "cright.jpg", "left/a.jpg", "right/a.jpg"]) == (0, "", "")
