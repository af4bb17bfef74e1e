"""Features of other tools: what a file holds is read as numpy reads it, or refused by the name of the field."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import InputError
from featuresExtractor.features.fields import HOW
from featuresExtractor.features.reader import open_pairs
from featuresExtractor.features.table import Table

N, D = 6, 5
LEFT, RIGHT = np.random.default_rng(0).normal(size=(2, N, D)).astype(np.float32)
NAMES = [f"é{number}.jpg" for number in range(N)]
PAIRS = list(zip(NAMES, NAMES, strict=True))
FIELDS: dict[str, Any] = {"left": LEFT, "right": RIGHT, "left_name": NAMES, "right_name": NAMES, "view": [0] * N}
ONE, BOTH = "one array (float32, shape", "where these are both sides, write_pairs(path,"
FLOATS = "float16, float32 or float64 of shape (N, D) is expected"


def rows(path: Path, fields: dict[str, Any]) -> Path:
    """As rows with fields, in the order in which they are given."""
    values = {name: np.asarray(value) for name, value in fields.items()}
    table = np.zeros(N, [(name, value.dtype, value.shape[1:]) for name, value in values.items()])
    for name, value in values.items():
        table[name] = value
    np.save(path, table)
    return path


def npz(path: Path, fields: dict[str, Any]) -> Path:
    np.savez(path.with_suffix(".npz"), **fields)
    return path.with_suffix(".npz")


def packed(path: Path, fields: dict[str, Any]) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), **fields)
    return path.with_suffix(".npz")


def pickled(path: Path, fields: dict[str, Any]) -> Path:
    np.save(path, np.array(fields, dtype=object), allow_pickle=True)
    return path


Write = Callable[[Path, dict[str, Any]], Path]
KINDS = [rows, npz, packed, pickled]


def read(write: Write, folder: Path, fields: dict[str, Any]) -> Table:
    return open_pairs(str(write(folder / "f.npy", fields)))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in FIELDS.items() if name not in names}


def text(name: str) -> bytes:
    return name.encode()


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": FIELDS,
    "another order": dict(reversed(FIELDS.items())),
    "float16": FIELDS | {"left": LEFT.astype("f2"), "right": RIGHT.astype("f2")},
    "float64": FIELDS | {"left": LEFT.astype("f8"), "right": RIGHT.astype("f8")},
    "big-endian": FIELDS | {"left": LEFT.astype(">f4"), "right": RIGHT.astype(">f8")},
    "one float16": FIELDS | {"left": LEFT.astype("f2")},
    "names of both": without("left_name", "right_name") | {"name": NAMES},
    "names, in plural": without("left_name", "right_name") | {"names": NAMES},
    "bytes": FIELDS | {"left_name": np.array([text(name) for name in NAMES])},
    "big-endian names": FIELDS | {"left_name": np.array(NAMES).astype(">U9")},
    "a view of int64": FIELDS | {"view": np.zeros(N, np.int64)},
    "a view of booleans": FIELDS | {"view": np.zeros(N, bool)},
    "a view, big-endian": FIELDS | {"view": np.zeros(N, ">u2")},
}


@pytest.mark.parametrize("fields", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("write", KINDS)
def test_fields_are_read_whatever_their_order_and_type(write: Write, fields: dict[str, Any], tmp_path: Path) -> None:
    pairs = read(write, tmp_path, fields)
    assert np.array_equal(pairs.left, fields["left"])
    assert np.array_equal(pairs.right, fields["right"])
    assert pairs.names == PAIRS
    assert pairs.view is not None
    assert pairs.view.tolist() == [0] * N
    assert pairs.notes == ()


@pytest.mark.parametrize("write", KINDS)
def test_views_are_those_of_the_field(write: Write, tmp_path: Path) -> None:
    pairs = read(write, tmp_path, FIELDS | {"view": np.array([0, 0, 0, 1, 1, 7], np.int16)})
    assert pairs.view is not None
    assert pairs.view.tolist() == [0, 0, 0, 1, 1, 7]
    assert read(write, tmp_path, without("view")).view is None


@pytest.mark.parametrize("names", [{}, {"left_name": [""] * N, "right_name": [""] * N}, {"name": [""] * N}])
@pytest.mark.parametrize("write", KINDS)
def test_without_names_rows_are_numbered(write: Write, names: dict[str, Any], tmp_path: Path) -> None:
    pairs = read(write, tmp_path, {"left": LEFT, "right": RIGHT, **names})
    assert pairs.names[0] == ("row000001", "row000001")
    assert pairs.names == sorted(set(pairs.names))
    (note,) = pairs.notes
    assert "no names; rows are paired by their order and called row000001" in note
    assert "all count as originals, since no field view says otherwise" in note


@pytest.mark.parametrize("write", KINDS)
def test_without_names_each_view_is_numbered_by_itself(write: Write, tmp_path: Path) -> None:
    pairs = read(write, tmp_path, {"left": LEFT, "right": RIGHT, "view": [0, 1, 0, 1, 0, 1]})
    assert [name for name, _ in pairs.names] == [f"row00000{number}" for number in (1, 1, 2, 2, 3, 3)]
    assert "originals" not in pairs.notes[0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("write", KINDS)
def test_names_of_one_side_name_both(write: Write, side: str, tmp_path: Path) -> None:
    pairs = read(write, tmp_path, {"left": LEFT, "right": RIGHT, f"{side}_name": NAMES})
    assert pairs.names == PAIRS
    assert f"names of the {side} side alone; rows are paired by their order" in pairs.notes[0]


@pytest.mark.parametrize("write", KINDS)
def test_fields_that_are_not_read_are_named(write: Write, tmp_path: Path) -> None:
    pairs = read(write, tmp_path, FIELDS | {"labels": list(range(N)), "fold": [1.5] * N})
    assert len(pairs.notes) == 1
    assert pairs.notes[0].endswith(": not read: fold, labels")


def test_rows_are_a_memory_map(tmp_path: Path) -> None:
    for fields in (FIELDS, CHANGES["float64"], CHANGES["another order"]):
        pairs = read(rows, tmp_path, fields)
        assert isinstance(pairs.left, np.memmap)
        assert isinstance(pairs.right, np.memmap)


def test_rows_with_gaps_between_their_fields_are_read(tmp_path: Path) -> None:
    kind = np.dtype([("view", "u1"), ("left", "<f8", (D,)), ("right", "<f8", (D,)), ("name", "U9")], align=True)
    table = np.zeros(N, kind)
    table["left"], table["right"], table["name"] = LEFT, RIGHT, NAMES
    np.save(tmp_path / "f.npy", table)
    pairs = open_pairs(tmp_path / "f.npy")
    assert np.array_equal(pairs.left, LEFT)
    assert np.array_equal(pairs.right, RIGHT)
    assert pairs.names == PAIRS


# ---- refused by name


def refusal(path: Path, right: Path | None = None) -> str:
    with pytest.raises(InputError) as raised:
        open_pairs(path, right)
    line = str(raised.value)
    assert line.isprintable()
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "integers": (FIELDS | {"left": LEFT.astype("i4")}, f"field left: int32, shape (6, 5); {FLOATS}"),
    "complex": (FIELDS | {"right": RIGHT.astype("c8")}, f"field right: complex64, shape (6, 5); {FLOATS}"),
    "long floats": (
        FIELDS | {"right": RIGHT.astype("g")},
        f"field right: {np.dtype('g').name}, shape (6, 5); {FLOATS}",
    ),
    "a number a row": (FIELDS | {"right": RIGHT[:, 0]}, f"field right: float32, shape (6,); {FLOATS}"),
    "text": (FIELDS | {"left": np.array(NAMES)}, f"field left: text, shape (6,); {FLOATS}"),
    "maps": (
        FIELDS | {"left": np.zeros((N, 2, 3, 3), "f4")},
        "field left: it holds a layer of shape (2, 3, 3) (-p save), not vectors",
    ),
    "other widths": (FIELDS | {"right": RIGHT[:, :3]}, "left is (6, 5) and right (6, 3); one row a pair is expected"),
    "no right": (without("right"), "has no field right or right_ebds; its fields are left, left_name, "),
    "names that are numbers": (
        FIELDS | {"left_name": np.arange(N)},
        "field left_name: int64, shape (6,); 6 names are expected, as text",
    ),
    "some names": (
        FIELDS | {"left_name": [*NAMES[:-2], "", ""]},
        "field left_name: 2 of 6 names are empty; name all rows, or none",
    ),
    "Latin-1": (
        FIELDS | {"left_name": np.array([name.encode("latin1") for name in NAMES])},
        "field left_name: names that are no UTF-8 text",
    ),
    "a float view": (
        FIELDS | {"view": np.zeros(N)},
        "field view: float64, shape (6,); whole numbers of shape (6,) are expected",
    ),
    "a negative view": (
        FIELDS | {"view": np.array([0] * 5 + [-1])},
        "field view: numbers from -1 to 0; 0 to 255 are possible",
    ),
    "a large view": (
        FIELDS | {"view": np.array([0] * 5 + [256])},
        "field view: numbers from 0 to 256; 0 to 255 are possible",
    ),
}


@pytest.mark.parametrize(("fields", "expected"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("write", [rows, npz, pickled])
def test_a_field_of_another_kind_is_named(write: Write, fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "f.npy", fields)
    message = refusal(path)
    assert message.startswith(expected) or "strings alone (an array of " in message  # of a type that no old file has
    assert HOW in message or "is expected in both" in message or "possible" in message or "or none" in message


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (FIELDS | {"left_name": NAMES[:4]}, "field left_name: text, shape (4,); 6 names are expected"),
        (FIELDS | {"left_name": [NAMES]}, "field left_name: text, shape (1, 6); 6 names are expected"),
        (FIELDS | {"view": [0, 1]}, "field view: int64, shape (2,); whole numbers of shape (6,) are expected"),
        (FIELDS | {"left": LEFT[:4]}, "left is (4, 5) and right (6, 5)"),
        ({"image": LEFT, "text": RIGHT}, "has no field left or left_ebds; its fields are image, text"),
    ],
)
def test_arrays_of_other_lengths_are_named(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert refusal(npz(tmp_path / "f.npy", fields)).startswith(expected)


def objects(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize(
    ("field", "value"), [("left_name", objects(NAMES)), ("left", objects(list(LEFT))), ("view", objects([0] * N))]
)
@pytest.mark.parametrize("write", [rows, npz])
def test_pickled_objects_in_a_field_are_not_read(write: Write, field: str, value: Any, tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "f.npy", FIELDS | {field: value}))
    assert message.startswith(f"field {field} holds pickled objects, which are not read; save names as ")


@pytest.mark.parametrize(
    "suffix", [".csv", ".mat", ".pt", ".pth", ".pkl", ".h5", ".parquet", ".txt", ".json", ".safetensors", ".CSV"]
)
@pytest.mark.parametrize("content", [b"1,2,3\n", b"PK\x03\x04rest", b"\x80\x04}.", b""])
def test_other_files_get_one_line_that_shows_the_way(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    instead = "save the arrays with np.savez(file, left=..., right=..., name=...)"
    assert refusal(path) == f"{suffix.lower()} files are not read here; {instead}, or: {HOW}"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', ", b"a,b\n"])
def test_what_is_no_array_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.npy").write_bytes(content)
    assert refusal(tmp_path / "f.npy") == f"not a .npy or .npz file; extract.py writes the features file, and {HOW}"


FLOAT_ROW = [("left", "f4", (D,)), ("right", "f4", (D,))]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (LEFT, f"{ONE} (6, 5)), not rows with fields; give the arrays of both sides, -d LEFT.npy"),
        (np.stack([LEFT, RIGHT]), f"{ONE} (2, 6, 5)), not rows with fields; {BOTH} array[0], array[1])"),
        (np.stack([LEFT, RIGHT], 1), f"{ONE} (6, 2, 5)), not rows with fields; {BOTH} array[:, 0], array[:, 1])"),
        (np.arange(3), "one array (int64, shape (3,)), not rows with fields; fields are left, right, "),
        (objects([{}]), "one array (object, shape (1,)), not rows with fields; "),
        (np.zeros((2, 2), FLOAT_ROW), "not a features file: its shape is (2, 2), not (rows,)"),
        (np.zeros(0, FLOAT_ROW), "holds no pairs, or no numbers for them"),
        (np.zeros(3, [("left", "f4", (0,)), ("right", "f4", (0,)), ("name", "U3")]), "no names"),
    ],
)
def test_an_array_alone_gets_advice(array: NDArray[Any], expected: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", array)
    if expected == "no names":
        assert open_pairs(tmp_path / "f.npy").left.size == 0  # which the layout refuses
        return
    assert refusal(tmp_path / "f.npy").startswith(expected)


# ---- .npz of strangers


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("write", [npz, packed])
def test_a_truncated_npz_is_refused(write: Write, share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "f.npy", FIELDS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path).startswith("truncated or corrupt .npz (")


@pytest.mark.parametrize("write", [npz, packed])
def test_a_changed_byte_in_the_numbers_is_seen(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "f.npy", FIELDS)
    whole = bytearray(path.read_bytes())
    whole[200] ^= 1
    path.write_bytes(whole)
    assert refusal(path).startswith("truncated or corrupt .npz (")


def member(shape: object, content: bytes, kind: str = "<f4") -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, {"descr": kind, "fortran_order": False, "shape": shape})
    return target.getvalue() + content


def archive(path: Path, left: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as target:
        target.writestr("left.npy", left)
        target.writestr("right.npy", left)
    return path


@pytest.mark.parametrize(
    "left",
    [
        member((2**40, 4), b"few"),
        member((-1, 4), b""),
        member((3, 4), bytes(47)),
        member((3, 4), bytes(49)),
        b"no array",
        b"",
    ],
)
def test_a_member_that_is_not_as_long_as_it_says_is_refused(left: bytes, tmp_path: Path) -> None:
    assert "truncated or corrupt .npz (" in refusal(archive(tmp_path / "f.npz", left)) or "takes" in refusal(
        tmp_path / "f.npz"
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_numpy_does_not_write_are_refused(method: int, tmp_path: Path) -> None:
    message = refusal(archive(tmp_path / "f.npz", member((3, 4), bytes(48)), method))
    assert message.startswith("left.npy is compressed as np.savez never does")


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2**26
    path = archive(tmp_path / "f.npz", member((size // 16, 4), bytes(size)))
    assert path.stat().st_size < 2**19
    open_pairs(path)
    monkeypatch.setattr("featuresExtractor.features.arrays.available_memory", lambda: 5 * size)
    tracemalloc.start()
    try:
        message = refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert message.startswith("takes 0.375 GiB of memory, 0.312 GiB may be used; use fewer dimensions")
    assert peak < 2**20


def test_other_members_of_an_archive_are_not_even_opened(tmp_path: Path) -> None:
    path = npz(tmp_path / "f.npy", FIELDS)
    with zipfile.ZipFile(path, "a") as target:
        target.writestr("more.npy", b"no array")
    assert open_pairs(path).notes == (f"note: {path}: not read: more",)


# ---- two plain arrays


def plain(folder: Path, left: NDArray[Any], right: NDArray[Any]) -> tuple[Path, Path]:
    np.save(folder / "l.npy", left)
    np.save(folder / "r.npy", right)
    return folder / "l.npy", folder / "r.npy"


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_two_arrays_are_a_memory_map_each(kind: str, order: Any, tmp_path: Path) -> None:
    given = LEFT.astype(kind, order=order), RIGHT.astype("<f8", order=order)
    pairs = open_pairs(*plain(tmp_path, *given))
    for array, expected in zip((pairs.left, pairs.right), given, strict=True):
        assert isinstance(array, np.memmap)
        assert np.array_equal(array, expected)
    assert pairs.names[-1] == ("row000006", "row000006")
    assert pairs.view is None


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (LEFT, RIGHT[:4], "shape (6, 5), "),
        (LEFT.astype("i4"), RIGHT, f"int32, shape (6, 5); {FLOATS}"),
        (LEFT[0], RIGHT[0], f"float32, shape (5,); {FLOATS}"),
        (LEFT[:0], RIGHT[:0], f"float32, shape (0, 5); {FLOATS}"),
        (np.zeros(3, FLOAT_ROW), RIGHT, "holds fields or objects, not one array; give it alone, without --paired"),
        (objects([1]), RIGHT, "holds fields or objects, not one array"),
    ],
)
def test_arrays_that_are_no_two_sides_are_refused(
    left: NDArray[Any], right: NDArray[Any], expected: str, tmp_path: Path
) -> None:
    assert refusal(*plain(tmp_path, left, right)).startswith(expected)


def test_a_truncated_array_is_refused(tmp_path: Path) -> None:
    paths = plain(tmp_path, LEFT, RIGHT)
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    assert refusal(*paths).startswith("truncated or corrupt: its header promises shape (6, 5)")
