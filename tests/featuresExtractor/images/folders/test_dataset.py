"""What belongs together in a folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from common.errors import InputError
from featuresExtractor.images.folders.dataset import ALONE, Dataset, Skipped, State, find_images, keep_subset, state_of

HIDDEN = "its name or its folder's name begins with a dot; rename it to have it read"


def touch(root: Path, *names: str) -> Path:
    """Empty files `left/a.png`, ... below `root`: finding does not open them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root: Path, skip: bool = False) -> list[tuple[str, ...]]:
    return [tuple(path.relative_to(root).as_posix() for path in item) for item in find_images(root, skip).items]


def refusal(root: Path, skip: bool = False) -> str:
    """The error line about `root`, without its name."""
    with pytest.raises(InputError) as caught:
        find_images(root, skip)
    text = str(caught.value)
    assert text.startswith(f"{root}")
    return text.removeprefix(f"{root}")


# --- finding ---


def test_pairs_are_files_of_one_stem_whatever_their_suffixes(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/b.jpg", "left/a.JPEG", "left/c.d.webp", "right/a.PNG", "right/b.jpg", "right/c.d.tif")
    assert found(root) == [
        ("left/a.JPEG", "right/a.PNG"),
        ("left/b.jpg", "right/b.jpg"),
        ("left/c.d.webp", "right/c.d.tif"),
    ]
    assert (find_images(root).sides, find_images(root).kind) == (("left", "right"), "pairs")


def test_order_is_that_of_the_stems_and_not_of_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path, *(f"{side}/{number:03}.png" for side in ("left", "right") for number in range(30)))
    listing = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: nullcontext(sorted(listing(folder), key=lambda e: e.name[::-1])))
    assert found(root) == [(f"left/{number:03}.png", f"right/{number:03}.png") for number in range(30)]


def test_names_with_spaces_and_accents_in_either_form_are_paired(tmp_path: Path) -> None:
    left, right = (unicodedata.normalize(form, "un été à Nîmes.png") for form in ("NFC", "NFD"))
    assert left != right
    assert found(touch(tmp_path, f"left/{left}", f"right/{right}")) == [(f"left/{left}", f"right/{right}")]


def test_whatever_has_an_images_suffix_is_found_so_that_the_check_can_name_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "folder.png/b.png")
    os.mkfifo(tmp_path / "pipe.JPG")
    (tmp_path / "nowhere.png").symlink_to("gone")
    assert found(tmp_path) == [("a.png",), ("folder.png",), ("nowhere.png",), ("pipe.JPG",)]


def test_flat_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    root = touch(tmp_path, "b.png", "a.jpg", "a.png", "notes.txt", "other/c.png")
    assert found(root) == [("a.jpg",), ("a.png",), ("b.png",)]
    assert (find_images(root).sides, find_images(root).kind) == (("features",), "images")


def test_orphans_are_named_on_both_sides(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "left/c.png", "right/a.png", "right/d e.png")
    assert refusal(root) == (
        ": 2 left images have no right image of the same name: b.png, c.png; "
        "1 right image has no left image of the same name: d e.png; --on-error skip leaves them out"
    )


def test_many_orphans_are_counted_and_ten_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path, "left/x.png", "right/x.png", *(f"left/{number:04}.png" for number in range(1200)))
    names = ", ".join(f"{number:04}.png" for number in range(10))
    expected = f": 1,200 left images have no right image of the same name: {names} and 1,190 more; --on-error skip "
    assert refusal(root).startswith(expected)
    assert capsys.readouterr() == ("", "")
    assert len(find_images(root, skip=True).skipped) == 1200


def test_orphans_are_skipped_and_reported_when_asked_for(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "right/a.png", "right/c.png")
    dataset = find_images(root, skip=True)
    assert found(root, skip=True) == [("left/a.png", "right/a.png")]
    reason = "no image of the same name on the other side"
    assert dataset.skipped == (Skipped("left/b.png", reason), Skipped("right/c.png", reason))


