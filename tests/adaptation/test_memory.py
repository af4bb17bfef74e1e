"""How runs share the memory: what is counted, by hand, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from adaptation.heads import HEADS
from adaptation.memory import GIB, Layout, Size, head_sizes, lay_out
from adaptation.tiled_loss import Tiling
from common.errors import InputError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # no GPU is asked anything where a bound is given
SIZE = Size(views=2, trained=3000, tested=1000, batch=3000, width=256, embedding=1024, weights=262_144)
MATRIX = 4 * 3000 * 3000
# features of (2 * 3000 + 1000) pairs, ten copies of 3000 embeddings, three tiles of all 3000 rows, eight heads
AGAIN = 4 * (2 * 7000 * 256 + 10 * 3000 * 1024 + 3 * 3000 * 3000 + 8 * 262_144)


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose cache is unknown."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())


def test_two_tiles_are_as_large_as_the_cache_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lay_out(SIZE, 20, CUDA, GIB).tiling.numbers == Tiling().numbers
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=50 * 2**20))
    assert lay_out(SIZE, 20, CUDA, GIB).tiling.numbers == 50 * 2**20 // 8
    assert lay_out(SIZE, 20, CPU, GIB).tiling.numbers == Tiling().numbers


def test_what_is_counted() -> None:
    assert SIZE.matrix == MATRIX
    assert SIZE.least(Tiling()) == AGAIN
    smaller = 4 * (2 * 7000 * 256 + 10 * 3000 * 1024 + 3 * 512 * 3000 + 8 * 262_144)
    assert SIZE.least(Tiling(numbers=1)) == smaller


@pytest.mark.parametrize(("batch", "tested", "gallery"), [(3000, 1000, 3000), (64, 1000, 1000), (64, 10, 64)])
def test_the_largest_matrix_is_that_of_a_batch_or_of_the_test_pairs(batch: int, tested: int, gallery: int) -> None:
    size = replace(SIZE, batch=batch, tested=tested)
    assert (size.gallery, size.matrix) == (gallery, 4 * gallery**2)


@pytest.mark.parametrize("name", ["views", "trained", "tested", "batch", "width", "embedding", "weights"])
def test_more_of_anything_takes_more(name: str) -> None:
    more = replace(SIZE, **{name: getattr(SIZE, name) * 10})
    assert more.least(Tiling()) > SIZE.least(Tiling())


@pytest.mark.parametrize(("held", "runs", "side_by_side"), [(1.0, 20, 1), (3.99, 20, 3), (20.5, 20, 20), (90, 20, 20)])
def test_as_many_runs_go_side_by_side_on_a_gpu_as_the_memory_holds(held: float, runs: int, side_by_side: int) -> None:
    assert lay_out(SIZE, runs, CUDA, held * (AGAIN + MATRIX)) == Layout(side_by_side, Tiling())


def test_a_loss_without_tiles_holds_eight_matrices_and_nothing_is_computed_again() -> None:
    size = replace(SIZE, tiles=False)
    held = AGAIN + 5 * MATRIX  # beside the three tiles that are counted there
    assert size.least(Tiling()) == size.least(Tiling(numbers=1)) == held
    assert lay_out(size, 20, CUDA, 3.5 * held) == Layout(3, Tiling())
    with pytest.raises(InputError, match="batch-size"):
        lay_out(size, 1, CPU, held - 1)


def test_runs_go_one_after_the_other_on_a_cpu() -> None:
    assert lay_out(SIZE, 20, CPU, 90.0 * (AGAIN + MATRIX)) == Layout(1, Tiling())


@pytest.mark.parametrize("device", [CPU, CUDA])
@pytest.mark.parametrize("bound", [AGAIN, AGAIN + MATRIX - 1])
def test_similarities_that_do_not_fit_are_computed_again(device: torch.device, bound: float) -> None:
    assert lay_out(SIZE, 20, device, bound) == Layout(1, Tiling(keep=False))
    assert lay_out(SIZE, 20, device, AGAIN + MATRIX).tiling.keep


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_does_not_fit_at_all_is_refused(device: torch.device) -> None:
    size = Size(views=2, trained=750_000, tested=250_000, batch=750_000, width=5440, embedding=1024, weights=5_570_560)
    with pytest.raises(InputError) as told:
        lay_out(size, 1, device, 2.5 * GIB)
    # (2 * 750,000 + 250,000) pairs of 2 * 5440 numbers, ten times 750,000 * 1024, three tiles of 512 rows, eight heads
    assert str(told.value) == (
        "training on 750,000 pairs takes some 104 GiB of memory, 2.5 GiB may be used; --memory allows more, "
        "--batch-size takes fewer pairs at a time"
    )
    with pytest.raises(InputError):
        lay_out(SIZE, 1, device, AGAIN - 1)


def test_fewer_pairs_at_a_time_need_less() -> None:
    with pytest.raises(InputError):
        lay_out(SIZE, 1, CPU, AGAIN / 2)
    assert lay_out(replace(SIZE, batch=500), 1, CPU, AGAIN / 2) == Layout(1, Tiling())


@pytest.mark.parametrize("bound", [AGAIN, 3.5 * (AGAIN + MATRIX)])
def test_bf16_rounds_the_factors_however_much_memory_there_is(bound: float) -> None:
    plain, rounded = (lay_out(SIZE, 20, CUDA, bound, bf16) for bf16 in (False, True))
    assert plain.tiling.factors is None
    assert rounded == Layout(plain.runs, replace(plain.tiling, factors=torch.bfloat16))


@pytest.mark.parametrize("share", [1.999, 2.0])
def test_half_of_what_is_free_is_taken_when_nothing_is_said(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    free = share * (AGAIN + MATRIX)
    monkeypatch.setattr("common.machine.device.available_memory", lambda: free)
    assert lay_out(SIZE, 20, CPU) == Layout(1, Tiling(keep=share == 2.0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 * free, math.inf))
    assert lay_out(SIZE, 30, CUDA) == Layout(20 if share == 2.0 else 19, Tiling())


def test_a_system_that_does_not_tell_what_is_free_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.machine.device.available_memory", lambda: math.inf)
    assert lay_out(SIZE, 20, CPU) == Layout(1, Tiling())


@pytest.mark.parametrize(
    ("head", "width", "weights"), [("original", 1024, 307_200), ("peterson", 300, 300), ("dummy", 300, 0)]
)
def test_the_sizes_of_a_head_are_those_it_has(head: str, width: int, weights: int) -> None:
    assert head in HEADS
    assert head_sizes(head, 300) == (width, weights)
