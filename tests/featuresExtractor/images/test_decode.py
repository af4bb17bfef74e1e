"""One image in a file: what is opened as one, what is refused and why, and its pixels."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from featuresExtractor.images import decode
from featuresExtractor.images.decode import check_image, decode_image, open_image, reason_of
from featuresExtractor.images.kinds import REFUSED, formats, suffixes
from featuresExtractor.transforms import Preprocessing, prepare
from tests.featuresExtractor.images.made import ORIENTED, photograph, saved

SMALL = Preprocessing(12, 8, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def fault(path: Path) -> str:
    """Why an image is refused, by its header alone as well as when it is read."""
    reasons = []
    for look in (check_image, decode_image):
        with pytest.raises((ValueError, OSError)) as caught:
            look(path, SMALL)
        reasons.append(reason_of(caught.value, path))
    assert reasons[0] == reasons[1]
    return reasons[0]


def test_image_is_read_as_prepare_makes_it(image: Callable[..., Path], tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", (33, 21))
    with Image.open(path) as opened:
        assert np.array_equal(decode_image(path, SMALL).pixels, prepare(opened, SMALL))


def test_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    check_image(tmp_path / "a.gif", SMALL)
    assert decode_image(tmp_path / "a.gif", SMALL).pixels[:, 0, 0].tolist() == [255, 0, 0]


def test_image_of_one_pixel_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "lime").save(tmp_path / "a.png")
    check_image(tmp_path / "a.png", SMALL)
    assert (decode_image(tmp_path / "a.png", SMALL).pixels == np.array([0, 255, 0])[:, None, None]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".jp2", ".ppm", ".ico", ".tga"])
def test_image_in_every_frequent_format_is_in_order(suffix: str, image: Callable[..., Path], tmp_path: Path) -> None:
    path = image(tmp_path / f"a{suffix}", (33, 21))
    assert suffix in suffixes()
    check_image(path, SMALL)
    assert decode_image(path, SMALL).pixels.shape == (3, 8, 8)


def test_frequent_formats_are_tried_first_and_those_that_start_programs_never() -> None:
    assert formats()[:1] == ["JPEG"]
    assert "PNG" in formats()[1:3]
    assert not set(REFUSED) & set(formats())
    assert not {".eps", ".ps", ".mpg", ".wmf", ".h5", ".grib"} & suffixes()


# --- what is refused ---


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    Path("folder.png").mkdir()
    os.mkfifo("pipe.png")
    Path("nowhere.png").symlink_to("gone")
    Path("null.png").symlink_to("/dev/null")
    Path("pipe link.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert fault(tmp_path / "socket.png") == "a socket, not a file"
    assert fault(tmp_path / "folder.png") == "a folder, not a file"
    assert fault(tmp_path / "pipe.png") == fault(tmp_path / "pipe link.png") == "a pipe, not a file"
    assert fault(tmp_path / "null.png") == "a device, not a file"
    assert fault(tmp_path / "nowhere.png") == "a link that leads nowhere"
    assert fault(tmp_path / "none.png") == "gone"


def test_file_that_holds_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    assert fault(path) == "an empty file"
    path.write_text("no image")
    assert fault(path) == "not an image in a format that is known here"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".ppm", ".tif", ".tga", ".webp"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_image_that_was_cut_is_refused(part: float, suffix: str, image: Callable[..., Path], tmp_path: Path) -> None:
    path = image(tmp_path / f"a{suffix}", (330, 210))
    contents = path.read_bytes()
    path.write_bytes(contents[: int(part * len(contents))])
    assert any(word in fault(path) for word in ("truncated", "broken", "could not create decoder"))


def test_image_with_something_behind_its_end_is_in_order(image: Callable[..., Path], tmp_path: Path) -> None:
    path = image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 10_000)  # more than is looked at: read to its end, which is good
    check_image(path, SMALL)


def test_check_of_a_whole_image_decodes_nothing(
    image: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = image(tmp_path / "a.png")

    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(decode, "decode_image", refuse)
    check_image(path, SMALL)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(AssertionError, match="decoded"):
        check_image(path, SMALL)


@pytest.mark.parametrize("name", ["bomb.ppm", "bomb.png"])
def test_header_that_promises_too_many_pixels_is_refused_before_any_is_made(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"P6 100000 100000 255\n")
    assert fault(tmp_path / name) == (
        "100000 x 100000 pixels are more than the 178,956,970 that are read; --max-pixels 10000000000 admits this image"
    )


def test_image_too_narrow_to_resize_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (20_000, 2)).save(tmp_path / "line.png")
    for look in (check_image, decode_image):
        with pytest.raises(ValueError, match="20000 x 2 pixels are too narrow"):
            look(tmp_path / "line.png", replace(SMALL, resize=256))


def test_reason_is_one_line_without_the_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert reason_of(OSError(f"cannot open {str(path)!r}\n  at all"), path) == "cannot open at all"
    assert reason_of(ZeroDivisionError(), path) == "ZeroDivisionError"


def test_no_image_starts_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by content, and would hand PostScript to the first `gs` on the path."""
    canary, tools = tmp_path / "canary", tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    path = tmp_path / "evil.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as image, contextlib.suppress(OSError):  # what must not happen
        image.load()
    assert canary.exists()
    canary.unlink()
    assert fault(path) == "EPS is not read; convert it to PNG"
    assert not canary.exists()


