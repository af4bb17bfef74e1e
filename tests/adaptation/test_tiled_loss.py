"""The contrastive loss, its gradients and the ranks beside plain loops in float64, torch's own cross-entropy, and
sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adaptation import tiled_loss
from adaptation.heads import build_head
from adaptation.losses import cosine_similarities
from adaptation.ranks import Contrast
from adaptation.tiled_loss import Tiling, _Walk, tiled_contrast

WHOLE = Tiling()
KEPT = Tiling(numbers=1, rows=7)  # of 23 pairs: three tiles of seven rows and one of two
AGAIN = Tiling(keep=False, numbers=1, rows=7)
BELOW, ABOVE = 15.0, 100.0  # on either side of BOUNDED


def tiled(left: Tensor, right: Tensor, logit_scale: float, tiling: Tiling = WHOLE, ranked: bool = True) -> Contrast:
    return tiled_contrast(left, right, logit_scale, tiling, ranked)


def contrastive_loss(similarities: Tensor, temperature: float) -> Tensor:
    """The loss of any matrix S (N, N), which need not hold cosines: that of the vectors S and I, taken as they are."""
    units = similarities[None], torch.eye(len(similarities), dtype=similarities.dtype)[None]
    return _Walk(*units, temperature, WHOLE, ranked=False).losses()[0]


def random_matrix(count: int, seed: int) -> Tensor:
    return 2 * torch.rand(count, count, generator=torch.Generator().manual_seed(seed)) - 1


def surprise(logits: list[float], target: int) -> float:
    """Minus the log of the softmax at `target`."""
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[target]


def loss_by_loops(similarities: NDArray[np.float64], temperature: float) -> float:
    count = len(similarities)
    rows = [surprise([temperature * similarities[i][j] for j in range(count)], i) for i in range(count)]
    columns = [surprise([temperature * similarities[i][j] for i in range(count)], j) for j in range(count)]
    return 0.5 * sum(rows) / count + 0.5 * sum(columns) / count


@pytest.mark.parametrize(("count", "temperature"), [(1, 1.0), (2, 15.0), (7, 1.0), (30, 0.5), (30, 15.0), (101, 4.5)])
def test_loss_is_that_of_plain_loops(count: int, temperature: float) -> None:
    similarities = random_matrix(count, seed=count)
    expected = loss_by_loops(similarities.numpy().astype(np.float64), temperature)
    assert contrastive_loss(similarities, temperature).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_loss_is_that_of_torchs_cross_entropy(temperature: float) -> None:
    similarities = random_matrix(50, seed=3).double()
    logits, targets = temperature * similarities, torch.arange(50)
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(contrastive_loss(similarities, temperature), expected)


def test_loss_of_two_perfect_pairs_by_hand() -> None:
    # each row is softmax(1, 0): its loss is ln(e + 1) - 1
    assert contrastive_loss(torch.eye(2), 1.0).item() == pytest.approx(math.log(math.e + 1) - 1)


def test_both_directions_count_by_half() -> None:
    similarities = torch.tensor([[0.0, 5.0, 5.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    rows = (math.log(1 + 2 * math.exp(5)) + 2 * math.log(3)) / 3
    columns = (math.log(3) + 2 * math.log(math.exp(5) + 2)) / 3
    assert abs(rows - columns) > 1
    assert contrastive_loss(similarities, 1.0).item() == pytest.approx((rows + columns) / 2)
    assert contrastive_loss(similarities.T, 1.0).item() == pytest.approx((rows + columns) / 2)


def test_temperature_multiplies_the_similarities() -> None:
    similarities = random_matrix(9, seed=1)
    torch.testing.assert_close(contrastive_loss(similarities, 15.0), contrastive_loss(15.0 * similarities, 1.0))
    assert contrastive_loss(torch.eye(9), 15.0) < contrastive_loss(torch.eye(9), 1.0)


def test_a_large_temperature_overflows_nothing() -> None:
    # the worst logit is 10,000: its exponential is no float, its loss is
    similarities = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    assert contrastive_loss(similarities, 5000.0).item() == pytest.approx(10_000)


def test_loss_does_not_depend_on_the_order_of_the_pairs() -> None:
    similarities = random_matrix(20, seed=5).double()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        contrastive_loss(similarities[order][:, order], 3.0), contrastive_loss(similarities, 3.0)
    )


def test_similarities_are_the_cosines_of_every_left_with_every_right() -> None:
    left, right = (random_matrix(6, seed)[:, :4] for seed in (1, 2))
    found = cosine_similarities(left, right)
    for i, one in enumerate(left.double().tolist()):
        for j, other in enumerate(right.double().tolist()):
            product = sum(a * b for a, b in zip(one, other, strict=True))
            assert found[i, j].item() == pytest.approx(product / (math.hypot(*one) * math.hypot(*other)), abs=1e-6)


def test_similarities_do_not_depend_on_the_length_of_the_vectors() -> None:
    left, right = (random_matrix(6, seed) for seed in (1, 2))
    torch.testing.assert_close(cosine_similarities(1000 * left, 0.001 * right), cosine_similarities(left, right))


def test_a_vector_of_zeros_is_similar_to_nothing() -> None:
    assert cosine_similarities(torch.zeros(2, 3), torch.ones(2, 3)).tolist() == [[0, 0], [0, 0]]


# ---- of embeddings, in tiles


def embeddings(runs: int = 1, count: int = 23, numbers: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Both sides (R, N, D) of pairs that share something, of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    left, noise = (torch.randn(runs, count, numbers, generator=generator) for _ in range(2))
    lengths = 10 ** (torch.rand(2, runs, count, 1, generator=generator) * 4 - 2)
    return left * lengths[0], (left + noise) * lengths[1]


def plain_loss(left: Tensor, right: Tensor, temperature: float) -> Tensor:
    """The loss (R,), run by run, with the whole of each matrix at hand."""
    targets = torch.arange(left.shape[1])
    of_runs = []
    for one, other in zip(left, right, strict=True):
        logits = temperature * F.cosine_similarity(one[:, None], other[None], dim=-1)
        of_runs.append((F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2)
    return torch.stack(of_runs)


def with_gradients(sides: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    left, right = (side.clone().requires_grad_() for side in sides)
    return left, right


def learn(loss: Tensor) -> None:
    loss.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("tiling", [WHOLE, KEPT, AGAIN])
@pytest.mark.parametrize("temperature", [1.0, BELOW, ABOVE])
def test_loss_of_embeddings_is_that_of_plain_loops(temperature: float, tiling: Tiling) -> None:
    left, right = embeddings(runs=2)
    found = tiled(left, right, temperature, tiling).loss
    for run in (0, 1):
        cosines = F.cosine_similarity(left[run, :, None].double(), right[run, None].double(), dim=-1)
        assert found[run].item() == pytest.approx(loss_by_loops(cosines.numpy(), temperature), rel=1e-5)


@pytest.mark.parametrize("tiling", [WHOLE, KEPT, AGAIN])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, BELOW, ABOVE])
def test_gradients_are_those_of_autograd_through_a_plain_loss(temperature: float, runs: int, tiling: Tiling) -> None:
    weights = torch.arange(1.0, runs + 1).double()  # each run's loss has its own share
    sides = [side.double() for side in embeddings(runs)]
    plain, ours = with_gradients((sides[0], sides[1])), with_gradients((sides[0], sides[1]))
    expected, found = plain_loss(*plain, temperature), tiled(*ours, temperature, tiling).loss
    torch.testing.assert_close(found, expected)
    learn(expected @ weights)
    learn(found @ weights)
    for one, other in zip(ours, plain, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("tiling", [WHOLE, AGAIN])
@pytest.mark.parametrize("temperature", [BELOW, ABOVE])
def test_gradients_are_those_of_finite_differences(temperature: float, tiling: Tiling) -> None:
    left, right = (torch.stack([random_matrix(9, seed)[:, :3]] * 2).double().requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(lambda a, b: tiled(a, b, temperature, tiling).loss, (left, right))


def test_one_side_can_be_learned_alone() -> None:
    left, right = embeddings()
    both, alone = with_gradients((left, right)), left.clone().requires_grad_()
    learn(tiled(*both, BELOW).loss)
    learn(tiled(alone, right, BELOW).loss)
    assert alone.grad is not None
    assert both[0].grad is not None
    assert torch.equal(alone.grad, both[0].grad)


@pytest.mark.parametrize("tiling", [KEPT, AGAIN])
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("temperature", [BELOW, ABOVE])
def test_tiles_give_what_the_whole_matrix_gives(temperature: float, runs: int, tiling: Tiling) -> None:
    whole, tiles = with_gradients(embeddings(runs)), with_gradients(embeddings(runs))
    expected, found = tiled(*whole, temperature, WHOLE), tiled(*tiles, temperature, tiling)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
    assert all(map(torch.equal, found.ranks, expected.ranks))
    for contrasted in (expected, found):
        learn(contrasted.loss)
    for one, other in zip(tiles, whole, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * other.grad.abs().max().item())


def test_runs_side_by_side_are_those_runs_alone() -> None:
    left, right = embeddings(runs=3)
    together = tiled(left, right, BELOW)
    assert together.loss.shape == (3,)
    for run in range(3):
        alone = tiled(left[run : run + 1], right[run : run + 1], BELOW)
        torch.testing.assert_close(together.loss[run], alone.loss[0], rtol=1e-6, atol=0)
        for one, other in zip(together.ranks, alone.ranks, strict=True):
            assert torch.equal(one[run], other[0])


@pytest.mark.parametrize("tiling", [WHOLE, KEPT, AGAIN])
def test_ranks_are_those_of_sorting(tiling: Tiling) -> None:
    left, right = embeddings(runs=2)
    found = tiled(left, right, BELOW, tiling).ranks
    assert [ranks.shape for ranks in found] == [(2, 23), (2, 23)]
    for run in (0, 1):
        rows = F.cosine_similarity(left[run, :, None].double(), right[run, None].double(), dim=-1)
        for ranks, matrix in zip(found, (rows, rows.T), strict=True):
            ordered = [sorted(row, reverse=True) for row in matrix.tolist()]
            expected = [
                row.index(partner) + 1 for row, partner in zip(ordered, matrix.diagonal().tolist(), strict=True)
            ]
            assert ranks[run].tolist() == expected
            assert len(set(expected)) > 3


@pytest.mark.parametrize("tiling", [WHOLE, KEPT, AGAIN])
def test_ranks_that_nobody_wants_are_not_computed(tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked, unranked = with_gradients(embeddings()), with_gradients(embeddings())
    expected = tiled(*ranked, BELOW, tiling)
    monkeypatch.setattr(torch, "lt", lambda *_, **__: pytest.fail("similarities were compared"))
    found = tiled(*unranked, BELOW, tiling, ranked=False)
    assert found.ranks == ()
    assert torch.equal(found.loss, expected.loss)
    for contrasted in (expected, found):
        learn(contrasted.loss)
    for one, other in zip(unranked, ranked, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_without_gradients_the_loss_and_the_ranks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiled(*with_gradients(embeddings()), BELOW)
    monkeypatch.setattr(_Walk, "_derivatives", lambda *_: pytest.fail("derivatives were computed"))
    found = tiled(*embeddings(), BELOW)
    assert (found.loss.requires_grad, expected.loss.requires_grad) == (False, True)
    assert torch.equal(found.loss, expected.loss)
    assert all(map(torch.equal, found.ranks, expected.ranks))


@pytest.mark.parametrize("temperature", [0.5, BELOW, 40.0])
def test_bounded_and_unbounded_sums_agree(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = with_gradients(embeddings()), with_gradients(embeddings())
    bounded = tiled(*one, temperature).loss
    monkeypatch.setattr(tiled_loss, "BOUNDED", 0.0)
    unbounded = tiled(*other, temperature).loss
    torch.testing.assert_close(bounded, unbounded, rtol=1e-6, atol=1e-6)
    for loss in (bounded, unbounded):
        learn(loss)
    for found, expected in zip(one, other, strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5 * expected.grad.abs().max().item())


@pytest.mark.parametrize("temperature", [tiled_loss.BOUNDED, tiled_loss.BOUNDED + 1])
def test_the_worst_cosines_overflow_nothing_on_either_side_of_the_bound(temperature: float) -> None:
    left = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])  # each is opposite to its partner, and the same as the other's
    sides = with_gradients((left, -left))
    loss = tiled(*sides, temperature).loss
    assert loss.item() == pytest.approx(2 * temperature, rel=1e-6)
    learn(loss)
    assert all(side.grad is not None and side.grad.isfinite().all() for side in sides)


@pytest.mark.parametrize("tiling", [WHOLE, AGAIN])
@pytest.mark.parametrize("temperature", [BELOW, ABOVE])
def test_vectors_of_zeros_find_nobody_and_break_nothing(temperature: float, tiling: Tiling) -> None:
    zeros = torch.zeros(1, 23, 6, requires_grad=True)
    found = tiled(zeros, zeros, temperature, tiling)
    assert found.loss.item() == pytest.approx(math.log(23), rel=1e-6)  # any partner is as likely as the other
    assert [ranks.tolist() for ranks in found.ranks] == [[[23] * 23]] * 2
    learn(found.loss)
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("tiling", [WHOLE, AGAIN])
def test_vectors_of_zeros_are_what_torch_takes_them_as(tiling: Tiling) -> None:
    left, right = embeddings(count=9)
    left[0, 3] = 0
    plain, ours = with_gradients((left, right)), with_gradients((left, right))
    targets = torch.arange(9)
    logits = BELOW * (F.normalize(plain[0][0], dim=-1) @ F.normalize(plain[1][0], dim=-1).T)
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    found = tiled(*ours, BELOW, tiling).loss
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    for loss in (expected, found):
        learn(loss)
    assert plain[1].grad is not None
    torch.testing.assert_close(ours[1].grad, plain[1].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("power", [-90, -64, 64, 100])
def test_lengths_whose_squares_no_float_holds_change_nothing(power: int) -> None:
    left, right = embeddings()
    scaled = with_gradients((left * 2.0**power, right * 2.0**-power))
    plain = with_gradients((left, right))
    found, expected = tiled(*scaled, BELOW), tiled(*plain, BELOW)
    assert torch.equal(found.loss, expected.loss)
    assert all(map(torch.equal, found.ranks, expected.ranks))
    learn(found.loss)
    assert all(side.grad is not None and side.grad.isfinite().all() for side in scaled)
    assert torch.equal(cosine_similarities(*scaled), cosine_similarities(*plain))


# ---- ties


def ranks_by_hand(left: Tensor, right: Tensor, same: Sequence[int]) -> tuple[list[int], list[int]]:
    """The ranks of partners in float64; pairs of one number in `same` are copies of each other, and so tied."""
    cosines = F.cosine_similarity(left.double()[:, None], right.double()[None], dim=-1)
    count = len(left)

    def rank(values: Tensor, own: int) -> int:
        others = [other for other in range(count) if other != own]
        return 1 + sum(same[other] == same[own] or bool(values[other] > values[own]) for other in others)

    return [rank(cosines[i], i) for i in range(count)], [rank(cosines[:, j], j) for j in range(count)]


@pytest.mark.parametrize("tiling", [WHOLE, KEPT, Tiling(numbers=1, rows=3)])
@pytest.mark.parametrize("width", [64, 256, 1024])
def test_copies_are_tied_whatever_the_number_of_pairs(width: int, tiling: Tiling) -> None:
    for count in range(5, 26):
        generator = torch.Generator().manual_seed(count)
        same = [index % 4 if index < 8 else index for index in range(count)]
        left, right = (torch.randn(count, width, generator=generator)[same] for _ in range(2))
        found = tiled((left + right)[None], right[None], BELOW, tiling).ranks
        expected = ranks_by_hand(left + right, right, same)
        assert [ranks[0].int().tolist() for ranks in found] == list(expected), count


def test_copies_are_tied_behind_a_head() -> None:
    head = build_head("original", 256, 0)
    for count in range(5, 40):
        same = [0, 0, *range(2, count - 1), 2]
        right = torch.randn(count, 256, generator=torch.Generator().manual_seed(count))[same]
        with torch.no_grad():
            ranks = tiled(head(right)[None], head(right)[None], BELOW).ranks
        for found in ranks:
            assert found[0].int().tolist() == [2, 2, 2, *[1] * (count - 4), 2], count


def test_what_is_near_and_not_equal_is_told_apart() -> None:
    angles = torch.tensor([0.0, 1e-3, 2e-3, 1.0], dtype=torch.float64)  # cosines differ by 5e-7, five times a tie
    right = torch.stack([angles.cos(), angles.sin()], dim=-1)
    left = torch.stack([right[0], right[0], right[2], right[3]])
    ranks = tiled(left[None].float(), right[None].float(), BELOW).ranks
    assert ranks[0][0].int().tolist() == [1, 2, 1, 1]


def many_near(count: int = 240, tied: int = 150) -> tuple[Tensor, Tensor]:
    """Pairs (1, N, D) of which many have partners that differ by a few roundings."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(count, 64, generator=generator) for _ in range(2))
    right[:tied] = right[0] + 1e-7 * torch.randn(tied, 64, generator=generator)
    left[:tied] = right[:tied] + 0.5 * torch.randn(tied, 64, generator=generator)
    return left[None], right[None]


