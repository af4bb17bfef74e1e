"""Both commands on folders and lists as people have them: what is read, under which name, and what is said."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import extract
import train
from featuresExtractor.backbones.backbone import Backbone

PROJECT = Path(extract.__file__).parent
NO_HEIF = "HEIC is not read here (pip install pillow-heif)"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500)

Command = Callable[..., int]


@pytest.fixture
def save(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def command(tiny_model: Backbone, save: Path) -> Command:
    """`command(folder, ...)` runs extract.py with the tiny network and random weights."""

    def run(dataset: Path, *words: str) -> int:
        first = ["-d", str(dataset), "-s", str(save), "--weights", "random", "--cpu", "-p", "adapt"]
        return extract.main([*first, "--model", tiny_model.name, *words])

    return run


def facts(save: Path) -> Any:
    return json.loads((save / "tiny" / "features.json").read_text(encoding="utf-8"))


def names(save: Path, side: str = "left_name") -> list[str]:
    rows = np.load(save / "tiny" / "features.npy")
    return [str(name) for name in rows[side][rows["view"] == 0]]


def trained_on(runs: Path) -> list[str]:
    """The left names of the first run's split."""
    with (runs / "run1" / "split.csv").open(encoding="utf-8", newline="") as file:
        return [row["left_name"] for row in csv.DictReader(file)]


