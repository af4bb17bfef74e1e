"""Thousands of damaged images: each ends as a row or as a reason, soon, and without filling the memory."""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.slow.processes import peak

pytestmark = pytest.mark.slow

SECONDS, BYTES = 20.0, 2**30  # of one image; of more than 179 million pixels none is read
FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    "jpeg": ("RGB", {}),
    "jpeg cmyk": ("CMYK", {}),
    "jpeg progressive": ("RGB", {"progressive": True}),
    "png": ("RGBA", {}),
    "png 16": ("I;16", {}),
    "png palette": ("P", {}),
    "gif": ("P", {}),
    "webp": ("RGBA", {}),
    "tiff": ("RGB", {"compression": "tiff_lzw"}),
    "tiff jpeg": ("RGB", {"compression": "jpeg"}),
    "tiff deflate": ("RGB", {"compression": "tiff_adobe_deflate"}),
    "bmp": ("RGB", {}),
    "ppm": ("RGB", {}),
    "tga": ("RGB", {}),
    "ico": ("RGBA", {}),
    "jpeg2000": ("RGB", {}),
    "avif": ("RGB", {}),
}


def whole(name: str) -> bytes:
    """An image of this kind as a file; of a GIF two frames."""
    mode, options = FORMATS[name]
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((40, 30))
    image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    if name == "gif":
        options = {"save_all": True, "append_images": [image.rotate(90)]}
    target = io.BytesIO()
    image.save(target, name.split()[0], **options)
    return target.getvalue()


WHOLE = [whole(name) for name in FORMATS if name != "avif" or "AVIF" in Image.SAVE]
EVENTS = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1), st.integers(1, 255)),
    st.tuples(st.just("head"), st.floats(0, 0.2), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.just("repeat"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.just("high"), st.floats(0, 0.3), st.integers(1, 4)),
    st.tuples(st.just("join"), st.floats(0, 1), st.integers(0, len(WHOLE) - 1)),
)


def mutated(body: bytes, events: list[tuple[str, float, int]]) -> bytes:
    """The bytes after all that happened to them."""
    for kind, share, number in events:
        place = int(share * max(0, len(body) - 1))
        before, after = body[:place], body[place:]
        if kind in ("flip", "head") and after:
            body = before + bytes([after[0] ^ number]) + after[1:]
        elif kind == "cut":
            body = before
        elif kind == "drop":
            body = before + after[number:]
        elif kind == "repeat":
            body = before + after[:number] * 3 + after
        elif kind == "high":
            body = before + b"\xff" * number + after[number:]
        elif kind == "join":
            body = before + WHOLE[number][place:]
    return body


def read_all(pipe: Connection, path: str) -> None:
    """Reads what comes through the pipe as images, in a process of its own; tells the outcome and the memory."""
    import warnings

    from featuresExtractor.images.decode import check_image, decode_image, reason_of
    from featuresExtractor.transforms import Preprocessing

    warnings.simplefilter("ignore")
    preprocessing, file = Preprocessing(36, 32, "bicubic", (0.5,) * 3, (0.5,) * 3), Path(path)
    while True:
        file.write_bytes(pipe.recv())
        outcomes: list[tuple[int, ...] | str] = []
        for way in (check_image, decode_image):
            try:
                decoded = way(file, preprocessing)
                outcomes.append(() if decoded is None else decoded.pixels.shape)
            except Exception as error:
                outcomes.append(reason_of(error, file))
        pipe.send((outcomes, peak()))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], tuple[list[object], int]]]:
    """`reader(bytes)` has them read in another process; one that crashes or hangs fails the test."""
    here, there = multiprocessing.Pipe()
    path = tmp_path_factory.mktemp("mutated") / "image.bin"
    process = multiprocessing.get_context("forkserver").Process(target=read_all, args=(there, str(path)))
    process.start()
    there.close()

    def read(body: bytes) -> tuple[list[object], int]:
        here.send(body)
        assert here.poll(SECONDS + 60 * (read_count[0] == 0)), "no answer"  # the first one waits for the imports too
        read_count[0] += 1
        outcome: tuple[list[object], int] = here.recv()
        return outcome

    read_count = [0]
    yield read
    process.kill()
    process.join()


def test_whole_images_are_rows(reader: Callable[[bytes], tuple[list[object], int]]) -> None:
    for body in WHOLE:
        assert reader(body)[0] == [(), (3, 32, 32)]


def test_every_damaged_image_is_a_row_or_a_reason(reader: Callable[[bytes], tuple[list[object], int]]) -> None:
    _, before = reader(WHOLE[0])
    seen = {"rows": 0, "reasons": 0, "found by the header": 0}

    @settings(
        max_examples=2400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(WHOLE), st.lists(EVENTS, min_size=1, max_size=5))
    def check(body: bytes, events: list[tuple[str, float, int]]) -> None:
        (checked, found), most = reader(mutated(body, events))
        assert most - before < BYTES
        assert found == (3, 32, 32) or (isinstance(found, str) and found)
        assert checked == () or (isinstance(checked, str) and checked)
        assert checked in ((), found)  # what can be read is never refused by the check; what cannot be, for one reason
        seen["rows"] += found == (3, 32, 32)
        seen["reasons"] += isinstance(found, str)
        seen["found by the header"] += checked != ()

    check()
    assert sum((seen["rows"], seen["reasons"])) >= 2000
    assert min(seen.values()) > 200, seen
