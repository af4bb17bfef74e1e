"""What a folder holds, by real files: contents, links, loops, litter, and how fast it is seen."""

from __future__ import annotations

import io
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from featuresExtractor.images.folders.scan import LINKED, LOOP, OTHER, OUTSIDE, NotRead, scan
from featuresExtractor.images.kinds import suffixes

CR2 = b"II*\0\x10\0\0\0CR\2\0" + bytes(100)


def image(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def write(path: Path, contents: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)
    return path


@pytest.mark.parametrize("name", ["000000042", "photo.jpg?w=640", "scene.1", "image.dat", "IMG.HEIC.bak", "a.jxl"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_an_image_without_a_known_suffix_is_seen_by_its_contents(name: str, kind: str, tmp_path: Path) -> None:
    write(tmp_path / name, image(kind))
    assert scan(tmp_path).images == [name]


@pytest.mark.parametrize("name", ["42", "list.dat", "notes.txt", "page.html"])
def test_other_files_are_listed(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, b"no image at all")
    write(tmp_path / "empty")
    assert scan(tmp_path).not_read == sorted([NotRead(name, OTHER), NotRead("empty", OTHER)])


def test_raw_files_are_not_taken_for_the_tiffs_that_they_are(tmp_path: Path) -> None:
    for name, contents in (("a.CR2", CR2), ("b", CR2), ("c.dng", image("TIFF")), ("d.NEF", image("TIFF"))):
        write(tmp_path / name, contents)
    scanned = scan(tmp_path)
    assert scanned.images == []
    assert [(item.name, item.reason.split(";")[0]) for item in scanned.not_read] == [
        (name, "camera raw is not read") for name in ("a.CR2", "b", "c.dng", "d.NEF")
    ]


def test_files_of_known_suffixes_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a{suffix}" for suffix in sorted(suffixes())]
    for name in (*names, "notes.txt", "labels.json"):
        write(tmp_path / name)
    opened: list[str] = []
    monkeypatch.setattr("builtins.open", lambda path, *_: opened.append(str(path)))
    assert scan(tmp_path).images == sorted(names)
    assert opened == []


def test_what_is_no_file_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "null").symlink_to("/dev/zero")
    assert [item.name for item in scan(tmp_path, links=True).not_read] == ["itself", "nowhere", "null", "pipe"]


@pytest.mark.parametrize(
    "name",
    [
        *("._a.jpg", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", ".directory", ".nomedia", ".gitkeep"),
        *("Icon\r", "a.jpg:Zone.Identifier", ".Trash-1000/a.jpg", "@eaDir/a.jpg", ".ipynb_checkpoints/a.jpg"),
        *("__MACOSX/._a.jpg", ".git/a.png", "$RECYCLE.BIN/a.png", "System Volume Information/a.png"),
    ],
)
def test_litter_is_passed_over_in_silence(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, image("PNG"))
    for recursive in (False, True):
        assert scan(tmp_path, recursive) == scan(write(tmp_path / "none" / ".DS_Store").parent)


@pytest.mark.parametrize("name", [".a.jpg", "DS_Store.jpg", "thumbs.db.png", "desktop.ini.jpg", ".hidden/a.png", "42"])
def test_what_only_looks_like_litter_is_not(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, image("PNG"))
    scanned = scan(tmp_path)
    assert [*scanned.images, *(item.name for item in scanned.not_read)] == [name]


# --- links ---


def test_links_to_folders_are_listed_and_followed_only_when_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.png")
    write(tmp_path / "set" / "b.png")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    assert scan(tmp_path / "set", recursive=True).images == ["b.png"]
    assert scan(tmp_path / "set", recursive=True).not_read == [NotRead("link/", LINKED)]
    assert scan(tmp_path / "set").not_read == [NotRead("link/", LINKED)]
    assert scan(tmp_path / "set", recursive=True, links=True).images == ["b.png", "link/a.png"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(".")
    scanned = scan(tmp_path, recursive=True, links=True)
    assert scanned.images == ["a/b/x.png"]
    assert scanned.not_read == [NotRead("a/b/up/", LOOP), NotRead("a/self/", LOOP)]


def test_links_in_a_mesh_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featuresExtractor.images.folders.scan.MOST_FOLDERS", 1000)
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
        for other in "abcdefgh":
            (tmp_path / name / other).symlink_to(tmp_path / other)
    with pytest.raises(InputError, match="links in it lead to more than 1,000 folders"):
        scan(tmp_path, recursive=True, links=True)


def test_contents_behind_links_out_of_the_dataset_are_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", image("PNG"))
    write(tmp_path / "set" / "files" / "b", image("PNG"))
    (tmp_path / "set" / "left").mkdir()
    (tmp_path / "set" / "left" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "left" / "b").symlink_to(tmp_path / "set" / "files" / "b")
    scanned = scan(tmp_path / "set" / "left", root=tmp_path / "set")
    assert (scanned.images, scanned.not_read) == (["b"], [NotRead("a", OUTSIDE)])
    assert scan(tmp_path / "set" / "left", links=True).images == ["a", "b"]


# --- many ---


def test_a_hundred_thousand_files_are_seen_in_seconds(tmp_path: Path) -> None:
    for number in range(100_000):
        os.close(os.open(tmp_path / f"{number:06}.jpg", os.O_CREAT))
    start = time.perf_counter()
    assert len(scan(tmp_path).images) == 100_000
    assert time.perf_counter() - start < 30  # about 1 s on a machine that does nothing else


def test_folders_may_be_deep(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):  # more than Python may call functions in one another
        os.mkdir("d", dir_fd=folder)
        folder, last = os.open("d", os.O_RDONLY, dir_fd=folder), folder
        os.close(last)
    os.close(os.open("a.png", os.O_CREAT, dir_fd=folder))
    os.close(folder)
    try:
        assert scan(tmp_path, recursive=True).images == ["d/" * 1500 + "a.png"]
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # as deep as this, Python's own rmtree fails