# --- what is not read ---


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--strict"], 1)])
def test_what_is_not_read_is_in_the_output_and_in_the_json_and_counts_when_strict(
    words: list[str],
    code: int,
    command: Command,
    pairs: Callable[..., Path],
    image: Callable[..., Path],
    save: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = pairs(2)
    image(root / "left" / "more" / "m.png")
    for name in ("raw.dng", "notes.txt", ".DS_Store"):
        (root / "right" / name).write_bytes(b"II*\0" + bytes(50))
    (root / "right" / "scan.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    for _ in range(2):  # extracted, and used again
        assert command(root, *words) == code
        told = capsys.readouterr().err.splitlines()
        assert "warning: 1 file is not read: left/more/ (1 image): in a subfolder; --recursive reads it" in told
        assert "warning: 1 file is not read: right/scan.jxl: JPEG XL is not read; convert it to PNG" in told
        assert "note: 1 file is not read: right/notes.txt: not an image by its name or its contents" in told
        assert len([line for line in told if "not read" in line]) == 4
    assert {item["name"]: item["reason"].split(";")[0] for item in facts(save)["not_read"]} == {
        "left/more/m.png": "in a subfolder",
        "right/notes.txt": "not an image by its name or its contents",
        "right/raw.dng": "camera raw is not read",
        "right/scan.jxl": "JPEG XL is not read",
    }


def test_litter_is_not_counted_when_strict(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(2)
    for name in ("._a0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "left" / name).write_bytes(b"x")
    assert command(root, "--strict") == 0
    assert facts(save)["not_read"] == []


def test_images_without_a_suffix_are_read_by_their_contents(
    command: Command, pairs: Callable[..., Path], save: Path
) -> None:
    root = pairs(3)
    for side in ("left", "right"):
        (root / side / "a0.png").rename(root / side / "000000042")
        (root / side / "a1.png").rename(root / side / "photo.jpg?w=640")
    assert command(root, "--strict") == 0
    assert names(save) == ["000000042", "a2.png", "photo.jpg?w=640"]


def test_mpo_is_read(command: Command, pairs: Callable[..., Path], save: Path) -> None:
    root = pairs(1)
    images = [Image.new("RGB", (40, 30), color) for color in ("red", "blue")]
    images[0].save(root / "left" / "3d.mpo", save_all=True, append_images=images[1:])
    images[0].save(root / "right" / "3d.jpg")
    assert command(root, "--strict") == 0
    assert names(save) == ["3d.mpo", "a0.png"]


# --- subfolders ---


def test_subfolders_are_read_when_asked_for_and_trained_on(
    command: Command, image: Callable[..., Path], save: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [f"{folder}/{number:04}.png" for folder in ("cat", "dog") for number in range(6)]
    for number, name in enumerate(wanted):
        image(tmp_path / "set" / "left" / name, seed=number)
        image(tmp_path / "set" / "right" / name.replace("png", "jpg"), seed=number + 50)
    assert command(tmp_path / "set") == 2
    told = capsys.readouterr().err
    assert "no images found in left/ and right/; 24 files are not read: left/cat/ (6 images), left/dog/ (6 " in told
    assert command(tmp_path / "set", "--recursive", "--strict") == 0
    assert names(save) == wanted
    assert names(save, "right_name") == [name.replace("png", "jpg") for name in wanted]
    (tmp_path / "s.csv").write_text("name\n" + "\n".join(["left/dog/0005.png", *wanted[:7]]))
    call = ["-d", str(save / "tiny" / "features.npy"), "-s", str(tmp_path / "runs"), "-e", "2", "-k", "1", "--cpu"]
    assert train.main([*call, "--subset", str(tmp_path / "s.csv")]) == 0
    assert trained_on(tmp_path / "runs") == [*wanted[:7], "dog/0005.png"]


def test_features_of_folders_without_subfolders_are_used_again_with_either_flag(
    command: Command, pairs: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(2)
    assert command(root) == 0
    assert command(root, "--recursive") == 0
    assert "features.npy is there and was made in the same way: used again" in capsys.readouterr().out


# --- HEIC ---


def without_heif(root: Path, save: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """extract.py in a process that cannot import pillow-heif."""
    hide = "import sys; sys.modules['pillow_heif'] = None; import extract; sys.exit(extract.main(sys.argv[1:]))"
    flags = ["-d", str(root), "-s", str(save), "--model", "alexnet", "--weights", "random", "--cpu", "-p", "adapt"]
    command = [sys.executable, "-c", hide, *flags, *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)


def test_heic_on_one_side_is_the_reason_of_its_pair(
    pairs: Callable[..., Path], save: Path, image: Callable[..., Path]
) -> None:
    root = pairs(2)
    (root / "left" / "IMG_0001.HEIC").write_bytes(HEIC)
    image(root / "right" / "IMG_0001.png")
    ended = without_heif(root, save)
    told = f"extract.py: error: {root}: left/IMG_0001.HEIC: {NO_HEIF}; --on-error skip leaves them out\n"
    assert (ended.returncode, ended.stderr) == (2, told)
    ended = without_heif(root, save, "--on-error", "skip", "--strict")
    assert ended.returncode == 1
    record = json.loads((save / "alexnet" / "features.json").read_text(encoding="utf-8"))
    assert record["skipped"] == [{"name": "left/IMG_0001.HEIC", "reason": NO_HEIF}]
    assert record["written"] == 2


def test_heic_alone_is_said_to_be_there(save: Path, tmp_path: Path) -> None:
    for side in ("left", "right"):
        (tmp_path / "set" / side).mkdir(parents=True)
        (tmp_path / "set" / side / "IMG_0001.HEIC").write_bytes(HEIC)
    ended = without_heif(tmp_path / "set", save)
    files = "2 files are not read: left/IMG_0001.HEIC, right/IMG_0001.HEIC"
    told = f"extract.py: error: {tmp_path / 'set'}: no images found in left/ and right/; {files}: {NO_HEIF}\n"
    assert (ended.returncode, ended.stderr) == (2, told)


def test_heic_is_read_like_the_image_that_it_was_made_of(
    command: Command, pairs: Callable[..., Path], save: Path, heif: Any
) -> None:
    root = pairs(3)
    smooth = np.linspace(0, 255, 96 * 64 * 3).reshape(96, 64, 3).astype(np.uint8)
    Image.fromarray(smooth).save(root / "left" / "IMG_1.png")
    heif.from_pillow(Image.fromarray(smooth)).save(root / "right" / "IMG_1.HEIC", quality=100)
    assert command(root, "--strict") == 0
    assert names(save, "right_name") == ["IMG_1.HEIC", "a0.png", "a1.png", "a2.png"]
    rows = np.load(save / "tiny" / "features.npy")
    left, right = rows["left"][0], rows["right"][0]
    assert left @ right / np.linalg.norm(left) / np.linalg.norm(right) > 0.999
    assert rows["left"][1] @ right / np.linalg.norm(rows["left"][1]) / np.linalg.norm(right) < 0.999


# --- lists ---


def test_both_commands_read_the_same_list(
    command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subset = tmp_path / "s.csv"
    subset.write_bytes("n°;objet\n1;a7\n2;a1.jpg\n3;left\\a3.png\n4;a5\n5;a6\n".encode("cp1252"))
    note = f"{subset}: first line 'objet' names no image here; taken as a header"
    wanted = ["a1.png", "a3.png", "a5.png", "a6.png", "a7.png"]
    root = pairs(8)
    assert command(root) == 0
    call = ["-d", str(save / "tiny" / "features.npy"), "-s", str(tmp_path / "runs"), "-e", "2", "-k", "1", "--cpu"]
    assert train.main([*call, "--test-split", "0.4", "--subset", str(subset)]) == 0
    assert note in capsys.readouterr().err.splitlines()
    assert trained_on(tmp_path / "runs") == wanted
    assert command(root, "--overwrite", "--subset", str(subset)) == 0
    assert note in capsys.readouterr().err.splitlines()
    assert names(save) == wanted


def test_both_commands_give_the_likely_reason_for_names_that_are_missing(
    command: Command, pairs: Callable[..., Path], save: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.csv").write_text("name\nA0\nA1\n")
    reason = (
        f"{tmp_path / 's.csv'}: none of its 2 names is among the 2 there; 'A0' is wanted, and 'a0.png' is there: upper"
    )
    root = pairs(2)
    assert command(root) == 0
    assert command(root, "--subset", str(tmp_path / "s.csv")) == 2
    assert f"extract.py: error: {reason} and lower case differ" in capsys.readouterr().err
    call = [
        "-d",
        str(save / "tiny" / "features.npy"),
        "-s",
        str(tmp_path / "runs"),
        "--subset",
        str(tmp_path / "s.csv"),
    ]
    assert train.main(call) == 2
    assert f"train.py: error: {reason} and lower case differ" in capsys.readouterr().err
    (tmp_path / "s.csv").write_text("name\nA0\na1\n")
    assert command(root, "--subset", str(tmp_path / "s.csv"), "--on-error", "skip", "--strict", "--overwrite") == 1
    assert "1 of its names are not in" in capsys.readouterr().err
    assert facts(save)["skipped"] == [{"name": "A0", "reason": "named in s.csv, not found"}]
