"""The features file: written in batches, closed up, read back, and what is none refused."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import warnings
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import train
from common.errors import InputError
from featuresExtractor.features import features_file as embeddings
from featuresExtractor.features.features_file import (
    FeaturesWriter,
    Rows,
    make_rows,
    open_features,
    row_type,
)
from featuresExtractor.features.reader import read_pairs

PAIR = ("left", "right")
WIDTH = 3


def vectors(count: int, sides: int = 2, width: int = WIDTH, seed: int = 0) -> NDArray[np.float32]:
    """Random vectors of two views: (2, count, sides, width)."""
    return np.random.default_rng(seed).normal(size=(2, count, sides, width)).astype(np.float32)


def names(count: int) -> list[list[str]]:
    return [[f"é {number}.png", f"{number}.jpg"] for number in range(count)]


def row_of(given: NDArray[np.float32]) -> np.dtype[Any]:
    return row_type(PAIR if given.shape[2] == 2 else ("features",), given.shape[3:], 9)


def put(writer: FeaturesWriter, given: NDArray[np.float32], items: range, place: int | None = None) -> int:
    """Writes these items of `given`, in their places or from `place` on."""
    some = slice(items.start, items.stop)
    labels = [item[: given.shape[2]] for item in names(given.shape[1])][some]
    blocks = [make_rows(writer.row, labels, values[some], view) for view, values in enumerate(given)]
    return writer.put(items.start if place is None else place, blocks)


def parts_of(batches: Sequence[int]) -> list[range]:
    stops = np.cumsum(batches).tolist()
    return [range(stop - size, stop) for size, stop in zip(batches, stops, strict=True)]


def write(path: Path, given: NDArray[np.float32], batches: Sequence[int], left_out: Collection[int] = ()) -> None:
    """Writes all of `given` in batches of the given sizes, between items that are left out (their places)."""
    views, count = given.shape[:2]
    assert sum(batches) == count
    kept = np.array([place not in left_out for place in range(count + len(left_out))])
    places = np.flatnonzero(kept).tolist()
    with FeaturesWriter(path, row_of(given), len(kept), views) as writer:
        for part in parts_of(batches):
            if not left_out:
                put(writer, given, part)
            for index in part if left_out else ():
                put(writer, given, range(index, index + 1), places[index])
        whole, _ = writer.seal(kept)
    whole.replace(path)


def assert_holds(table: NDArray[Any], given: NDArray[np.float32]) -> None:
    """`table` has the items of `given`, originals first, bit for bit."""
    views, count = given.shape[:2]
    assert table.shape == (views * count,)
    assert table["view"].tolist() == [view for view in range(views) for _ in range(count)]
    for side, field in enumerate(PAIR):
        assert np.array_equal(table[field], given[:, :, side].reshape(views * count, -1))
        assert table[f"{field}_name"].tolist() == [item[side] for item in names(count)] * views


@pytest.mark.parametrize("batches", [[7], [1] * 7, [3, 1, 2, 1], [6, 1]])
def test_what_was_written_in_batches_is_read_back_bit_for_bit(batches: list[int], tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(7), batches)
    assert_holds(np.load(tmp_path / "f.npy"), vectors(7))
    assert_holds(open_features(tmp_path / "f.npy").all(), vectors(7))


def test_memory_map_without_pickle_gives_the_matrix(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(5), [5])
    left = np.load(tmp_path / "f.npy", mmap_mode="r", allow_pickle=False)["left"]
    assert isinstance(left, np.memmap)
    assert (left.shape, left.dtype) == ((10, WIDTH), np.dtype("<f4"))
    assert np.array_equal(left, vectors(5)[:, :, 0].reshape(10, WIDTH))


def test_file_is_what_numpy_itself_would_write(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(5), [2, 3])
    np.save(tmp_path / "numpy.npy", np.load(tmp_path / "f.npy"))
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("left_out", [[0], [11], [4, 5, 9], range(6), range(11, 31), range(0, 21, 2)])
def test_gaps_of_left_out_items_are_closed(
    left_out: Sequence[int], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", chunk * row_type(PAIR, WIDTH, 9).itemsize)
    write(tmp_path / "f.npy", vectors(11), [4, 6, 1], left_out)
    write(tmp_path / "whole.npy", vectors(11), [11])
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("chunk_bytes", [150, 450, 10**6])
@pytest.mark.parametrize("views", [1, 3])
def test_gaps_are_closed_for_any_number_of_views(
    views: int, chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", chunk_bytes)
    given = np.concatenate([vectors(10), vectors(10, seed=1)])[:views]
    write(tmp_path / "f.npy", given, [9, 1], [0, 5, 12])
    assert_holds(np.load(tmp_path / "f.npy"), given)


def test_chunks_are_all_rows_in_order_and_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f.npy", vectors(11), [11])
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", 4 * row_type(PAIR, WIDTH, 9).itemsize + 1)
    chunks = list(open_features(tmp_path / "f.npy").chunks())
    assert [len(chunk) for chunk in chunks] == [4, 4, 4, 4, 4, 2]
    assert_holds(np.concatenate(chunks), vectors(11))


def test_rows_wider_than_a_chunk_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f.npy", vectors(2), [2], [1])
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", 1)
    assert [len(chunk) for chunk in open_features(tmp_path / "f.npy").chunks()] == [1, 1, 1, 1]


# --- whole layers ---

LAYER = (4, 3, 5)  # channels, height, width


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 10**6])
@pytest.mark.parametrize("left_out", [[], [3], range(2, 7), range(7, 30)])
def test_maps_of_a_layer_are_read_back_bit_for_bit_whatever_was_left_out(
    left_out: Sequence[int], chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", chunk_bytes)
    given = np.random.default_rng(0).normal(size=(2, 7, 2, *LAYER)).astype(np.float32)
    write(tmp_path / "f.npy", given, [4, 1, 2], left_out)
    table = np.load(tmp_path / "f.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(table["left"], np.memmap)
    assert table["view"].tolist() == [0] * 7 + [1] * 7
    for side, field in enumerate(PAIR):
        assert (table[field].shape, table[field].dtype) == ((14, *LAYER), np.dtype("<f4"))
        assert np.array_equal(table[field], given[:, :, side].reshape(14, *LAYER))
        assert table[f"{field}_name"].tolist() == [item[side] for item in names(7)] * 2


def test_file_of_a_layer_is_what_numpy_itself_would_write(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", np.ones((2, 3, 2, *LAYER), np.float32), [2, 1], [0, 4])
    np.save(tmp_path / "numpy.npy", np.load(tmp_path / "f.npy"))
    assert (tmp_path / "f.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_file_of_a_layer_is_no_file_of_vectors(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", np.ones((1, 3, 2, *LAYER), np.float32), [3])
    told = "not a features file: it holds a layer of shape (4, 3, 5) (-p save), not vectors; extract.py writes one"
    assert refusal(tmp_path / "f.npy") == told


def test_layer_that_gives_vectors_is_a_features_file(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", np.ones((1, 3, 2, 5), np.float32), [3])
    assert open_features(tmp_path / "f.npy").width == 5


def test_row_of_a_layer_is_its_map_and_its_names() -> None:
    row = row_type(("features",), LAYER, 2)
    assert row["features"].shape == LAYER
    assert row.itemsize == 4 * 4 * 3 * 5 + 2 * 4 + 1
    assert row_type(PAIR, 5, 9) == row_type(PAIR, (5,), 9)


def test_training_on_a_layer_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "f.npy", np.ones((2, 3, 2, *LAYER), np.float32), [3])
    assert train.main(["-d", str(tmp_path / "f.npy"), "-s", str(tmp_path / "run"), "--cpu"]) == 2
    assert "it holds a layer of shape (4, 3, 5) (-p save), not vectors" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["f.npy"]


def test_flat_folder_has_features_and_names(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(4, sides=1), [4])
    rows = open_features(tmp_path / "f.npy")
    assert rows.row.names == ("features", "name", "view")
    assert (rows.sides, rows.width, rows.count, rows.name_length) == (("features",), WIDTH, 8, 9)
    assert rows.all()["name"].tolist() == [item[0] for item in names(4)] * 2


# --- in any order, and again ---


def whole_of(folder: Path, given: NDArray[np.float32]) -> bytes:
    """The file of all items, written at once."""
    write(folder / "whole.npy", given, [given.shape[1]])
    return (folder / "whole.npy").read_bytes()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1, 0, 2]])
def test_items_may_come_in_any_order_and_more_than_once(order: list[int], tmp_path: Path) -> None:
    given, parts = vectors(9), parts_of([3, 1, 4, 1])
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 9, 2) as writer:
        for number in order:
            put(writer, given, parts[number])
        whole, digest = writer.seal()
    assert whole == tmp_path / "f.npy"
    contents = (tmp_path / "f.npy").read_bytes()
    assert contents == whole_of(tmp_path, given)
    assert digest == hashlib.sha256(contents).hexdigest()


@pytest.mark.parametrize("first", [0, 5])
def test_file_that_exists_is_resumed(first: int, tmp_path: Path) -> None:
    given, path = vectors(9), tmp_path / "f.npy"
    done, left = (range(5), range(5, 9)) if first == 0 else (range(5, 9), range(5))
    with FeaturesWriter(path, row_of(given), 9, 2) as writer:
        checksum = put(writer, given, done)
    with FeaturesWriter(path, row_of(given), 9, 2, resume=True) as writer:
        assert writer.checksum(done) == checksum
        put(writer, given, left)
        writer.seal()
    assert path.read_bytes() == whole_of(tmp_path, given)


def test_file_that_is_not_resumed_is_begun_anew(tmp_path: Path) -> None:
    given = vectors(4)
    write(tmp_path / "f.npy", given, [4])
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 4, 2) as writer:
        zeros = np.zeros(2, writer.row).tobytes()
        assert writer.checksum(range(2)) == zlib.crc32(zeros, zlib.crc32(zeros))


@pytest.mark.parametrize("length", [0, 1, 200, 300, 10**5])
def test_file_gone_on_with_has_its_length_whatever_it_had(length: int, tmp_path: Path) -> None:
    """Such as one that a power cut left too short."""
    given = vectors(9)
    (tmp_path / "f.npy").write_bytes(b"x" * length)
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 9, 2, resume=True) as writer:
        put(writer, given, range(9))
        writer.seal()
    assert (tmp_path / "f.npy").read_bytes() == whole_of(tmp_path, given)


@pytest.mark.parametrize("chunk_bytes", [1, 300, 10**6])
def test_checksum_tells_every_changed_byte(chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", chunk_bytes)
    given = vectors(5)
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 5, 2) as writer:
        sums = [put(writer, given, part) for part in (range(2), range(2, 5))]
    contents = (tmp_path / "f.npy").read_bytes()
    size, start = writer.row.itemsize, writer.start
    for place in range(start, len(contents), 7):
        changed = bytearray(contents)
        changed[place] ^= 1
        (tmp_path / "f.npy").write_bytes(changed)
        first = (place - start) // size % 5 < 2  # which of the two batches the byte is of
        with FeaturesWriter(tmp_path / "f.npy", row_of(given), 5, 2, resume=True) as writer:
            same = [writer.checksum(part) == told for part, told in zip((range(2), range(2, 5)), sums, strict=True)]
        assert same == [not first, first]


def test_checksum_is_that_of_the_rows_view_after_view(tmp_path: Path) -> None:
    given = vectors(5)
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 5, 2) as writer:
        told = put(writer, given, range(1, 4))
        assert writer.checksum(range(1, 4)) == told
        put(writer, given, range(5))
        writer.seal()
    table = np.load(tmp_path / "f.npy")
    assert told == zlib.crc32(table[1:4].tobytes() + table[6:9].tobytes())


def test_sealing_leaves_the_file_as_it_is_and_may_be_repeated(tmp_path: Path) -> None:
    given, kept = vectors(5), np.array([True, False, True, True, False])
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 5, 2) as writer:
        checksum = put(writer, given, range(5))
        sealed = {writer.seal(kept) for _ in range(2)}
        assert writer.checksum(range(5)) == checksum
    ((whole, digest),) = sealed
    assert whole == tmp_path / "f.closed.npy"
    assert digest == hashlib.sha256(whole.read_bytes()).hexdigest()
    assert np.array_equal(np.load(whole), np.load(tmp_path / "f.npy")[np.tile(kept, 2)])


@pytest.mark.parametrize("name", ["f.npy", "f.closed.npy"])
def test_link_in_the_place_of_a_file_is_not_followed(name: str, tmp_path: Path) -> None:
    given = vectors(3)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / name).symlink_to("mine.txt")
    with FeaturesWriter(tmp_path / "f.npy", row_of(given), 3, 2) as writer:
        put(writer, given, range(3))
        whole, _ = writer.seal(np.array([True, False, True]))
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / name).is_symlink()
    assert open_features(whole).count == 4


def test_link_in_the_place_of_a_file_to_resume_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "f.npy").symlink_to("mine.txt")
    with pytest.raises(OSError, match="symbolic link"):
        FeaturesWriter(tmp_path / "f.npy", row_of(vectors(3)), 3, 2, resume=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


# --- what is no features file ---


def refusal(path: Path) -> str:
    """The error line about `path` of the reader of this project's own files, without its name. The reader of anyone's
    refuses it in one line too, or reads what it holds."""
    with pytest.raises(InputError) as caught:
        open_features(path)
    text = str(caught.value)
    with contextlib.suppress(InputError):
        read_pairs(path)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("change", [-1, 1, -100])
def test_file_of_another_length_than_its_header_says_is_refused(change: int, tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(5), [5])
    content = (tmp_path / "f.npy").read_bytes()
    (tmp_path / "f.npy").write_bytes(content[:change] if change < 0 else content + b"x")
    assert refusal(tmp_path / "f.npy") == "cut short or damaged: its header promises 10 rows; extract it again"


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"left,right\n", b"PK\x03\x04" * 9]
)
def test_file_without_a_header_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_bytes(content)
    assert refusal(tmp_path / "f.npy") == "not a .npy file; extract.py writes the features file"


@pytest.mark.parametrize(("name", "reason"), [("none.npy", "No such file or directory"), ("", "Is a directory")])
def test_absent_file_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / name) == f"no features file could be read here ({reason})"


def with_header(path: Path, header: str, version: int = 1) -> Path:
    encoded = header.encode("latin1")
    length = struct.pack("<H" if version == 1 else "<I", len(encoded))
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + encoded + b"\0" * 999)
    return path


def header_of(row: object, shape: object = (3,), order: object = False) -> str:
    return repr({"descr": row, "fortran_order": order, "shape": shape})


def fields(left: object = ("<f4", (3,)), right: object = ("<f4", (3,)), name: str = "<U4", view: str = "|u1") -> object:
    sides = [("left", *left), ("right", *right)]  # type: ignore[misc]
    return [*sides, ("left_name", name), ("right_name", name), ("view", view)]


HOSTILE = [
    "(",
    "(" * 5000,
    "-" * 9000 + "1",
    "{1: 2, 'a': 3}",
    "{[]: 1}",
    "[]",
    "x" * 20000,
    "\0",
    " x\n  y\n z",
    header_of([()]),
    header_of([("left",)]),
    header_of({"x": 1}),
    header_of([("left", "<f4", ("a",))]),
    header_of([("left", "<f4", (-3,))]),
    header_of(fields(("<f4", (10**11,)), ("<f4", (10**11,)))),
    header_of("__import__('os')"),
    "__import__('os').mkdir('owned')",
]


@pytest.mark.parametrize("version", [1, 2, 3, 9])
@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_header_is_refused(header: str, version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_header(tmp_path / "f.npy", header, version)
    assert refusal(path) == "not a .npy file; extract.py writes the features file"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (header_of("<f4"), "it holds an array of float32 of shape (3,), not rows with fields"),
        (header_of("<f8", (3, 2)), "it holds an array of float64 of shape (3, 2), not rows with fields"),
        (header_of(fields(), (3, 1)), "its shape is (3, 1), not (rows,)"),
        (header_of(fields(), ()), "its shape is (), not (rows,)"),
        (header_of(fields(), order=True), "its shape is (3,), not (rows,)"),
        (header_of([("a", "<f4")]), "its fields are a, not left, right, left_name, right_name, view"),
        *(
            (header_of(bad), "its fields have unexpected types or it has no rows")
            for bad in (
                fields(("<f8", (3,))),
                fields(right=(">f4", (3,))),
                fields(right=("<f4", (4,))),
                fields(("<f4", (3, 2)), ("<f4", (3, 3))),
                fields(("<f8", (3, 2)), ("<f8", (3, 2))),
                fields(("<f4",), ("<f4",)),
                fields(name="|S4"),
                fields(view="<i8"),
            )
        ),
        *(
            (header_of(fields(layer, layer)), f"it holds a layer of shape {layer[1]} (-p save), not vectors")
            for layer in (("<f4", (3, 2)), ("<f4", (2, 3, 4)), ("<f4", (1, 1, 1)))
        ),
        (header_of(fields(), (0,)), "its fields have unexpected types or it has no rows"),
    ],
)
def test_array_of_another_kind_is_refused_with_what_it_is(header: str, problem: str, tmp_path: Path) -> None:
    path = with_header(tmp_path / "f.npy", header)
    assert refusal(path) == f"not a features file: {problem}; extract.py writes one"


@pytest.mark.parametrize("count", [-3, 10**15])
def test_impossible_number_of_rows_is_refused(count: int, tmp_path: Path) -> None:
    path = with_header(tmp_path / "f.npy", header_of(fields(), (count,)))
    assert refusal(path) == f"cut short or damaged: its header promises {count:,} rows; extract it again"


def test_header_in_python_2s_spelling_is_read(tmp_path: Path) -> None:
    path = with_header(tmp_path / "f.npy", header_of("<f4").replace("(3,)", "(3L,)"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "it holds an array of float32" in refusal(path)


# --- pairs in memory ---


def test_pairs_are_read_into_memory(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(4), [4])
    read = read_pairs(tmp_path / "f.npy")
    for side, matrix in enumerate((read.left, read.right)):
        assert np.array_equal(matrix, vectors(4)[:, :, side].reshape(8, WIDTH))
        assert not isinstance(matrix, np.memmap)
        assert matrix.dtype == np.float32
        assert matrix.flags.c_contiguous
    assert read.names == [(left, right) for left, right in names(4)] * 2
    assert read.view.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_features_of_a_flat_folder_are_no_pairs(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", vectors(4, sides=1), [4])
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "f.npy")
    expected = "features of a flat folder; training needs pairs (a folder with left/ and right/)"
    assert str(caught.value) == f"{tmp_path / 'f.npy'}: {expected}"


def test_name_field_has_room_for_at_least_one_character() -> None:
    row = row_type(PAIR, WIDTH, 0)
    assert Rows(Path(), row, 0, 0).name_length == 1