@pytest.mark.parametrize("skip", [False, True])
def test_files_that_could_all_be_partners_are_refused(skip: bool, tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/a.jpg", "right/a.tif", "left/b.png", "right/b.png")
    assert refusal(root, skip).startswith(": a.jpg, a.png, a.tif have one name but for the suffix; ")


def test_files_of_one_stem_are_paired_by_their_full_names(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/a.jpg", "right/a.png", "right/a.jpg")
    assert found(root) == [("left/a.jpg", "right/a.jpg"), ("left/a.png", "right/a.png")]
    (root / "right" / "a.jpg").unlink()
    assert found(root, skip=True) == [("left/a.png", "right/a.png")]
    assert refusal(root) == ": 1 left image has no right image of the same name: a.jpg; --on-error skip leaves them out"


def test_what_follows_a_dot_belongs_to_the_name_unless_it_is_the_suffix_of_an_image(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{side}/scene{end}.png" for side in ("left", "right") for end in ("", ".1", ".2")))
    assert found(root) == [(f"left/scene{end}.png", f"right/scene{end}.png") for end in ("", ".1", ".2")]


@pytest.mark.parametrize(("side", "missing"), [("left", "right"), ("right", "left")])
def test_one_side_alone_is_refused(side: str, missing: str, tmp_path: Path) -> None:
    assert refusal(touch(tmp_path, f"{side}/a.png")) == f": has {side}/ but no {missing}/; pairs need both"


@pytest.mark.parametrize("root", ["none", "file"])
def test_missing_folder_is_refused(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "file")
    assert refusal(tmp_path / root) == ": no such folder; it must hold left/ and right/, or images"


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": no images found; nor left/ and right/"
    touch(tmp_path, "left/notes.txt")
    (tmp_path / "right").mkdir()
    expected = "1 file is not read: left/notes.txt: not an image by its name or its contents"
    assert refusal(tmp_path) == f": no images found in left/ and right/; {expected}"


def test_folder_of_orphans_alone_holds_no_pairs(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "right/b.png")
    assert refusal(root, skip=True).startswith(
        ": no pairs: no image in left/ has one of the same name in right/; 1 left "
    )


# --- subsets and fingerprints ---


def subset_csv(folder: Path, *names: str) -> Path:
    path = folder / "subset.csv"
    path.write_text("\n".join(["TLL_obj", *names]))
    return path


@pytest.fixture
def five(tmp_path: Path) -> Dataset:
    return find_images(touch(tmp_path / "d", *(f"{side}/{name}.png" for side in ("left", "right") for name in "abcde")))


def stems(dataset: Dataset) -> list[tuple[str, ...]]:
    return [tuple(path.stem for path in item) for item in dataset.items]


def test_subset_keeps_the_named_pairs_once_in_the_order_of_the_data(five: Dataset, tmp_path: Path) -> None:
    # As in the authors' own file: each name twice, with another suffix than the image's.
    kept = keep_subset(five, subset_csv(tmp_path, "d.jpg", "b.jpg", "d.jpg", "b.jpg"))
    assert stems(kept) == [("b", "b"), ("d", "d")]
    assert kept.skipped == ()


def test_names_without_images_are_told_or_skipped(five: Dataset, tmp_path: Path) -> None:
    subset = subset_csv(tmp_path, "a.jpg", "x.jpg", "y.jpg")
    with pytest.raises(InputError) as caught:
        keep_subset(five, subset)
    expected = f"{subset}: 2 of its names are not in {five.root}: x.jpg, y.jpg"
    expected += " ('x.jpg' is wanted, and for example 'e.png' is there); --on-error skip leaves them out"
    assert str(caught.value) == expected
    kept = keep_subset(five, subset, skip=True)
    assert stems(kept) == [("a", "a")]
    reason = "named in subset.csv, not found"
    assert kept.skipped == (Skipped("x.jpg", reason), Skipped("y.jpg", reason))


def test_fingerprint_changes_with_an_image(five: Dataset) -> None:
    before, path = five.fingerprint(), five.items[2][1]
    assert find_images(five.root).fingerprint() == before
    path.write_bytes(b"x")
    assert (longer := find_images(five.root).fingerprint()) != before
    path.write_bytes(b"y")
    os.utime(path, ns=(0, 0))
    assert find_images(five.root).fingerprint() not in (before, longer)


def test_fingerprint_changes_with_a_name(five: Dataset) -> None:
    before, names = five.fingerprint(), five.names_digest()
    for path in five.items[4]:
        path.rename(path.with_name("f.png"))
    assert find_images(five.root).fingerprint() != before
    assert find_images(five.root).names_digest() != names


def test_digest_of_the_names_tells_nothing_of_the_images(five: Dataset) -> None:
    five.items[2][1].write_bytes(b"x")
    five.items[3][0].unlink()
    assert Dataset(five.root, five.sides, five.items).names_digest() == five.names_digest()
    reverse = Dataset(five.root, five.sides, five.items[::-1])
    fewer = Dataset(five.root, five.sides, five.items[1:])
    assert five.names_digest() not in (reverse.names_digest(), fewer.names_digest())


def test_states_are_those_of_the_first_look(five: Dataset) -> None:
    before, (path, _) = five.states, five.items[2]
    assert before[2] == (state_of(path), state_of(five.items[2][1]))
    path.write_bytes(b"xyz")
    os.utime(path, ns=(0, 7))
    assert five.states == before
    assert find_images(five.root).states[2][0] == State(3, 7)


def test_state_is_that_of_what_a_link_leads_to_or_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.symlink_to("b.png")
    assert state_of(path) == (-1, -1)
    (tmp_path / "b.png").write_bytes(b"xy")
    os.utime(tmp_path / "b.png", ns=(0, 9))
    assert state_of(path) == (2, 9)


# --- subfolders ---


def test_partners_in_subfolders_have_the_same_relative_path(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/cat/1.png", "left/dog/1.png", "left/2.jpg", "right/dog/1.tif", "right/cat/1.png")
    touch(root, "right/2.png", "right/deep/er/3.png", "left/deep/er/3.png")
    dataset = find_images(root, recursive=True)
    assert [tuple(map(dataset.row_name, item)) for item in dataset.items] == [
        ("2.jpg", "2.png"),
        ("cat/1.png", "cat/1.png"),
        ("deep/er/3.png", "deep/er/3.png"),
        ("dog/1.png", "dog/1.tif"),
    ]
    assert dataset.longest_name == len("deep/er/3.png")
    assert dataset.warnings() == []


def test_names_of_a_flat_folder_with_subfolders_are_relative_to_it(tmp_path: Path) -> None:
    dataset = find_images(touch(tmp_path, "cat/1.png", "dog/1.png"), recursive=True)
    assert [dataset.row_name(path) for (path,) in dataset.items] == ["cat/1.png", "dog/1.png"]


def test_without_subfolders_nothing_recorded_depends_on_how_they_are_read(five: Dataset) -> None:
    # The digests are of "left/a.png\0...\n", one a file, as in the first version: features made then are found again.
    recursive = find_images(five.root, recursive=True)
    assert recursive.fingerprint() == five.fingerprint()
    assert recursive.names_digest() == five.names_digest()
    lines = b"".join(f"{side}/{name}.png\0\n".encode() for name in "abcde" for side in ("left", "right"))
    assert five.names_digest() == hashlib.sha256(lines).hexdigest()


def test_a_list_finds_relative_paths_and_last_parts(tmp_path: Path) -> None:
    names = ["cat/1.png", "dog/1.png", "dog/2.png"]
    root = touch(tmp_path / "d", *(f"{side}/{name}" for side in ("left", "right") for name in names))
    dataset = find_images(root, recursive=True)
    kept = keep_subset(dataset, subset_csv(tmp_path, "dog/1.jpg", "2"))
    assert [kept.row_name(item[0]) for item in kept.items] == ["dog/1.png", "dog/2.png"]
    with pytest.raises(InputError, match=r"'1' may be any of cat/1\.png, dog/1\.png; give the full name"):
        keep_subset(dataset, subset_csv(tmp_path, "1"))


# --- what is not read ---


def reasons(root: Path, **words: bool) -> dict[str, str]:
    return {item.name: item.reason for item in find_images(root, **words).not_read}


def test_every_file_is_an_image_or_listed_with_its_reason(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "right/a.png", "left/.b.png", "left/notes.txt", "left/more/c.png", "x.jpg")
    touch(
        root, "left/._a.png", "right/Thumbs.db", "right/.DS_Store", "right/@eaDir/a.png", "readme.md", "left/film.mpg"
    )
    touch(root, "right/.hidden/d.png", "right/.ipynb_checkpoints/a.png", "right/desktop.ini", "third/e.png")
    assert found(root) == [("left/a.png", "right/a.png")]
    assert reasons(root) == {
        "left/.b.png": HIDDEN,
        "left/film.mpg": "video is not read; save its frames as images",
        "left/more/c.png": "in a subfolder; --recursive reads it",
        "left/notes.txt": "not an image by its name or its contents",
        "right/.hidden/d.png": HIDDEN,
        "third/e.png": "beside left/ and right/, not in them",
        "x.jpg": "beside left/ and right/, not in them",
    }


def test_reasons_are_lines_with_counts(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"{name}.png" for name in "abc"), "notes.txt", ".d.png")
    touch(root, *(f"more/{number}.png" for number in range(7)), "other/x.png")
    assert find_images(root).warnings() == [
        "warning: 8 files are not read: more/ (7 images), other/ (1 image): in a subfolder; --recursive reads it",
        f"warning: 1 file is not read: .d.png: {HIDDEN}",
        "note: 1 file is not read: notes.txt: not an image by its name or its contents",
    ]


def test_a_file_that_is_not_read_is_the_reason_of_its_pair(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.jxl", "right/a.png", "left/b.png", "right/b.png", "left/c.CR2", "right/d.png")
    reason = "JPEG XL is not read; convert it to PNG"
    assert refusal(root).startswith(
        f": left/a.jxl: {reason}; 1 right image has no left image of the same name: d.png; "
    )
    dataset = find_images(root, skip=True)
    assert dataset.skipped == (Skipped("left/a.jxl", reason), Skipped("right/d.png", ALONE))
    assert [item.name for item in dataset.not_read] == ["left/c.CR2"]
    with pytest.raises(InputError, match=r"in left/ and right/; 1 file is not read: left/a\.jxl: JPEG XL is not read"):
        find_images(touch(tmp_path / "x", "left/a.jxl", "right/notes.txt"))


def test_a_listed_name_that_is_not_read_has_the_reason_of_its_file(tmp_path: Path) -> None:
    root = touch(tmp_path / "d", *(f"{side}/{name}" for side in ("left", "right") for name in ("a.png", "b.jxl")))
    kept = keep_subset(find_images(root), subset_csv(tmp_path, "a", "b"), skip=True)
    assert kept.skipped == (Skipped("b", "JPEG XL is not read; convert it to PNG"),)


# --- near misses ---


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["Left/a.png", "Right/a.png"], ": has Left/ and Right/; rename to left/ and right/, since upper and lower "),
        (["LEFT/a.png", "RIGHT/a.png", "x.png"], ": has LEFT/ and RIGHT/; rename to left/ and right/, since "),
        (["left/a.png", "Right/a.png"], ": has Right/; rename to right/, since upper and lower case count"),
        (
            ["lefts/a.png", "rights/a.png"],
            ": no images found; nor left/ and right/; rename lefts/ to left/ and rights/",
        ),
        (["left/a.png", "my_right/a.png"], ": has left/ but no right/; pairs need both; rename my_right/ to right/?"),
        (
            ["cat/a.png", "cat/b.png", "dog/a.png"],
            ": no images found; nor left/ and right/; 3 files are not read: cat/ (2 images), dog/ (1 image): "
            "in a subfolder; --recursive reads it",
        ),
        (
            ["left/cat/a.png", "right/cat/a.png"],
            ": no images found in left/ and right/; 2 files are not read: left/cat/",
        ),
    ],
)
def test_without_images_the_message_says_what_is_there(files: list[str], message: str, tmp_path: Path) -> None:
    assert refusal(touch(tmp_path, *files)).startswith(message)


def test_a_folder_of_pairs_below_the_folder_is_named(tmp_path: Path) -> None:
    root = touch(tmp_path, "set/left/a.png", "set/right/a.png")
    assert refusal(root) == f": no images found; left/ and right/ are in {root / 'set'}: give that folder"
    assert "set: holds left/ and right/, read as single images" in "".join(find_images(root, recursive=True).notes)


def test_a_pattern_in_names_is_one_line(tmp_path: Path) -> None:
    names = [f"{side}/img{number}_{side}.jpg" for side in ("left", "right") for number in range(40)]
    root = touch(tmp_path, *names)
    expected = (
        ": 80 images have no partner: left names end in '_left' and right names end in '_right' (img0_left.jpg and "
    )
    assert refusal(root).startswith(expected)
    assert refusal(root).count("img") == 4
    root = touch(tmp_path, "left/x.png", "right/x.png")
    assert len(find_images(root, skip=True).skipped) == 80
    assert find_images(root, skip=True).warnings()[0].startswith(f"warning{expected}")


def test_pairs_in_one_folder_are_said_to_be_read_as_single_images(tmp_path: Path) -> None:
    root = touch(tmp_path, *(f"img{number}_{side}.jpg" for side in ("left", "right") for number in range(4)))
    dataset = find_images(root)
    assert (len(dataset), dataset.kind) == (8, "images")
    (expected,) = dataset.warnings()
    assert expected.startswith(
        "warning: 4 times two images are called like img0_left.jpg and img0_right.jpg: read as single"
    )
    assert find_images(touch(tmp_path / "x", "left.png", "b.png", "c.png", "d.png")).warnings() == []


def test_sides_that_are_one_folder_are_refused(pairs: Callable[..., Path]) -> None:
    root = pairs(2)
    shutil.rmtree(root / "right")
    (root / "right").symlink_to("left")
    with pytest.raises(InputError, match="left/ and right/ are one folder"):
        find_images(root)