@pytest.mark.parametrize("tiling", [KEPT, AGAIN, Tiling(numbers=1, rows=37)])
def test_many_near_ties_are_settled_alike_in_all_tiles(tiling: Tiling) -> None:
    expected = tiled(*many_near(), BELOW).ranks
    assert all(map(torch.equal, tiled(*many_near(), BELOW, tiling).ranks, expected))


def test_a_run_has_the_ranks_of_the_run_alone_beside_one_that_collapsed() -> None:
    sides = many_near()
    expected = tiled(*sides, BELOW).ranks
    beside = [torch.cat([side, torch.ones_like(side)]) for side in sides]
    found = tiled(beside[0], beside[1], BELOW).ranks
    assert all(torch.equal(ranks[0], alone[0]) for ranks, alone in zip(found, expected, strict=True))
    assert all((ranks[1] == 240).all() for ranks in found)


@pytest.mark.parametrize("count", [3, 40])
def test_embeddings_that_are_all_alike_find_nobody(count: int) -> None:
    sides = torch.ones(2, 1, count, 16)
    for ranks in tiled(sides[0], sides[1], BELOW).ranks:
        assert ranks[0].int().tolist() == [count] * count


@pytest.mark.parametrize("spoilt", ["left", "right"])
@pytest.mark.parametrize("tiling", [WHOLE, AGAIN])
def test_vectors_that_are_no_numbers_make_the_loss_none_and_are_not_found(tiling: Tiling, spoilt: str) -> None:
    sides = dict(zip(("left", "right"), embeddings(runs=2), strict=True))
    sides[spoilt][1, 4] = math.nan
    found = tiled(sides["left"], sides["right"], BELOW, tiling)
    assert found.loss.isfinite().tolist() == [True, False]  # and the other run is not touched
    own, others = found.ranks if spoilt == "left" else found.ranks[::-1]
    assert own[1, 4] == 23
    assert others[1].min() > 1


