"""Lists of names in CSV files as spreadsheets, pandas, numpy and people write them."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError
from common.names.lists import Choice, choose

NAMES = ["bird.png", "cat.png", "cow.png", "dog.png", 'été, "2".png', "été, 3.png"]
DOTS = ["0001.png", "scene.1.png", "scene.2.png", "scene.png"]
ZEROS = ["0001.png", "0002.png", "0010.png", "0100.png"]
FOLDERS = ["cat/0001.png", "cat/0002.png", "dog/0001.png", "dog/0003.png", "x.png"]


def choice(folder: Path, content: str | bytes, names: list[str] = NAMES) -> Choice:
    path = folder / "s.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return choose(names, path)


def chosen(folder: Path, content: str | bytes, names: list[str] = NAMES) -> str:
    """The stems that a list chooses, where it has no other names and nothing is noted."""
    actual = choice(folder, content, names)
    assert (actual.missing, actual.reason, actual.notes) == ([], "", ())
    return " ".join(names[index].removesuffix(".png") for index in actual.indices)


def refusal(folder: Path, content: str | bytes, names: list[str] = NAMES) -> str:
    with pytest.raises(InputError) as caught:
        choice(folder, content, names)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder / 's.csv'}: ")


# --- header, separators, columns ---


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\n",
        "cat.jpg\ndog.jpg",
        "name\ncat\ndog\n",
        "TLL_obj\ndog.jpg\ncat.jpg\ndog.jpg\n",
        "\ufeffname\r\ncat\r\ndog\r\n",
        ",name\n0,cat\n1,dog\n",
        "name;label\ncat;1\ndog;2\n",
        "label;name\n1;cat\n2;dog\n",
        "sep=;\nlabel;Name\n1;cat\n2;dog\n",
        "name\tlabel\ncat\t1\ndog\t2\n",
        "image,label\ncat.jpg,1\ndog.jpg,2\n",
        "FILENAME\ncat.jpg\ndog.jpg\n",
        "n,File Name\n1,cat.jpg\n2,dog.jpg\n",
        "name\rcat\rdog\r",
        "name\ncat  \n\n dog\n\n",
        "# name\ncat\ndog\n",
        "cat,1\ndog,2\n",
        "cat,\ndog,\n",
        "7,cat.png\n8,dog.png\n",
        "cat.png,cat.png\ndog.png,dog.png\n",
        "id,file\n1,cat\n2,dog\n",
        "key,what\n1,cat\n2,dog\n",
        "cat.png 0\ndog.png 1\n",
        '"cat"\n"dog"\n',
        '"label", "name"\n"1", "cat"\n"2", "dog"\n',
        "name\nleft/cat.png\n/data/left/dog.png\nright\\dog.png\n",
        "name\n./cat.png\nC:\\data\\dog.png\n",
    ],
)
def test_cat_and_dog_are_found_however_they_are_listed(content: str, tmp_path: Path) -> None:
    assert chosen(tmp_path, content) == "cat dog"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('name,label\n"été, ""2""",1\ncat,0\n', 'cat été, "2"'),
        ('été, "2"\ncat\n', 'cat été, "2"'),
        ("été, 3\ncat\n", "cat été, 3"),
        ("été, 3\n", "été, 3"),
        ('name;label\nété, "2";1\ncat;0\n', 'cat été, "2"'),
    ],
)
def test_names_with_commas_and_quotes_stay_whole(content: str, expected: str, tmp_path: Path) -> None:
    assert chosen(tmp_path, content) == expected


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "mac_roman", "cp437"]
)
@pytest.mark.parametrize("rows", ["name\nété, 3\ncat\n", "name\tn\nété, 3\t1\ncat\t2\n"])
def test_encodings_are_recognised(rows: str, encoding: str, tmp_path: Path) -> None:
    assert chosen(tmp_path, rows.encode(encoding)) == "cat été, 3"


@pytest.mark.parametrize("encoding", ["cp1251", "gb18030", "shift_jis"])
def test_encodings_of_other_alphabets_are_recognised_by_the_names(encoding: str, tmp_path: Path) -> None:
    name = {"cp1251": "кошка", "gb18030": "猫图", "shift_jis": "ねこ"}[encoding]
    assert chosen(tmp_path, f"name\n{name}\n".encode(encoding), [f"{name}.png", "dog.png"]) == name


