"""Names of pairs, and lists of them in CSV files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from common.errors import InputError
from common.names import match, read_names, select, stem


def csv_file(folder: Path, content: str | bytes) -> Path:
    path = folder / "subset.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


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
    found = match(left, right)
    assert [(left[one], right[other]) for one, other in found.pairs] == pairs
    assert {left[index] for index in found.left} == set(left) - {one for one, _ in pairs}
    assert {right[index] for index in found.right} == set(right) - {other for _, other in pairs}


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


def test_names_written_twice_are_read_once_and_in_order(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "TLL_obj\n00003.jpg\n00001.jpg\n00003.jpg\n00001.jpg\n")
    assert read_names(path) == ["00003.jpg", "00001.jpg"]


@pytest.mark.parametrize("column", ["TLL_obj", "name", "left_name"])
def test_known_column_is_found_among_others(column: str, tmp_path: Path) -> None:
    assert read_names(csv_file(tmp_path, f"index,{column}\n0,a.jpg\n1,b.jpg\n")) == ["a.jpg", "b.jpg"]


def test_byte_order_mark_windows_lines_spaces_and_blank_lines_are_no_names(tmp_path: Path) -> None:
    path = csv_file(tmp_path, b'\xef\xbb\xbfname,n\r\n a.jpg ,1\r\n\r\n"b, c.jpg",2\r\n')
    assert read_names(path) == ["a.jpg", "b, c.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no names found; a header line and one name a line are expected"),
        ("TLL_obj\n", "no names found"),
        ("a,b\n1,2\n", "columns a, b; expected one column, or one called TLL_obj, name, left_name"),
        ("n,name\n1,a.jpg\n2\n", "row 3 has no column 2; it must hold a name"),
        (b"name\n\xff\xfe\n", "no CSV file could be read here"),
    ],
)
def test_what_is_no_list_of_names_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = csv_file(tmp_path, content)
    with pytest.raises(InputError, match=message) as caught:
        read_names(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no CSV file could be read here \(.*No such file"):
        read_names(tmp_path / "none.csv")


def test_selection_compares_stems_and_keeps_the_order_of_the_data(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "c.png"]
    assert select(names, ["c.jpg", "lost.jpg", "b.jpg"], tmp_path) == ([0, 2], ["lost.jpg"])


def test_selection_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"^s\.csv: none of its 2 names is among the 1 there$"):
        select(["a.png"], ["x.jpg", "y.jpg"], Path("s.csv"))


def test_a_list_without_a_header_loses_no_name(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("0.png\n1.png\n2.png\n")
    assert read_names(tmp_path / "s.csv") == ["0.png", "1.png", "2.png"]