def test_rounded_factors_change_the_loss_and_its_gradients_little() -> None:
    exact, rounded = (with_gradients(embeddings(count=60, numbers=32)) for _ in range(2))
    expected, found = tiled(*exact, BELOW), tiled(*rounded, BELOW, Tiling(factors=torch.bfloat16))
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=0.01)
    assert found.loss.item() != expected.loss.item()
    for contrasted in (expected, found):
        learn(contrasted.loss)
    for side in (0, 1):
        one, other = (sides[side].grad for sides in (exact, rounded))
        assert one is not None
        assert other is not None
        assert other.dtype == torch.float32
        assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.999
        assert not torch.equal(one, other)


@pytest.mark.parametrize("tiling", [Tiling(), Tiling(keep=False, numbers=1, rows=64)])
def test_ranks_among_rounded_similarities_are_right_on_average(tiling: Tiling) -> None:
    left, right = embeddings(count=400, numbers=6)  # few numbers: similarities lie close together
    right = left + 2 * right
    exact, rough = (tiled(left, right, BELOW, replace(tiling, factors=kind)) for kind in (None, torch.bfloat16))
    for one, other in zip(exact.ranks, rough.ranks, strict=True):
        assert other.min() >= 1
        assert not torch.equal(one, other)
        assert (other - one).mean().abs() < 0.2  # places; counting equals against the partner would make it 1 and more
        assert (other - one).abs().mean() < 2


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_rounding_finds_no_partner_among_embeddings_that_are_all_alike(value: float) -> None:
    same = torch.full((1, 30, 7), value)
    for ranks in tiled(same, same.clone(), BELOW, Tiling(factors=torch.bfloat16)).ranks:
        assert ranks.tolist() == [[30] * 30]