def test_what_pythons_csv_and_numpy_write_is_read(tmp_path: Path) -> None:
    with (tmp_path / "w.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["n", "name"], *([number, name] for number, name in enumerate(NAMES))])
    assert choose(NAMES, tmp_path / "w.csv").indices == list(range(len(NAMES)))
    np.savetxt(tmp_path / "n.txt", np.array(NAMES), fmt="%s", header="name", encoding="utf-8")
    assert choose(NAMES, tmp_path / "n.txt").indices == list(range(len(NAMES)))


def test_a_first_line_that_names_an_image_is_no_header(tmp_path: Path) -> None:
    assert chosen(tmp_path, "name\ncat\n", ["name.png", "cat.png"]) == "name cat"


def test_an_unknown_first_line_is_said_to_be_taken_as_a_header(tmp_path: Path) -> None:
    actual = choice(tmp_path, "bird2\ncat\ndog\n")
    assert [NAMES[index] for index in actual.indices] == ["cat.png", "dog.png"]
    expected = f"{tmp_path / 's.csv'}: first line 'bird2' names no image here; taken as a header"
    assert (actual.notes, actual.missing) == ((expected,), [])


@pytest.mark.parametrize("first", ["bird2.png", "bird2.JPG", "left/bird2"])
def test_a_first_line_like_a_file_is_a_missing_name(first: str, tmp_path: Path) -> None:
    actual = choice(tmp_path, f"{first}\ncat\n")
    assert (actual.missing, actual.notes) == ([first], ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat.jpg,dog.jpg\nbird.jpg,cow.jpg\n", "columns 1 and 2 both name images (such as cat.jpg, dog.jpg); give "),
        ("a,b\n1,2\n", "columns a, b; expected one column, or one called TLL_obj, left_name, name; give the one "),
        ("n,name\n1,cat.jpg\n2\n", "row 3 has no column 2; it must hold a name"),
        ("n,name\n1,cat.jpg\n\n2,\n3,dog\n", "row 4 has no column 2; it must hold a name"),
        ("", "no names found; one name a line is expected, below a header or without one"),
        ("\n \n", "no names found; "),
        ("TLL_obj\n", "no names found; "),
        (b"PK\x03\x04\x14\0\x06\0", "a workbook, and no CSV file; save the sheet as CSV (UTF-8)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "no text, since it holds zero bytes; a CSV file of names is expected"),
    ],
)
def test_what_is_no_list_of_names_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, content).startswith(message)


def test_lines_that_can_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    names = ["a.png", "a, 1.png", "b.png", "b, 1.png"]
    assert "its lines can be read in two ways" in refusal(tmp_path, "a, 1\nb, 1\n", names)
    assert chosen(tmp_path, '"a, 1"\n"b, 1"\n', names) == "a, 1 b, 1"


def test_control_characters_of_names_are_found_and_never_printed(tmp_path: Path) -> None:
    assert choice(tmp_path, "a\x1b[31m\n", ["a\x1b[31m.png", "b.png"]).indices == [0]
    assert "\x1b" not in refusal(tmp_path, "c\x1b[31m\n", ["a\x1b[31m.png"])


def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no CSV file could be read here \(.*No such file"):
        choose(NAMES, tmp_path / "none.csv")
    with (tmp_path / "holes.csv").open("wb") as file:
        file.truncate(2**29)
    with pytest.raises(InputError, match="has 536,870,912 bytes; a CSV of names has no more"):
        choose(NAMES, tmp_path / "holes.csv")


# --- names ---


def test_only_the_suffix_of_an_image_is_a_suffix(tmp_path: Path) -> None:
    assert chosen(tmp_path, "name\nscene.1\nscene.2\n", DOTS) == "scene.1 scene.2"
    assert chosen(tmp_path, "name\nscene.1.png\nscene.2.jpg\n", DOTS) == "scene.1 scene.2"
    assert chosen(tmp_path, "name\nscene\n", DOTS) == "scene"
    assert choice(tmp_path, "name\nscene\nscene.3\n", DOTS).missing == ["scene.3"]


def test_the_full_name_is_before_the_stem(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "b.png"]
    assert choice(tmp_path, "a.png\n", names).indices == [1]
    assert refusal(tmp_path, "b\na\n", names) == "'a' may be any of a.jpg, a.png; give the full name"
    assert refusal(tmp_path, "b\na.tif\n", names) == "'a.tif' may be any of a.jpg, a.png; give the full name"


def test_rows_of_one_name_are_all_chosen(tmp_path: Path) -> None:
    assert choice(tmp_path, "a\n", ["a.png", "b.png", "a.png"]).indices == [0, 2]


def test_relative_paths_are_found_then_last_parts(tmp_path: Path) -> None:
    assert chosen(tmp_path, "cat/0001.jpg\nleft/dog/0001.png\n", FOLDERS) == "cat/0001 dog/0001"
    assert chosen(tmp_path, "0002.png\n0003\n", FOLDERS) == "cat/0002 dog/0003"
    assert chosen(tmp_path, "/data/set/left/cat/0002.png\nset\\dog\\0003.png\n", FOLDERS) == "cat/0002 dog/0003"
    assert chosen(tmp_path, "right/0003\n", FOLDERS) == "dog/0003"
    assert refusal(tmp_path, "x\n0001\n", FOLDERS).startswith("'0001' may be any of cat/0001.png, dog/0001.png; give ")


def test_a_file_of_another_folder_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    actual = choice(tmp_path, "name\ncat/0003.png\ndog/x.png\ncat/0001\n", FOLDERS)
    assert actual.missing == ["cat/0003.png", "dog/x.png"]
    assert actual.reason == "'cat/0003.png' is wanted, and 'dog/0003.png' is there: the folders differ"


def test_paths_of_two_sets_that_lead_to_one_file_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, "one/left/cat.png\ntwo/left/cat.png\n")
    assert message == "lists files called 'cat.png' of one, two, and there is one; list names relative to the data set"
    assert chosen(tmp_path, "one/left/cat.png\none/right/cat.png\ncat.png\n") == "cat"


