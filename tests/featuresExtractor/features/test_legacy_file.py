"""The field's old files: what is read of them, and that nothing in them ever runs."""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import os
import pickle
import shlex
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import train
from common.errors import InputError
from featuresExtractor.features import legacy_file as old_files
from featuresExtractor.features.fields import HOW
from featuresExtractor.features.reader import read_pairs
from featuresExtractor.features.table import Embeddings

N, D = 6, 5
FLOATS = f"float16, float32 or float64 of shape (N, D) is expected. Convert it: {HOW}"
SIX_NAMES = f"6 names are expected, as text of shape (6,). {HOW}"
OLD = "an old features file holds arrays, lists and strings alone"
RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]  # what a pickled array calls to be made again
NAMES = [f"{number:05d}.jpg" for number in range(1, N + 1)]


def numbers(seed: int, rows: int = N) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)


def content(**changes: Any) -> dict[str, Any]:
    plain = {"left": numbers(1), "right": numbers(2), "left_name": list(NAMES), "right_name": list(NAMES)}
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def save(folder: Path, value: object) -> Path:
    """As the field wrote them: `np.save` makes a 0-d array of objects of a dict, and pickles it."""
    path = folder / "old.npy"
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


def save_pickle(folder: Path, pickled: bytes) -> Path:
    """An old file with these opcodes behind its header."""
    path = folder / "old.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


def same(actual: Embeddings, given: dict[str, Any], left: str = "left", right: str = "right") -> None:
    assert actual.left.dtype == actual.right.dtype == np.float32
    np.testing.assert_array_equal(actual.left, given[left])
    np.testing.assert_array_equal(actual.right, given[right])
    assert actual.names == list(zip(given["left_name"], given["right_name"], strict=True))


# ---- what is read


def test_a_dict_of_left_and_right_is_read(tmp_path: Path) -> None:
    pairs = read_pairs(save(tmp_path, content()))
    same(pairs, content())
    assert pairs.view.tolist() == [0] * N


def test_the_other_names_of_the_vectors_are_read(tmp_path: Path) -> None:
    given = content(left=None, right=None, left_ebds=numbers(3), right_ebds=numbers(4))
    same(read_pairs(save(tmp_path, given)), given, "left_ebds", "right_ebds")


def test_np_save_of_the_dict_itself_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", content(), allow_pickle=True)  # type: ignore[arg-type]
    same(read_pairs(tmp_path / "old.npy"), content())


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_pickles_of_old_and_new_numpy_are_read(tmp_path: Path, module: str) -> None:
    pickled = pickle.dumps(content(), protocol=3)  # the older numpy's, where names end with a line break
    assert b"cnumpy._core.multiarray\n" in pickled
    same(read_pairs(save_pickle(tmp_path, pickled.replace(b"numpy._core.multiarray", module.encode()))), content())


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_of_any_size_and_byte_order_become_float32(tmp_path: Path, kind: str) -> None:
    given = content(left=numbers(1).astype(kind), right=numbers(2).astype(kind))
    same(read_pairs(save(tmp_path, given)), {**given, "left": given["left"].astype(np.float32)})


def test_arrays_in_fortrans_order_are_read(tmp_path: Path) -> None:
    same(read_pairs(save(tmp_path, content(left=np.asfortranarray(numbers(1))))), content())


@pytest.mark.parametrize("kind", [str, object])
def test_names_in_an_array_are_read(tmp_path: Path, kind: type) -> None:
    accents = [f"é {name}" for name in NAMES]
    pairs = read_pairs(save(tmp_path, content(left_name=np.array(accents, kind))))
    assert [left for left, _ in pairs.names] == accents


def test_other_entries_of_the_dict_do_no_harm(tmp_path: Path) -> None:
    given = content(labels=np.arange(N), note="made in 2021", sizes=(1, 2.5, None, True))
    same(read_pairs(save(tmp_path, given)), content())


def texts(kind: str) -> Any:
    return [np.str_(name) for name in NAMES] if kind == "scalars" else np.array([name.encode() for name in NAMES])


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("kind", ["scalars", "bytes"])
def test_names_as_numpy_itself_keeps_them_are_read(tmp_path: Path, kind: str, module: bytes) -> None:
    pickled = pickle.dumps(content(left_name=texts(kind)), protocol=3)
    assert b"numpy._core.multiarray\n" in pickled
    same(read_pairs(save_pickle(tmp_path, pickled.replace(b"numpy._core.multiarray", module))), content())


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f8"])
@pytest.mark.parametrize("whole", [list, lambda rows: as_objects(list(rows))])
def test_lists_of_vectors_are_read(tmp_path: Path, kind: str, whole: Callable[[Any], Any]) -> None:
    values = numbers(1).astype(kind)
    pairs = read_pairs(save(tmp_path, content(left=whole(values))))
    same(pairs, content(left=values.astype(np.float32)))