def test_similarities_are_kept_or_computed_again() -> None:
    walks = {tiling: _Walk(*embeddings(), BELOW, tiling, ranked=True) for tiling in (WHOLE, KEPT, AGAIN)}
    for walk in walks.values():
        walk.losses()
    assert list(walks[WHOLE].kept) == [0]
    assert list(walks[KEPT].kept) == [0, 7, 14, 21]
    assert walks[AGAIN].kept == {}
    walks[KEPT].ranks_and_gradients(True)
    assert walks[AGAIN].scratch.shape == (1, 7, 23)  # all the room that is taken


@pytest.mark.parametrize(
    ("tiling", "runs", "count", "rows"),
    [
        (Tiling(), 1, 30, 30),  # all of a small matrix
        (Tiling(), 1, 4096, 4096),  # 2^24 numbers are just these
        (Tiling(), 1, 4097, 4095),
        (Tiling(), 4, 4096, 1024),  # all runs are in the tile
        (Tiling(), 1, 100_000, 512),  # no fewer, or the products become slow
        (Tiling(numbers=1, rows=7), 3, 23, 7),
    ],
)
def test_rows_of_a_tile(tiling: Tiling, runs: int, count: int, rows: int) -> None:
    assert tiling.height(runs, count) == rows


def test_similarities_of_runs_are_those_of_each() -> None:
    left, right = embeddings(runs=3)
    found = cosine_similarities(left, right)
    for run in range(3):
        torch.testing.assert_close(found[run], cosine_similarities(left[run], right[run]))