# --- likely reasons ---


@pytest.mark.parametrize(
    ("content", "names", "reason"),
    [
        ("1\n2\n10\n", ZEROS, "'1' is wanted, and '0001.png' is there: leading zeros are lost, as spreadsheets do it"),
        ("1.0\n2.0\n", ZEROS, "'1.0' is wanted, and '0001.png' is there: leading zeros are lost"),
        ("img_1.png\n", ["img_001.png"], "'img_1.png' is wanted, and 'img_001.png' is there: leading zeros are lost"),
        ("1.23457E+14\n", ["123456789012345.png"], "'1.23457E+14' is wanted, and '123456789012345.png' is there: long"),
        ("CAT.PNG\nDog.png\n", NAMES, "'CAT.PNG' is wanted, and 'cat.png' is there: upper and lower case differ"),
        ("name\ncat/0003\n", FOLDERS, "'cat/0003' is wanted, and 'dog/0003.png' is there: the folders differ"),
        ("cat.txt\n", NAMES, "'cat.txt' is wanted, and 'cat.png' is there: the suffix, or what follows a dot, differs"),
        ("cat.jpg.bak\n", NAMES, "'cat.jpg.bak' is wanted, and 'cat.png' is there: the suffix, or what follows a dot"),
        ("Ã©tÃ©\n", ["été.png"], "'Ã©tÃ©' is wanted, and 'été.png' is there: accents or other letters differ: is the "),
        ("ete\n", ["été.png"], "'ete' is wanted, and 'été.png' is there: accents or other letters differ: is the list"),
        ("t\n?t?\n", ["été.png"], "'?t?' is wanted, and 'été.png' is there: accents or other letters differ"),
        ("black_cat\n", ["black cat.png"], "'black_cat' is wanted, and 'black cat.png' is there: spaces, dashes or "),
        ("whale\n", NAMES, "'whale' is wanted, and for example 'bird.png' is there"),
    ],
)
def test_the_likely_reason_is_given_beside_an_example(
    content: str, names: list[str], reason: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, content, names)
    assert message.startswith(f"none of its {len(content.split()) - content.startswith('name')} names is among the ")
    assert reason in message


def test_the_reason_is_given_too_where_some_names_are_found(tmp_path: Path) -> None:
    actual = choice(tmp_path, "name\ncat\nDOG\n")
    assert (actual.missing, actual.reason) == (
        ["DOG"],
        "'DOG' is wanted, and 'dog.png' is there: upper and lower case differ",
    )


def test_a_hundred_thousand_names_are_found_in_seconds(tmp_path: Path) -> None:
    names = [f"{number:06}.png" for number in range(100_000)]
    content = "".join(f"{number:06}.jpg,{number % 7},x y\n" for number in range(0, 100_000, 2))
    start = time.perf_counter()
    assert choice(tmp_path, content, names).indices == list(range(0, 100_000, 2))
    assert time.perf_counter() - start < 60  # about 2 s on a machine that does nothing else


def test_a_list_of_pairs_of_other_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    for left, right in (("left", "right"), ("left_name", "right_name")):
        path.write_text(f"{left},{right}\nc.png,007.png\n")
        with pytest.raises(InputError, match=r"pairs 'c\.png' with '007\.png'; partners have the same name here"):
            choose(["007.png", "c.png"], path)
        path.write_text(f"{left},{right}\nc.png,c.jpg\n")
        assert choose(["007.png", "c.png"], path).indices == [1]