def as_objects(rows: list[Any]) -> NDArray[Any]:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def test_with_augmentation_the_second_half_is_flipped(tmp_path: Path) -> None:
    given = content(left_name=NAMES[:3] * 2, right_name=NAMES[:3] * 2)
    assert read_pairs(save(tmp_path, given)).view.tolist() == [0, 0, 0, 1, 1, 1]


# ---- what is refused because of what it says


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"left": None}, f"has no field left or left_ebds; its fields are left_name, right, right_name; {HOW}"),
        ({"right": numbers(1)[0]}, f"field right: float32, shape (5,); {FLOATS}"),
        ({"left": np.ones((N, D), int)}, f"field left: int64, shape (6, 5); {FLOATS}"),
        ({"left": numbers(1).tolist()}, f"field left: list of 6 list; {FLOATS}"),
        (
            {"left": [numbers(1)[0], numbers(1)[0, :3]]},
            f"refused: {OLD} (all input arrays must have the same shape); {HOW}",
        ),
        ({"right": numbers(2)[:, :3]}, "left is (6, 5) and right (6, 3); one row a pair is expected in both"),
        ({"right_name": NAMES[:2]}, f"field right_name: list of 2 str; {SIX_NAMES}"),
        ({"right_name": [1, 2, 3, 4, 5, 6]}, f"field right_name: list of 6 int; {SIX_NAMES}"),
        ({"left_name": np.arange(N)}, f"field left_name: int64, shape (6,); {SIX_NAMES}"),
        (
            {"right_name": [*NAMES[:-1], ""]},
            "field right_name: 1 of 6 names are empty; name all rows, or none",
        ),
    ],
)
def test_a_dict_that_lacks_something_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    given = {key: value for key, value in content().items() if key not in changes or changes[key] is not None}
    given |= {key: value for key, value in changes.items() if value is not None}
    assert refusal(save(tmp_path, given)) == expected


@pytest.mark.parametrize("value", [[1, 2], "text", None, numbers(1)])
def test_what_is_no_dict_is_refused(tmp_path: Path, value: object) -> None:
    path = save_pickle(tmp_path, pickle.dumps(value))
    assert refusal(path) == f"holds no dict of left, right, left_name, right_name; {HOW}"


def refusal(path: Path) -> str:
    """The one line, without the path before it."""
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    text = str(raised.value)
    assert text.isprintable()
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = save(tmp_path, content())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert refusal(path).startswith("refused: an old features file holds arrays, lists and strings alone (")


def test_a_file_with_nothing_behind_its_header_is_refused(tmp_path: Path) -> None:
    assert "holds arrays, lists and strings alone (" in refusal(save_pickle(tmp_path, b""))


# ---- what is refused because it would run


