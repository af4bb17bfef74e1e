"""What belongs together in a folder."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from common.errors import InputError
from featuresExtractor.images.dataset import Dataset, Skipped, State, find_images, keep_subset, no_pictures, state_of


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
    monkeypatch.setattr(os, "scandir", lambda folder: sorted(listing(folder), key=lambda entry: entry.name[::-1]))
    assert found(root) == [(f"left/{number:03}.png", f"right/{number:03}.png") for number in range(30)]


def test_names_with_spaces_and_accents_in_either_form_are_paired(tmp_path: Path) -> None:
    left, right = (unicodedata.normalize(form, "un été à Nîmes.png") for form in ("NFC", "NFD"))
    assert left != right
    assert found(touch(tmp_path, f"left/{left}", f"right/{right}")) == [(f"left/{left}", f"right/{right}")]


def test_hidden_files_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    touch(
        tmp_path, "left/a.png", "right/a.png", "left/._a.png", "left/.hidden.jpg", "left/notes.txt", "right/Thumbs.db"
    )
    touch(tmp_path, "left/scan.pdf", "left/film.mpg", "right/features.h5", "left/LICENCE", "left/folder/b.png")
    assert found(tmp_path) == [("left/a.png", "right/a.png")]
    others = ["LICENCE", "film.mpg", "notes.txt", "scan.pdf"]
    told = [*(f"left/{name}" for name in others), "right/Thumbs.db", "right/features.h5"]
    assert no_pictures(find_images(tmp_path)) == told


def test_whatever_has_an_images_suffix_is_found_so_that_the_check_can_name_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "folder.png/b.png")
    os.mkfifo(tmp_path / "pipe.JPG")
    (tmp_path / "nowhere.png").symlink_to("gone")
    assert found(tmp_path) == [("a.png",), ("folder.png",), ("nowhere.png",), ("pipe.JPG",)]
    assert no_pictures(find_images(tmp_path)) == []


def test_flat_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    root = touch(tmp_path, "b.png", "a.jpg", "a.png", "notes.txt", "other/c.png")
    assert found(root) == [("a.jpg",), ("a.png",), ("b.png",)]
    assert (find_images(root).sides, find_images(root).kind) == (("features",), "images")


def test_orphans_are_named_on_both_sides(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "left/c.png", "right/a.png", "right/d e.png")
    assert refusal(root) == (
        ": 2 left images have no right image of the same name: b.png, c.png; "
        f"{root}: 1 right image has no left image of the same name: d e.png; --on-error skip leaves them out"
    )


def test_many_orphans_are_counted_and_each_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = touch(tmp_path, "left/x.png", "right/x.png", *(f"left/{number:04}.png" for number in range(1200)))
    assert ": 1,200 left images have no right image of the same name: 0000.png, " in refusal(root)
    assert " and 1,190 more; --on-error" in refusal(root)
    told = capsys.readouterr().err.splitlines()
    assert len(told) > 10
    assert all(line.endswith(": no image of the same name on the other side") for line in told)


def test_orphans_are_skipped_and_reported_when_asked_for(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/b.png", "right/a.png", "right/c.png")
    dataset = find_images(root, skip=True)
    assert found(root, skip=True) == [("left/a.png", "right/a.png")]
    reason = "no image of the same name on the other side"
    assert dataset.skipped == (Skipped("left/b.png", reason), Skipped("right/c.png", reason))


@pytest.mark.parametrize("skip", [False, True])
def test_two_files_of_one_stem_are_refused(skip: bool, tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "left/a.jpg", "right/a.png")
    assert refusal(root, skip) == "/left: a.jpg, a.png share a name; a pair needs one of them"


@pytest.mark.parametrize(("side", "missing"), [("left", "right"), ("right", "left")])
def test_one_side_alone_is_refused(side: str, missing: str, tmp_path: Path) -> None:
    assert refusal(touch(tmp_path, f"{side}/a.png")) == f": has {side}/ but no {missing}/; pairs need both"


@pytest.mark.parametrize("root", ["none", "file"])
def test_missing_folder_is_refused(root: str, tmp_path: Path) -> None:
    touch(tmp_path, "file")
    assert refusal(tmp_path / root) == ": no such folder; it must hold left/ and right/, or images"


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == ": no images found; nor left/ and right/"
    touch(tmp_path, "left/notes.txt", "right/notes.txt")
    assert refusal(tmp_path) == ": no images found in left/ and right/"


def test_folder_of_orphans_alone_holds_no_pairs(tmp_path: Path) -> None:
    root = touch(tmp_path, "left/a.png", "right/b.png")
    assert refusal(root, skip=True) == ": no pairs: no image in left/ has one of the same name in right/"


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
    # As in the authors' own file: each name twice, with another suffix than the picture's.
    kept = keep_subset(five, subset_csv(tmp_path, "d.jpg", "b.jpg", "d.jpg", "b.jpg"))
    assert stems(kept) == [("b", "b"), ("d", "d")]
    assert kept.skipped == ()


def test_names_without_images_are_told_or_skipped(five: Dataset, tmp_path: Path) -> None:
    subset = subset_csv(tmp_path, "a.jpg", "x.jpg", "y.jpg")
    with pytest.raises(InputError) as caught:
        keep_subset(five, subset)
    expected = f"{subset}: 2 of its names are not in {five.root}: x.jpg, y.jpg; --on-error skip leaves them out"
    assert str(caught.value) == expected
    kept = keep_subset(five, subset, skip=True)
    assert stems(kept) == [("a", "a")]
    reason = "named in subset.csv, not found"
    assert kept.skipped == (Skipped("x.jpg", reason), Skipped("y.jpg", reason))


def test_fingerprint_changes_with_a_picture(five: Dataset) -> None:
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


def test_digest_of_the_names_tells_nothing_of_the_pictures(five: Dataset) -> None:
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