# --- large images ---


@pytest.mark.parametrize(("large", "most"), [(33 * 21 - 1, 1), (33 * 21, 4)])
def test_large_images_are_decoded_one_at_a_time(
    large: int, most: int, image: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads: those of small images meet while they decode; of large ones there is never a second."""
    path, lock, now = image(tmp_path / "a.png", (33, 21)), threading.Lock(), 0
    together, seen = threading.Barrier(4), []

    def watched(*words: Any) -> NDArray[np.uint8]:
        nonlocal now
        with lock:
            now += 1
            seen.append(now)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(20 if most > 1 else 0.1)
        with lock:
            now -= 1
        return prepare(*words)

    monkeypatch.setattr(decode, "LARGE", large)
    monkeypatch.setattr(decode, "prepare", watched)
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda _: decode_image(path, SMALL).pixels, range(4)))
    assert max(seen) == most
    assert all(np.array_equal(pixels, actual[0]) for pixels in actual)


def test_header_of_an_image_is_all_that_is_read_to_open_it(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 30 20 255\n")
    with open_image(tmp_path / "a.ppm") as image:
        assert image.size == (30, 20)


# --- the check and the run ---


WAYS = ("flip", "zeros", "cut", "missing", "twice", "joined")


def damaged(body: bytes, way: str, generator: np.random.Generator) -> bytes:
    """The bytes after what happens to files."""
    start, length = int(generator.integers(len(body))), int(generator.integers(1, max(2, len(body) // 8)))
    before, after = body[:start], body[start:]
    return {
        "flip": before + bytes([(after[:1] or b"a")[0] ^ 1 << length % 8]) + after[1:],
        "zeros": before + bytes(len(after[:length])) + after[length:],
        "cut": before,
        "missing": before + after[length:],
        "twice": before + after[:length] + after,
        "joined": before + body[::-1][start:],
    }[way]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "ICO", "AVIF"])
def test_what_can_be_read_is_never_refused_by_the_check(kind: str, way: str, tmp_path: Path) -> None:
    """And what the check refuses, the run refuses for the same reason."""
    whole, generator = saved(photograph(1, 40, 30), kind), np.random.default_rng(0)
    path, ends = tmp_path / "a.image", set()
    for _ in range(25):
        path.write_bytes(damaged(whole, way, generator))
        reasons = []
        for look in (check_image, decode_image):
            try:
                look(path, SMALL)
                reasons.append("")
            except Exception as error:
                reasons.append(reason_of(error, path))
        ends.add(bool(reasons[1]))
        assert reasons[0] in ("", reasons[1])
    assert ends


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_the_header_does_not_show_is_found_by_the_run(kind: str, place: float, tmp_path: Path) -> None:
    whole = saved(photograph(1, 320, 240), kind)
    start = int(place * len(whole))
    path = tmp_path / "a.image"
    path.write_bytes(whole[:start] + bytes(2048) + whole[start + 2048 :])
    check_image(path, SMALL)
    with pytest.raises(ValueError, match=f"^corrupt {kind} data "):
        decode_image(path, SMALL)


def test_corrupt_image_in_an_icon_is_refused(tmp_path: Path) -> None:
    whole = saved(photograph(1, 64, 64), "ICO", sizes=[(64, 64)])
    middle = len(whole) // 2
    (tmp_path / "a.ico").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert "data stream" in fault(tmp_path / "a.ico")


def test_image_that_needs_turning_is_cut_as_it_is_seen(tmp_path: Path) -> None:
    """The crop is of the upright image: resizing first and turning then would round other sides."""
    image = photograph(3, 61, 40)
    for orientation, turn in ORIENTED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "a.png").write_bytes(saved(image, "PNG", exif=exif))
        Image.fromarray(turn(image)).save(tmp_path / "b.png")
        pixels, turned = (decode_image(tmp_path / name, SMALL).pixels for name in ("a.png", "b.png"))
        assert np.array_equal(pixels, turned)
