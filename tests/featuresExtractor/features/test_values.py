"""Numbers that nothing can be learned from: not finite, all alike, all zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import InputError
from featuresExtractor.features import values as values_module
from featuresExtractor.features.alike import CAUSES, fault_of
from featuresExtractor.features.pairing.layout import lay_out
from featuresExtractor.features.table import Table
from featuresExtractor.features.values import check_values

FILE = Path("f.npy")
N, D = 9, 40
NAMES = [f"{number}.jpg" for number in range(N)]


def vectors(seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(2 * N, D)).astype(np.float32)


def checked(left: NDArray[Any], right: NDArray[Any]) -> list[str]:
    """Two views, whose right side is in another order; the second view stands row by row before the first."""
    other = NAMES[::-1]
    names = list(zip(NAMES, other, strict=True)) * 2
    given = Table(left, right, names, np.array([1] * N + [0] * N, np.uint8))
    return check_values(given, lay_out(given, FILE), FILE)


def refused(left: NDArray[Any], right: NDArray[Any]) -> str:
    with pytest.raises(InputError) as raised:
        checked(left, right)
    return str(raised.value)


def test_ordinary_numbers_get_no_word() -> None:
    assert checked(vectors(), vectors(1)) == []


@pytest.mark.parametrize("chunk", [1, 500, 2**26])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("side", "row", "place"),
    [(0, 3, "3.jpg, left, view 1"), (0, 17, "8.jpg, left, view 0"), (1, 10, "7.jpg, right, view 0")],
)
def test_what_is_no_number_is_told_with_its_pair(
    side: int, row: int, place: str, value: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values_module, "CHUNK_BYTES", chunk)
    sides = [vectors(), vectors(1)]
    sides[side][row, 5] = value
    message = refused(sides[0], sides[1])
    advice = "replace or leave out its image and extract it again"
    assert message == f"f.npy: {place}: {value} at index 5, not a finite number; {advice}"


def test_a_number_that_float32_does_not_hold_is_none() -> None:
    left = vectors().astype(np.float64)
    left[4, 7] = 1e300
    assert refused(left, vectors(1)).startswith("f.npy: 4.jpg, left, view 1: inf at index 7, not a finite number")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: rows * 0, "zero"),
        (lambda rows: rows * 0 + rows[0], "alike"),
        (lambda rows: rows * 0 - 3, "alike"),
        (lambda rows: rows * 1e-7 + rows[0], "alike"),  # but for rounding
    ],
)
def test_a_side_that_is_all_alike_is_refused(side: int, change: Callable[[Any], Any], what: str) -> None:
    sides = [vectors(), vectors(1)]
    sides[side] = change(sides[side])
    assert refused(sides[0], sides[1]) == f"f.npy: the {('left', 'right')[side]} vectors are all {what}; {CAUSES}"


@pytest.mark.parametrize("side", [0, 1])
def test_flipped_views_make_no_difference(side: int) -> None:
    sides = [vectors(), vectors(1)]
    sides[side][N:] = sides[side][N]  # the originals, which stand behind their flipped views
    assert "vectors are all alike; " in refused(sides[0], sides[1])


@pytest.mark.parametrize("row", [1, N, 2 * N - 1])
def test_one_vector_of_its_own_is_enough(row: int) -> None:
    left = np.ones((2 * N, D), np.float32)
    left[row, -1] = 1.001
    assert fault_of(left, np.arange(2 * N)) is None


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_zero_vectors_are_counted_and_two_named(kind: Any) -> None:
    left, right = vectors().astype(kind), vectors(1).astype(kind)
    left[:, :20] = 0  # what is zero in front alone is no zero vector
    left[[2, 11]], right[0] = 0, 0
    (warning,) = checked(left, right)
    start = "warning: f.npy: 3 vectors are zero, so their similarity to any other is 0 "
    assert warning == f"{start}(2.jpg, left, view 1; 2.jpg, left, view 0)"


def test_only_as_much_is_read_as_is_needed() -> None:
    class Counted(np.ndarray[Any, Any]):
        rows = 0

        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, np.ndarray):
                Counted.rows += len(key)
            return super().__getitem__(key)

    assert fault_of(np.random.default_rng(0).normal(size=(10_000, 4)).view(Counted), np.arange(10_000)) is None
    assert Counted.rows == 1


def test_a_vector_alone_may_be_anything_but_zero() -> None:
    assert fault_of(np.ones((1, 3), np.float32), np.arange(1)) is None
    assert fault_of(np.zeros((1, 3), np.float32), np.arange(1)) == f"all zero; {CAUSES}"
