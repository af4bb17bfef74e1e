"""Ranks and recalls beside a matrix ranked by hand and beside sorting."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from adaptation.losses import contrast, contrastive
from adaptation.metrics import METRICS, Metric, lower_is_better, retrieval_metrics
from adaptation.tiled_loss import Tiling, _Walk

# Row ranks of the partner (the diagonal): .9 is first; .5 comes after .95 and .6; .3 after .7. Columns: .9 comes after
# .95; .5 after .8 and .7; .3 after .6.
DRAWN = [[0.90, 0.80, 0.10], [0.95, 0.50, 0.60], [0.20, 0.70, 0.30]]
BY_HAND = {
    "top 1": 1 / 3,
    "top 2": 2 / 3,
    "top 3": 1,
    "recall 1 left-to-right": 1 / 3,
    "recall 2 left-to-right": 2 / 3,
    "recall 3 left-to-right": 1,
    "recall 1 right-to-left": 0,
    "recall 2 right-to-left": 2 / 3,
    "recall 3 right-to-left": 1,
    "MRR": (1 + 1 / 3 + 1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 6,
    "median rank": 2,
}


def partner_ranks(similarities: Tensor) -> list[Tensor]:
    """The ranks in any matrix S (N, N), cosines or not: those of the vectors S and I, taken as they are."""
    walk = _Walk(similarities[None], torch.eye(len(similarities))[None], 1.0, Tiling(), ranked=True)
    walk.losses()
    return [ranks[0] for ranks in walk.ranks_and_gradients(False)[0]]


def of_ranks(ranks: Sequence[Tensor], *ks: int) -> dict[str, float]:
    return {name: value.item() for name, value in retrieval_metrics(ranks, ks).items()}


def values(similarities: Tensor, *ks: int) -> dict[str, float]:
    return of_ranks(partner_ranks(similarities), *ks)


def distinct(count: int, seed: int) -> Tensor:
    """A random matrix in which no two entries are alike."""
    order = torch.randperm(count * count, generator=torch.Generator().manual_seed(seed))
    return (order.float() / count**2).view(count, count)


def ranks_by_sorting(similarities: Tensor) -> list[int]:
    rows = similarities.tolist()
    return [sorted(row, reverse=True).index(row[number]) + 1 for number, row in enumerate(rows)]


def test_ranks_of_a_drawn_matrix() -> None:
    left_to_right, right_to_left = partner_ranks(torch.tensor(DRAWN))
    assert left_to_right.tolist() == [1, 3, 2]
    assert right_to_left.tolist() == [2, 3, 2]


def test_metrics_of_a_drawn_matrix() -> None:
    assert values(torch.tensor(DRAWN), 1, 2, 3) == pytest.approx(BY_HAND)


def test_either_direction_suffices_for_the_asymmetric_recall() -> None:
    # pair 0 is found from the left alone, pair 1 from the right alone
    found = values(torch.tensor([[0.5, 0.4, 0.0], [0.9, 0.6, 0.8], [0.0, 0.3, 0.1]]), 1)
    assert found["recall 1 left-to-right"] == pytest.approx(1 / 3)
    assert found["recall 1 right-to-left"] == pytest.approx(1 / 3)
    assert found["top 1"] == pytest.approx(2 / 3)


def test_median_of_an_even_number_of_ranks_is_between_the_middle_two() -> None:
    assert values(torch.tensor([[0.5, 0.9], [0.1, 0.2]]), 1)["median rank"] == 1.5  # ranks 2, 1 and 1, 2


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (5, 2), (40, 3), (97, 4)])
def test_metrics_are_those_of_sorting(count: int, seed: int) -> None:
    similarities = distinct(count, seed)
    forth, back = ranks_by_sorting(similarities), ranks_by_sorting(similarities.T)
    ks = [k for k in (1, 3, 10) if k <= count]
    expected = {
        **{f"top {k}": sum(a <= k or b <= k for a, b in zip(forth, back, strict=True)) / count for k in ks},
        **{f"recall {k} left-to-right": sum(rank <= k for rank in forth) / count for k in ks},
        **{f"recall {k} right-to-left": sum(rank <= k for rank in back) / count for k in ks},
        "MRR": math.fsum(1 / rank for rank in forth + back) / (2 * count),
        "median rank": statistics.median(forth + back),
    }
    assert values(similarities, *ks) == pytest.approx(expected)


def test_partners_first_everywhere_are_all_found() -> None:
    found = values(torch.eye(12), 1, 3)
    assert found.pop("median rank") == 1
    assert set(found.values()) == {1.0}


def test_equals_count_against_the_partner() -> None:
    left_to_right, right_to_left = partner_ranks(torch.tensor([[0.7, 0.7, 0.1], [0.2, 0.7, 0.3], [0.0, 0.3, 0.9]]))
    assert left_to_right.tolist() == [2, 1, 1]
    assert right_to_left.tolist() == [1, 2, 1]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.25])
def test_a_matrix_of_equals_finds_nobody(value: float) -> None:
    found = values(torch.full((9, 9), value), 1, 8, 9)
    assert found["top 1"] == found["top 8"] == 0
    assert found["top 9"] == 1
    assert found["median rank"] == 9
    assert found["MRR"] == pytest.approx(1 / 9)


def test_a_head_that_collapsed_to_zeros_finds_nobody() -> None:
    found = of_ranks(contrast(torch.zeros(1, 30, 1024), torch.zeros(1, 30, 1024), contrastive, 1.0).ranks, 1, 29)
    assert found.pop("MRR") == pytest.approx(1 / 30)
    assert found.pop("median rank") == 30
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("spoilt", [(2, 2), (2, 0), (0, 2)])
def test_a_partner_beside_a_similarity_that_is_no_number_is_not_found(spoilt: tuple[int, int]) -> None:
    similarities = torch.eye(4)
    similarities[spoilt] = math.nan
    row, column = spoilt
    # a product with I spreads it over its row, and with the sides changed over its column
    for ranks in (partner_ranks(similarities), partner_ranks(similarities.T)[::-1]):
        left_to_right, right_to_left = ranks
        assert left_to_right[row] > 1
        assert right_to_left[column] > 1


def test_nothing_is_found_among_similarities_that_are_no_numbers() -> None:
    found = values(torch.full((5, 5), math.nan), 1, 4)
    assert all(value == 0 for name, value in found.items() if name.startswith(("top", "recall")))


def test_the_order_of_the_pairs_does_not_matter() -> None:
    similarities = distinct(31, seed=8)
    expected = values(similarities, 1, 5)
    for seed in range(3):
        order = torch.randperm(31, generator=torch.Generator().manual_seed(seed))
        assert values(similarities[order][:, order], 1, 5) == pytest.approx(expected)


def test_changing_the_sides_swaps_the_directions_alone() -> None:
    similarities = distinct(31, seed=9)
    forth, back = values(similarities, 1, 5), values(similarities.T, 1, 5)
    for k in (1, 5):
        assert forth[f"recall {k} left-to-right"] == back[f"recall {k} right-to-left"]
        assert forth[f"recall {k} right-to-left"] == back[f"recall {k} left-to-right"]
    shared = ("top 1", "top 5", "MRR", "median rank")
    assert [forth[name] for name in shared] == pytest.approx([back[name] for name in shared])


def test_recall_grows_with_k_up_to_one() -> None:
    found = values(distinct(12, seed=10), *range(1, 13))
    for name in ("top {}", "recall {} left-to-right", "recall {} right-to-left"):
        curve = [found[name.format(k)] for k in range(1, 13)]
        assert all(before <= after for before, after in itertools.pairwise(curve))
        assert curve[0] < curve[-1] == 1


def test_runs_have_the_metrics_that_each_has_alone() -> None:
    matrices = [distinct(14, seed) for seed in (11, 12, 13)]
    alone = [values(matrix, 1, 3) for matrix in matrices]
    by_run = [partner_ranks(matrix) for matrix in matrices]
    together = retrieval_metrics([torch.stack(ranks) for ranks in zip(*by_run, strict=True)], (1, 3))
    assert {name: value.tolist() for name, value in together.items()} == {
        name: pytest.approx([one[name] for one in alone]) for name in alone[0]
    }
    assert len({tuple(one.values()) for one in alone}) == 3


# ---- the table


def test_a_line_in_the_table_is_a_metric_and_says_which_way_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "worst {k}", Metric(lambda forth, back, k: forth.amax(-1) + k, lower_is_better=True))
    ranks = torch.tensor([[1.0, 4.0]]), torch.tensor([[2.0, 2.0]])
    values = retrieval_metrics(ranks, (1, 3))
    assert [*values][-2:] == ["worst 1", "worst 3"]
    assert [values[name].tolist() for name in ("worst 1", "worst 3")] == [[5.0], [7.0]]
    lower = [name for name in ("Loss", *values) if lower_is_better(name)]
    assert lower == ["Loss", "median rank", "worst 1", "worst 3"]