class Call:
    """Pickled, it makes whoever reads the pickle call `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


class Subclass(np.ndarray[Any, Any]):
    """An array of a class that the reader would have to import."""


def in_state(call: Call) -> NDArray[Any]:
    array = np.empty(1, object)
    array[0] = call
    return array


def hostile(canary: Path) -> dict[str, object]:
    """Values whose unpickling makes `canary`, hidden in the places that a dict of arrays has."""
    shell = f"touch {shlex.quote(str(canary))}"
    python = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    call = Call(os.system, shell)
    return {
        "posix.system": call,
        "eval": Call(builtins.eval, python),
        "exec": Call(builtins.exec, python),
        "subprocess": Call(subprocess.check_call, shell, -1, None, None, None, None, None, True, True),
        "in a list": content(left_name=[*NAMES[:-1], call]),
        "a value": content(left=call),
        "another value": content(note=call),
        "a key": {Call(eval, f"{python} or 'left'"): 1},
        "in a tuple": content(note=(1, (call,))),
        "in an array of objects": content(left_name=in_state(call)),
        "the array's class": content(left=Call(RECONSTRUCT, call, (0,), b"b")),
        "the array's shape": content(left=Call(RECONSTRUCT, np.ndarray, call, b"b")),
        "the type's code": content(left=Call(np.dtype, call)),
        "partial": Call(functools.partial, os.system, shell),
    }


PLACES = sorted(hostile(Path()))


@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_a_file_runs(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    canary = tmp_path / "canary"
    path = save(tmp_path, hostile(canary)[place])
    assert train.main(["-d", str(path), "-s", str(tmp_path / "runs"), "--cpu"]) == 2
    error = capsys.readouterr().err
    beginning = f"train.py: error: {path}: refused: an old features file holds arrays, lists and strings alone ("
    assert error.startswith(f"{beginning}it asks for ")
    assert error.count("\n") == 1
    assert not canary.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", PLACES)
def test_the_same_file_would_run_for_a_reader_that_trusts_it(tmp_path: Path, place: str) -> None:
    canary = tmp_path / "canary"
    path = save(tmp_path, hostile(canary)[place])
    with contextlib.suppress(TypeError):  # where it runs first and fails then
        value = np.load(path, allow_pickle=True).item()
        if isinstance(value, functools.partial):
            value()
    assert canary.exists()


OPCODES = {
    "os.system": b"cos\nsystem\n(S'true'\ntR.",
    "nt.system": b"cnt\nsystem\n(S'true'\ntR.",
    "numpy.core": b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
    "numpy._core": b"cnumpy._core.multiarray\nfromiter\n.",
    "numpy.load": b"cnumpy\nload\n.",
    "a function of numpy that runs text": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
    "an attribute of what is admitted": b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
    "the reader itself": b"cfeaturesExtractor.old_files\nArrayUnpickler\n.",
    "an instance": b"(S'true'\nios\nsystem\n.",
    "an object": b"(cos\nsystem\nS'true'\no.",
    "a new object": b"\x80\x02csubprocess\nPopen\n(S'true'\nt\x81.",
}
NOT_EVEN_NAMED = {
    "an extension code": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pid\n.",
    "no pickle": b"hello",
    "an empty stack": b".",
    "a state for a class": b"cnumpy\nndarray\n}S'value'\nI1\nsb.",
    "items for an array": b"cnumpy\nndarray\n)RS'a'\nI1\ns.",
    "a protocol of the future": b"\x80\xff.",
}


@pytest.mark.parametrize("opcodes", OPCODES.values(), ids=OPCODES)
def test_opcodes_that_ask_for_something_are_refused_by_name(tmp_path: Path, opcodes: bytes) -> None:
    assert refusal(save_pickle(tmp_path, opcodes)).startswith(
        "refused: an old features file holds arrays, lists and strings alone (it asks for "
    )


@pytest.mark.parametrize("opcodes", NOT_EVEN_NAMED.values(), ids=NOT_EVEN_NAMED)
def test_other_opcodes_that_no_old_file_has_are_refused(tmp_path: Path, opcodes: bytes) -> None:
    assert refusal(save_pickle(tmp_path, opcodes)).startswith("refused: ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (collections.OrderedDict(content()), "it asks for collections.OrderedDict"),
        (content(left=numbers(1).view(Subclass)), f"it asks for {__name__}.Subclass"),
        (content(note={1, 2}), "it asks for builtins.set"),
        (content(note=Path("x")), "it asks for pathlib."),
        (content(note=np.zeros(2, "f4,i4")), "an array of V8"),
        (content(note=np.zeros(2, "M8[s]")), "an array of M8"),
    ],
)
def test_harmless_things_of_other_classes_are_refused_all_the_same(
    tmp_path: Path, value: object, expected: str
) -> None:
    assert f"({expected}" in refusal(save_pickle(tmp_path, pickle.dumps(value, 3)))


def test_a_name_in_the_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    opcodes = b"\x80\x04\x8c\x08o\x1b[31ms\n\x8c\x06system\x93."
    assert r"(it asks for o\x1b[31ms\n.system)" in refusal(save_pickle(tmp_path, opcodes))


# ---- what is refused because it is no memory of the file's


class WithState:
    """Pickled, it makes the reader call `function` and hand `state` to what comes back."""

    def __init__(self, function: Callable[..., object], arguments: tuple[object, ...], state: object) -> None:
        self.reduced = function, arguments, state

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...], object]:
        return self.reduced


def array_of(kind: object, shape: tuple[int, ...], held: object) -> WithState:
    return WithState(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, held))


def type_of(code: str, *state: object) -> WithState:
    return WithState(np.dtype, (code, False, True), (3, *state))


def test_a_type_cannot_make_an_array_larger_than_its_bytes(tmp_path: Path) -> None:
    # numpy itself would give a million numbers here, and all but one are somebody else's memory
    wide = type_of("f8", "<", (np.dtype("f8"), (1_000_000,)), None, None, -1, -1, 0)
    one = array_of(wide, (1, 1), np.float64(2.5).tobytes())
    pairs = read_pairs(
        save_pickle(tmp_path, pickle.dumps(content(left=one, right=one, left_name=["a"], right_name=["b"])))
    )
    assert pairs.left.tolist() == pairs.right.tolist() == [[2.5]]


def test_bytes_are_never_taken_for_objects(tmp_path: Path) -> None:
    # numpy itself would take the eight bytes for the address of an object
    kind = type_of("V8", "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    assert "(an array of V8)" in refusal(
        save_pickle(tmp_path, pickle.dumps(content(left=array_of(kind, (1,), b"12345678"))))
    )
    objects = array_of(np.dtype("O"), (N, D), b"12345678" * N * D)
    assert "refused: " in refusal(save_pickle(tmp_path, pickle.dumps(content(left=objects))))


@pytest.mark.parametrize("shape", [(N, D + 1), (N, D - 1), (2**40, D), (-1, -1), (N * D,), "shape", None])
def test_a_shape_must_be_that_of_the_bytes(tmp_path: Path, shape: Any) -> None:
    given = content(left=array_of(np.dtype("f4"), shape, numbers(1).tobytes()))
    message = refusal(save_pickle(tmp_path, pickle.dumps(given)))
    assert message.startswith(("refused: ", "field left: "))


@pytest.mark.parametrize(
    "arguments", [((2**20, 2**20), "f4", b"1234", 0, (0, 0)), ((2**20, 2**20), "f4"), ((N, D), "f8")]
)
def test_an_array_is_not_made_from_a_shape_alone(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    given = content(left=Call(np.ndarray, *arguments))
    message = refusal(save_pickle(tmp_path, pickle.dumps(given)))
    assert message.startswith("field left: float32, shape (0,); ")


HUGE = 2**24  # a quarter of a gigabyte in the reader's memo
SMALL_AND_HUGE = {
    "a place in the memo": (b"\x80\x04Nr" + HUGE.to_bytes(4, "little") + b".", "place 16,777,216 in the memo after 2"),
    "a place as text": (b"Np%d\n." % HUGE, "place 16,777,216 in the memo after 1 opcodes"),
    "an array of bytes": (b"\x80\x05\x96" + HUGE.to_bytes(8, "little") + b"x.", "expected 16777216 bytes"),
    "bytes": (b"\x80\x04\x8e" + HUGE.to_bytes(8, "little") + b"x.", "expected 16777216 bytes"),
    "a text": (b"\x80\x04\x8d" + HUGE.to_bytes(8, "little") + b"x.", "expected 16777216 bytes"),
    "a frame": (b"\x80\x04\x95" + HUGE.to_bytes(8, "little") + b"N.", "a frame of 16,777,216 bytes in 13"),
}


@pytest.mark.parametrize(("pickled", "expected"), SMALL_AND_HUGE.values(), ids=SMALL_AND_HUGE)
def test_a_few_bytes_cannot_ask_for_much_memory(tmp_path: Path, pickled: bytes, expected: str) -> None:
    path = save_pickle(tmp_path, pickled)
    tracemalloc.start()
    try:
        message = refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"({expected}" in message
    assert peak < HUGE // 8


@pytest.mark.parametrize(
    ("many", "expected"),
    [
        ({"left": [np.zeros(100_000, np.float32)] * 5_000}, "arrays that are larger than the file"),
        ({"left_name": [np.str_("a" * 9_999)] * 20_000}, "strings that are longer than the file"),
    ],
)
def test_the_same_bytes_many_times_take_no_memory(tmp_path: Path, many: dict[str, Any], expected: str) -> None:
    path = save_pickle(tmp_path, pickle.dumps(content(**many), 4))
    tracemalloc.start()
    try:
        message = refusal(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert expected in message
    assert peak < 20 * path.stat().st_size  # which is far from 2 GB of vectors, and from 800 MB of names


def test_many_arrays_of_the_same_objects_take_no_memory(tmp_path: Path) -> None:
    names = [str(number) for number in range(10_000)]
    text = np.array(names).tobytes()
    kinds = np.dtype("O"), np.dtype("U4")
    many: list[WithState] = []
    for _ in range(500):
        many += [array_of(kinds[0], (len(names),), names), array_of(kinds[1], (len(names),), text)]
    pickled = pickle.dumps(content(note=many), 4)
    tracemalloc.start()
    try:
        same(read_pairs(save_pickle(tmp_path, pickled)), content())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(pickled) < 1_000_000
    assert peak < 20 * len(pickled)  # 80 kB an array would be 80 MB


def test_more_opcodes_than_an_old_file_needs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_files, "MOST_OPCODES", 1000)
    assert "(more than 1,000 opcodes)" in refusal(save_pickle(tmp_path, b"]" * 1000 + b"."))
    same(read_pairs(save(tmp_path, content())), content())


@pytest.mark.parametrize("protocol", range(6))
def test_every_place_that_a_writer_uses_is_admitted(protocol: int) -> None:
    names = [f"{number}.jpg" for number in range(1000)]
    old_files._check_sizes(pickle.dumps({"left_name": names, "right_name": [*names]}, protocol))


def test_numbers_too_large_for_float32_become_infinite_without_a_warning(tmp_path: Path) -> None:
    pairs = read_pairs(save(tmp_path, content(left=np.full((N, D), 1e300))))
    assert np.isinf(pairs.left).all()  # which training refuses
