"""Training beside a loop written with torch alone, and what may and may not change its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptation import trainer
from adaptation.curves import Metrics
from adaptation.data import stack as stacks
from adaptation.data.pairs import Pairs
from adaptation.data.split_pca import SplitPCA
from adaptation.data.splits import seeds_of
from adaptation.data.stack import Stack
from adaptation.heads import HEADS, HeadStack, build_head
from adaptation.losses import contrast
from adaptation.ranks import Contrast
from adaptation.tiled_loss import Tiling
from adaptation.trainer import Run, Scores, Settings, evaluate, train_epoch, train_final, train_runs
from common.errors import InputError

SETTINGS = Settings(epochs=12, temperature=15.0, test_split=0.25, ks=(1, 3), seed=5)
CPU = torch.device("cpu")


def train_run(pairs: Pairs, settings: Settings, number: int, **named: Any) -> Run:
    return train_runs(pairs, settings, [number], **named)[0]


def stacked(pairs: Pairs) -> Stack:
    """The pairs of one run."""
    return Stack(pairs.left[:, None], pairs.right[:, None])


def one_epoch(heads: HeadStack, train: Stack, settings: Settings = SETTINGS, seed: int = 0) -> Metrics:
    """Of runs whose batches are drawn from `seed`, `seed` + 1, ..."""
    weights = list(heads.weights.values())
    adam = torch.optim.Adam(weights, lr=1e-3) if weights else None
    orders = [np.random.default_rng(seed + run) for run in range(len(heads.heads))]
    return train_epoch(heads, adam, train, settings, Tiling(), orders)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    return F.cosine_similarity(left[:, None], right[None], dim=-1)


def symmetric_loss(similarities: Tensor, temperature: float) -> Tensor:
    targets = torch.arange(len(similarities))
    return (
        F.cross_entropy(temperature * similarities, targets) + F.cross_entropy(temperature * similarities.T, targets)
    ) / 2


def asymmetric_recall(similarities: Tensor, k: int) -> float:
    """The share of pairs with a partner among the k nearest, by torch's own sort, from the left or from the right."""
    partners = torch.arange(len(similarities))[:, None]
    from_left = (similarities.topk(k, dim=1).indices == partners).any(1)
    from_right = (similarities.T.topk(k, dim=1).indices == partners).any(1)
    return (from_left | from_right).double().mean().item()


class Reference:
    """The protocol of the paper in plain torch: a linear layer, ReLU, Adam, one step an epoch on all pairs."""

    def __init__(self, weight: Tensor, temperature: float) -> None:
        self.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.linear.load_state_dict({"weight": weight})
        self.adam = torch.optim.Adam(self.linear.parameters(), lr=0.001)
        self.temperature = temperature

    def similarities(self, left: Tensor, right: Tensor) -> Tensor:
        return cosines(self.linear(left).relu(), self.linear(right).relu())

    def step(self, pairs: Pairs) -> tuple[float, float]:
        """Loss over both views and aR@1 of the original view, before the step."""
        original, flipped = (self.similarities(pairs.left[view], pairs.right[view]) for view in (0, 1))
        loss = (symmetric_loss(original, self.temperature) + symmetric_loss(flipped, self.temperature)) / 2
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        return loss.item(), asymmetric_recall(original, 1)

    def test(self, pairs: Pairs) -> tuple[float, float]:
        with torch.no_grad():
            similarities = self.similarities(pairs.left[0], pairs.right[0])
        return symmetric_loss(similarities, self.temperature).item(), asymmetric_recall(similarities, 1)


def weights(run: Run) -> Tensor:
    (weight,) = run.head.parameters()
    return weight.detach()


def same(one: Run, other: Run) -> bool:
    return one.train == other.train and one.test == other.test and torch.equal(weights(one), weights(other))


def test_one_epoch_is_that_of_plain_torch(pairs: Pairs) -> None:
    heads = HeadStack([build_head("original", 8, seed=3)], CPU)
    (weight,) = heads.heads[0].parameters()
    reference, before = Reference(weight.detach(), temperature=15.0), weight.detach().clone()
    found = one_epoch(heads, stacked(pairs))
    loss, recall = reference.step(pairs)
    assert found["Loss"].item() == pytest.approx(loss, abs=1e-5)
    assert found["top 1"].item() == pytest.approx(recall)
    (stepped,) = heads.unstacked(0).parameters()
    torch.testing.assert_close(stepped, reference.linear.weight, atol=1e-5, rtol=0)
    assert not torch.equal(stepped, before)


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_curves_are_those_of_plain_torch(pairs: Pairs, temperature: float) -> None:
    run = train_run(pairs, replace(SETTINGS, temperature=temperature), number=2)
    (weight,) = build_head("original", 8, seeds_of(SETTINGS.seed, 2)[1]).state_dict().values()
    reference = Reference(weight, temperature)
    train, test = pairs.subset(run.split.train), pairs.subset(run.split.test)
    expected = [(*reference.step(train), *reference.test(test)) for _ in range(SETTINGS.epochs)]
    found = [run.train["Loss"], run.train["top 1"], run.test["Loss"], run.test["top 1"]]
    for curve, other in zip(found, zip(*expected, strict=True), strict=True):
        assert curve == pytest.approx(other, abs=1e-5)


def test_petersons_curve_is_that_of_plain_torch(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, head="peterson"), number=1)
    train = pairs.subset(run.split.train)
    weight = torch.ones(8, requires_grad=True)
    adam = torch.optim.Adam([weight], lr=0.001)
    for found in run.train["Loss"]:
        views = [cosines(train.left[view] * weight.relu(), train.right[view] * weight.relu()) for view in (0, 1)]
        loss = (symmetric_loss(views[0], 15.0) + symmetric_loss(views[1], 15.0)) / 2
        assert found == pytest.approx(loss.item(), abs=1e-5)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()


def test_the_metrics_of_a_run_have_the_fields_names(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, epochs=2), number=1)
    directions = [f"recall {k} {way}" for way in ("left-to-right", "right-to-left") for k in (1, 3)]
    assert [*run.train] == [*run.test] == [*run.frozen] == ["Loss", "top 1", "top 3", *directions, "MRR", "median rank"]
    assert {len(curve) for curve in [*run.train.values(), *run.test.values()]} == {2}


def test_adaptation_brings_partners_together(pairs: Pairs) -> None:
    runs = [train_run(pairs, replace(SETTINGS, epochs=80), number) for number in (1, 2, 3)]
    assert all(run.train["Loss"][-1] < run.train["Loss"][0] for run in runs)
    adapted, frozen = (sum(run.test["top 1"][-1] for run in runs), sum(run.frozen["top 1"] for run in runs))
    assert adapted / 3 > frozen / 3 + 0.3


def test_the_frozen_features_are_measured_on_the_test_pairs_without_a_head(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    test = pairs.subset(run.split.test)
    similarities = cosines(test.left[0], test.right[0])
    assert run.frozen["Loss"] == pytest.approx(symmetric_loss(similarities, 15.0).item(), abs=1e-5)
    assert run.frozen["top 3"] == pytest.approx(asymmetric_recall(similarities, 3))


def test_the_dummy_head_is_measured_once_and_gives_the_frozen_numbers(pairs: Pairs) -> None:
    seen: list[int] = []
    run = train_run(pairs, replace(SETTINGS, head="dummy"), number=1, on_epoch=lambda: seen.append(1))
    assert len(seen) == len(run.test["Loss"]) == 1
    assert {name: curve[0] for name, curve in run.test.items()} == run.frozen
    assert run.optimiser is None


@pytest.mark.parametrize(("head", "steps"), [("original", 12), ("peterson", 12), ("dummy", 1)])
def test_a_run_has_the_steps_that_its_settings_say(pairs: Pairs, head: str, steps: int) -> None:
    settings = replace(SETTINGS, head=head)
    assert settings.steps == steps == len(train_run(pairs, settings, number=1).train["Loss"])


@pytest.mark.parametrize("head", ["original", "dummy"])
def test_a_loss_that_is_no_number_is_refused(pairs: Pairs, head: str) -> None:
    with pytest.raises(InputError) as told:
        train_run(pairs, replace(SETTINGS, head=head, temperature=1e38), number=1)
    assert str(told.value) == "the loss is not finite at a temperature (-t) of 1e+38; give a smaller one"


def test_the_scores_of_a_run_hold_no_tensors(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    scores = run.scores()
    assert type(scores) is Scores
    assert vars(scores) == {"train": run.train, "test": run.test, "frozen": run.frozen}


def test_the_loss_of_the_settings_is_trained_and_tested_on(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, loss="sigmoid"), number=1)
    test = pairs.subset(run.split.test)
    logits = 15.0 * cosines(test.left[0], test.right[0]) - 10
    entropy = F.binary_cross_entropy_with_logits(logits, torch.eye(len(test)), reduction="sum") / len(test)
    assert run.frozen["Loss"] == pytest.approx(entropy.item(), abs=1e-5)
    assert run.train["Loss"][-1] < run.train["Loss"][0]


def test_the_default_loss_is_not_recorded_so_that_older_records_compare() -> None:
    assert "loss" not in Settings().record()
    assert Settings(loss="sigmoid").record() == {**Settings().record(), "loss": "sigmoid"}


def test_every_epoch_is_told(pairs: Pairs) -> None:
    seen: list[int] = []
    train_run(pairs, SETTINGS, number=1, on_epoch=lambda: seen.append(1))
    assert len(seen) == SETTINGS.epochs


def spoilt(pairs: Pairs, chosen: Tensor) -> Pairs:
    """The pairs with other numbers in the flipped view of the chosen ones."""
    left = pairs.left.clone()
    left[1, chosen] = torch.randn(len(chosen), 8, generator=torch.Generator().manual_seed(99))
    return Pairs(left, pairs.right, pairs.names)


def test_the_flipped_view_of_train_pairs_is_learned_from(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    other = train_run(spoilt(pairs, run.split.train), SETTINGS, number=1)
    assert run.train["Loss"][0] != other.train["Loss"][0]
    assert not torch.equal(weights(run), weights(other))


def test_the_flipped_view_of_test_pairs_is_never_used(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    assert same(run, train_run(spoilt(pairs, run.split.test), SETTINGS, number=1))


def test_training_recall_is_that_of_the_original_view(pairs: Pairs) -> None:
    once = replace(SETTINGS, epochs=1)  # its metrics are taken before any flipped copy moved the weights
    run = train_run(pairs, once, number=1)
    other = train_run(spoilt(pairs, run.split.train), once, number=1)
    assert {name: curve for name, curve in run.train.items() if name != "Loss"} == {
        name: curve for name, curve in other.train.items() if name != "Loss"
    }


def test_only_the_original_view_is_ranked(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def watched(*given: Any, **named: Any) -> Contrast:
        seen.append(named.get("ranked", True))
        return contrast(*given, **named)

    monkeypatch.setattr(trainer, "contrast", watched)
    train_run(pairs, replace(SETTINGS, epochs=1), number=1)
    assert seen == [True, False, True, True]  # both views of the train pairs; the test pairs, adapted and frozen


def test_without_flips_the_loss_is_that_of_the_one_view(pairs: Pairs) -> None:
    originals = Pairs(pairs.left[:1], pairs.right[:1], pairs.names)
    twice = Pairs(pairs.left[[0, 0]], pairs.right[[0, 0]], pairs.names)
    run, other = train_run(originals, SETTINGS, number=1), train_run(twice, SETTINGS, number=1)
    assert run.train["Loss"] == pytest.approx(other.train["Loss"], abs=1e-5)


def test_the_views_have_equal_parts_in_the_loss(pairs: Pairs) -> None:
    def loss(views: list[int]) -> float:
        heads = HeadStack([build_head("original", 8, seed=3)], CPU)
        chosen = Pairs(pairs.left[views], pairs.right[views], pairs.names)
        return one_epoch(heads, stacked(chosen))["Loss"].item()

    assert loss([0, 1]) == pytest.approx((loss([0]) + loss([1])) / 2, abs=1e-5)
    assert abs(loss([0]) - loss([1])) > 1e-3


def test_the_same_seed_gives_the_same_run_and_another_seed_another(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    torch.manual_seed(1234)  # random numbers that others drew make no difference
    assert same(run, train_run(pairs, SETTINGS, number=1))
    other = train_run(pairs, replace(SETTINGS, seed=6), number=1)
    assert run.split.test.tolist() != other.split.test.tolist()
    assert not torch.equal(weights(run), weights(other))


def test_a_run_is_the_same_whatever_ran_before_it(pairs: Pairs) -> None:
    runs = [train_run(pairs, SETTINGS, number) for number in (1, 2, 3)]
    assert same(runs[2], train_run(pairs, SETTINGS, number=3))
    assert len({tuple(run.split.test.tolist()) for run in runs}) == 3
    assert len({run.train["Loss"][0] for run in runs}) == 3


def test_evaluating_does_not_train(pairs: Pairs) -> None:
    one, more = (train_run(pairs, replace(SETTINGS, epochs=epochs), number=1) for epochs in (3, 4))
    assert more.train["Loss"][:3] == one.train["Loss"]
    assert all(math.isfinite(value) for value in more.test["Loss"])
    heads = HeadStack([build_head("original", 8, seed=3)], CPU)
    found = evaluate(heads, stacked(pairs), SETTINGS, Tiling())
    assert not any(value.requires_grad for value in found.values())
    assert all(weight.grad is None for weight in heads.weights.values())


# ---- runs side by side


def assert_alike(one: Run, other: Run) -> None:
    """Equal but for rounding: all curves, the split, the head, and the optimiser as a checkpoint has it."""
    assert one.number == other.number
    assert torch.equal(one.split.test, other.split.test)
    assert torch.equal(one.split.train, other.split.train)
    assert [*one.train, *one.test, *one.frozen] == [*other.train, *other.test, *other.frozen]
    for curves, others in ((one.train, other.train), (one.test, other.test)):
        for name, curve in curves.items():
            assert curve == pytest.approx(others[name], rel=1e-5), name
    assert one.frozen == pytest.approx(other.frozen, rel=1e-5)
    torch.testing.assert_close(one.head.state_dict(), other.head.state_dict(), rtol=1e-4, atol=1e-5)
    assert (one.optimiser is None) == (other.optimiser is None)
    if one.optimiser is not None and other.optimiser is not None:
        state, expected = one.optimiser.state_dict(), other.optimiser.state_dict()
        assert state["param_groups"] == expected["param_groups"]
        torch.testing.assert_close(state["state"], expected["state"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("reduction", [None, SplitPCA(4, CPU)])
@pytest.mark.parametrize("head", ["original", "peterson", "dummy"])
def test_runs_side_by_side_are_those_runs_alone(
    pairs: Pairs, head: str, reduction: SplitPCA | None, batch_size: int | None
) -> None:
    settings = replace(SETTINGS, head=head, batch_size=batch_size)
    together = train_runs(pairs, settings, [3, 1, 2], split_pca=reduction)
    assert [run.number for run in together] == [3, 1, 2]
    for run in together:
        alone = train_run(pairs, settings, run.number, split_pca=reduction)
        assert_alike(run, alone)
        assert (run.pca is None) == (reduction is None)
        if run.pca is not None:
            assert alone.pca is not None
            assert np.array_equal(run.pca.components_, alone.pca.components_)
    assert len({tuple(run.test["Loss"]) for run in together}) == 3


def test_runs_side_by_side_share_no_weights_and_no_moments(pairs: Pairs) -> None:
    runs = train_runs(pairs, SETTINGS, [1, 2])
    held = []
    for run in runs:
        assert run.optimiser is not None
        (weight,), (group,) = run.head.parameters(), run.optimiser.param_groups
        assert group["params"] == [weight]
        held += [weight.detach(), *run.optimiser.state[weight].values()]
    assert {tuple(tensor.shape) for tensor in held} == {(1024, 8), ()}  # of one run each
    assert len({tensor.untyped_storage().data_ptr() for tensor in held}) == len(held) == 8
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in held)  # nor are they views of all


def test_an_optimiser_that_is_taken_out_goes_on_as_if_it_had_not_been(pairs: Pairs) -> None:
    short, long = (train_runs(pairs, replace(SETTINGS, epochs=epochs), [1, 2])[1] for epochs in (5, 6))
    assert short.optimiser is not None
    train = pairs.subset(short.split.train)
    head = short.head
    views = [symmetric_loss(cosines(head(train.left[view]), head(train.right[view])), 15.0) for view in (0, 1)]
    (sum(views) / 2).backward()  # type: ignore[union-attr]
    short.optimiser.step()
    torch.testing.assert_close(weights(short), weights(long), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "tiling",
    [
        Tiling(numbers=1, rows=7),
        Tiling(keep=False, numbers=1, rows=7),
        Tiling(keep=False),
    ],
)
@pytest.mark.parametrize("temperature", [15.0, 100.0])
def test_tiles_change_no_number_of_a_run(pairs: Pairs, temperature: float, tiling: Tiling) -> None:
    settings = replace(SETTINGS, temperature=temperature)
    for run, other in zip(*(train_runs(pairs, settings, [1, 2], tiling=used) for used in (None, tiling)), strict=True):
        assert_alike(run, other)


def test_an_epoch_of_all_runs_is_told_once(pairs: Pairs) -> None:
    seen: list[int] = []
    train_runs(pairs, SETTINGS, [1, 2, 3], on_epoch=lambda: seen.append(1))
    assert len(seen) == SETTINGS.epochs


def test_one_run_whose_loss_is_no_number_is_enough_to_refuse(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt_stack(runs: Sequence[Pairs], make: Any = stacks.stack) -> Stack:
        made: Stack = make(runs)
        made.left[0, 1, 0] = math.nan
        return made

    monkeypatch.setattr(trainer, "stack", spoilt_stack)
    with pytest.raises(InputError, match=r"not finite at a temperature \(-t\) of 15"):
        train_runs(pairs, SETTINGS, [1, 2, 3])


# ---- batches


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    """Every batch that is trained on, as it comes."""
    seen: list[Stack] = []
    made = stacks.batches

    def watched(*given: Any) -> Iterator[Stack]:
        for batch in made(*given):
            seen.append(batch)
            yield batch

    monkeypatch.setattr(trainer, "batches", watched)
    return seen


def numbered(count: int, runs: int = 1) -> Stack:
    """Pairs that are told by their number; views and sides by its sign and its fraction."""
    numbers = torch.arange(1.0, count + 1).view(1, 1, count, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    left = numbers.expand(2, runs, count, 1)
    return Stack(left, left + 0.5)


def indices(batch: Stack) -> list[list[int]]:
    """The pairs of each run in a batch of `numbered`, after a look at whether views and sides are of the same ones."""
    assert torch.equal(batch.left[0], -batch.left[1])
    assert torch.equal(batch.left + 0.5, batch.right)
    found: list[list[int]] = batch.left[0, ..., 0].int().sub(1).tolist()
    return found


def dummies(runs: int) -> HeadStack:
    return HeadStack([build_head("dummy", 1, 0)] * runs, CPU)


def test_the_full_batch_is_one_step_an_epoch(pairs: Pairs, batches: list[Stack]) -> None:
    run = train_run(pairs, SETTINGS, 1)
    assert [len(batch) for batch in batches] == [30] * SETTINGS.epochs
    assert run.optimiser is not None
    assert [state["step"] for state in run.optimiser.state.values()] == [SETTINGS.epochs]


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (30, 15, [15, 15]),
        (30, 29, [15, 15]),  # as few as hold no more, and no small one at the end
        (30, 8, [8, 8, 7, 7]),
        (31, 10, [8, 8, 8, 7]),
        (5, 1, [1] * 5),
    ],
)
def test_batches_hold_all_pairs_once_and_are_of_equal_size(
    count: int, size: int, sizes: list[int], batches: list[Stack]
) -> None:
    one_epoch(dummies(2), numbered(count, runs=2), replace(SETTINGS, ks=(1,), batch_size=size))
    assert [len(batch) for batch in batches] == sizes
    drawn = [[pair for batch in batches for pair in indices(batch)[run]] for run in (0, 1)]
    assert sorted(drawn[0]) == sorted(drawn[1]) == list(range(count))
    assert drawn[0] != drawn[1]  # each run has an order of its own


def test_batches_are_drawn_anew_in_each_epoch_from_the_seed_alone(pairs: Pairs, batches: list[Stack]) -> None:
    settings = replace(SETTINGS, epochs=3, batch_size=15)

    def drawn(number: int) -> list[Tensor]:
        batches.clear()
        train_run(pairs, settings, number)
        return [torch.cat([batch.left for batch in batches[first : first + 2]], dim=2) for first in (0, 2, 4)]

    epochs = drawn(1)
    torch.manual_seed(1234)  # random numbers that others drew make no difference
    np.random.seed(1234)
    assert all(map(torch.equal, epochs, drawn(1)))
    in_order = [epoch.sort(dim=2).values for epoch in (*epochs, *drawn(1))]
    assert all(torch.equal(in_order[0], other) for other in in_order)  # the same pairs
    assert not any(torch.equal(epochs[one], epochs[other]) for one, other in ((0, 1), (1, 2), (0, 2)))
    assert not torch.equal(epochs[0], drawn(2)[0])


def test_each_batch_is_a_step(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, epochs=3, batch_size=8), 1)
    assert run.optimiser is not None
    assert [state["step"] for state in run.optimiser.state.values()] == [3 * 4]
    assert {len(curve) for curve in [*run.train.values(), *run.test.values()]} == {3}


@pytest.mark.parametrize("size", [30, 31, 4000])
def test_a_batch_size_of_all_pairs_or_more_is_none(pairs: Pairs, size: int) -> None:
    run, other = train_run(pairs, SETTINGS, 1), train_run(pairs, replace(SETTINGS, batch_size=size), 1)
    assert same(run, other)
    assert not same(run, train_run(pairs, replace(SETTINGS, batch_size=29), 1))


@pytest.mark.parametrize("size", [8, 15])
def test_epochs_of_batches_are_those_of_plain_torch(pairs: Pairs, size: int, batches: list[Stack]) -> None:
    run = train_run(pairs, replace(SETTINGS, epochs=3, batch_size=size), 2)
    (weight,) = build_head("original", 8, seeds_of(SETTINGS.seed, 2)[1]).state_dict().values()
    reference, each = Reference(weight, 15.0), math.ceil(30 / size)
    assert len(batches) == 3 * each
    for epoch in range(3):
        loss, recall = 0.0, 0.0
        for batch in batches[epoch * each : (epoch + 1) * each]:
            found = reference.step(Pairs(batch.left[:, 0], batch.right[:, 0], [("", "")] * len(batch)))
            loss, recall = (mean + part * len(batch) / 30 for mean, part in zip((loss, recall), found, strict=True))
        assert run.train["Loss"][epoch] == pytest.approx(loss, abs=1e-5)
        assert run.train["top 1"][epoch] == pytest.approx(recall)
        assert run.test["Loss"][epoch] == pytest.approx(reference.test(pairs.subset(run.split.test))[0], abs=1e-5)
    torch.testing.assert_close(weights(run), reference.linear.weight, atol=1e-5, rtol=0)


def test_the_gallery_of_training_is_the_batch_and_that_of_tests_is_not(pairs: Pairs) -> None:
    dummy = replace(SETTINGS, head="dummy")
    full, single = (train_run(pairs, replace(dummy, batch_size=size), 1) for size in (None, 1))
    assert (single.train["MRR"], single.train["median rank"]) == ([1.0], [1.0])
    assert single.train["Loss"] == pytest.approx([0.0], abs=1e-5)
    assert full.train["MRR"][0] < 0.9
    assert (single.test, single.frozen) == (full.test, full.frozen)


# ---- precision


@pytest.mark.parametrize("head", ["original", "peterson"])
def test_bf16_trains_as_fp32_does_but_for_rounding(pairs: Pairs, head: str) -> None:
    settings, rounding = replace(SETTINGS, head=head), Tiling(factors=torch.bfloat16)
    run = train_run(pairs, settings, 1)
    rough = train_run(pairs, replace(settings, precision="bf16"), 1, tiling=rounding)
    for curve, other in ((rough.train, run.train), (rough.test, run.test)):
        assert curve["Loss"] == pytest.approx(other["Loss"], rel=0.01)
    assert rough.train["Loss"] != run.train["Loss"]
    assert rough.train["Loss"][-1] < rough.train["Loss"][0]
    assert rough.frozen == run.frozen
    assert {weight.dtype for weight in rough.head.parameters()} == {torch.float32}
    assert rough.optimiser is not None
    assert {value.dtype for state in rough.optimiser.state.values() for value in state.values()} == {torch.float32}


def test_bf16_rounds_no_frozen_feature(pairs: Pairs) -> None:
    settings, rounding = replace(SETTINGS, head="dummy"), Tiling(factors=torch.bfloat16)
    run = train_run(pairs, settings, 1)
    rough = train_run(pairs, replace(settings, precision="bf16"), 1, tiling=rounding)
    assert (rough.test, rough.frozen) == (run.test, run.frozen)


@pytest.mark.parametrize("head", ["original", "peterson"])
def test_tests_are_in_fp32_under_every_precision(pairs: Pairs, head: str) -> None:
    heads = HeadStack([build_head(head, 8, seed=3)], CPU)
    exact = evaluate(heads, stacked(pairs), SETTINGS, Tiling())
    rough = evaluate(heads, stacked(pairs), replace(SETTINGS, precision="bf16"), Tiling(factors=torch.bfloat16))
    assert {name: value.tolist() for name, value in rough.items()} == {
        name: value.tolist() for name, value in exact.items()
    }


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("tf32", False), ("bf16", True)])
def test_the_head_is_rounded_in_bf16_alone(pairs: Pairs, precision: str, rounded: bool) -> None:
    heads = HeadStack([build_head("original", 8, seed=3)], CPU)
    found = trainer._embeddings(heads, pairs.left[0, None], precision)
    exact = heads(pairs.left[0, None])
    assert found.dtype == torch.float32
    assert torch.equal(found, exact) != rounded
    torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02)


# ---- heads with Dropout and BatchNorm


class TwoLayers(nn.Sequential):
    """A layer, BatchNorm, Dropout, and another layer. (N, D) -> (N, 4).

    The first has no bias: BatchNorm takes it away, and Adam would follow the rounding of its gradient.
    """

    def __init__(self, features: int) -> None:
        layer = nn.Linear(features, 6, bias=False)
        super().__init__(layer, nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4))


class Partial(nn.Sequential):
    """A first layer that is not trained. (N, D) -> (N, 4)."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, 6), nn.ReLU(), nn.Linear(6, 4))
        self[0].requires_grad_(False)


class Fixed(nn.Linear):
    """A projection that is not trained. (N, D) -> (N, 4)."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 4)
        self.requires_grad_(False)


@pytest.fixture(autouse=True)
def other_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, head in {"two-layers": TwoLayers, "partial": Partial, "fixed": Fixed}.items():
        monkeypatch.setitem(HEADS, name, head)


def state(run: Run) -> dict[str, Tensor]:
    return run.head.state_dict()


def identical(run: Run, other: Run) -> bool:
    """To the bit: curves, weights and buffers."""
    alike = all(torch.equal(value, state(other)[name]) for name, value in state(run).items())
    return alike and (run.train, run.test, run.frozen) == (other.train, other.test, other.frozen)


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("head", ["two-layers", "partial", "fixed"])
def test_a_run_that_is_not_stacked_is_the_same_whatever_goes_with_it(
    pairs: Pairs, head: str, batch_size: int | None
) -> None:
    settings = replace(SETTINGS, head=head, batch_size=batch_size)
    together = train_runs(pairs, settings, [3, 1, 2])
    torch.manual_seed(1234)  # random numbers that others drew make no difference
    torch.rand(100)
    for run in together:
        assert identical(run, train_run(pairs, settings, run.number))
    assert not identical(together[0], together[1])


def test_training_with_dropout_leaves_torchs_random_numbers_as_they_were(pairs: Pairs) -> None:
    torch.manual_seed(77)
    before = torch.get_rng_state()
    train_runs(pairs, replace(SETTINGS, head="two-layers"), [1, 2])
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_drawn_anew_in_each_run_and_epoch(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    dropout = nn.Dropout.forward

    def watched(self: nn.Dropout, x: Tensor) -> Tensor:
        if self.training:
            drawn.append(dropout(self, torch.ones(20, 20)))
        return dropout(self, x)

    monkeypatch.setattr(nn.Dropout, "forward", watched)
    train_runs(pairs, replace(SETTINGS, head="two-layers", epochs=2), [1, 2])
    masks = {tuple(mask.flatten().tolist()) for mask in drawn}
    assert len(masks) == len(drawn) == 2 * 2 * 2 * 2  # runs, epochs, views and sides


class DropoutReference:
    """A head with BatchNorm and Dropout in plain torch, as the documents of torch train one."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.head = TwoLayers(8)
        self.adam = torch.optim.Adam(self.head.parameters(), lr=0.001)

    def step(self, train: Pairs) -> float:
        self.head.train()
        losses = [
            symmetric_loss(cosines(self.head(train.left[view]), self.head(train.right[view])), 15.0) for view in (0, 1)
        ]
        self.adam.zero_grad()
        (sum(losses) / 2).backward()  # type: ignore[union-attr]
        self.adam.step()
        return sum(loss.item() for loss in losses) / 2

    @torch.no_grad()
    def test(self, test: Pairs) -> float:
        self.head.eval()
        return symmetric_loss(cosines(self.head(test.left[0]), self.head(test.right[0])), 15.0).item()


def test_curves_of_batch_norm_and_dropout_are_those_of_plain_torch(pairs: Pairs) -> None:
    run, (_, seed) = train_run(pairs, replace(SETTINGS, head="two-layers"), 2), seeds_of(SETTINGS.seed, 2)
    train, test = pairs.subset(run.split.train), pairs.subset(run.split.test)
    with torch.random.fork_rng(devices=[]):
        reference = DropoutReference(seed)
        torch.manual_seed(seed + 1)
        expected = [(reference.step(train), reference.test(test)) for _ in range(SETTINGS.epochs)]
    assert run.train["Loss"] == pytest.approx([loss for loss, _ in expected], abs=1e-5)
    assert run.test["Loss"] == pytest.approx([loss for _, loss in expected], abs=1e-5)
    torch.testing.assert_close(state(run), reference.head.state_dict(), atol=1e-5, rtol=1e-5)
    assert state(run)["1.num_batches_tracked"] == 4 * SETTINGS.epochs  # two views of two sides


def test_the_last_metrics_of_a_run_are_those_of_its_head_in_evaluation_mode(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, head="two-layers"), 1)
    test, head = pairs.subset(run.split.test), TwoLayers(8).eval()
    head.load_state_dict(state(run))  # as from a checkpoint, buffers and all
    with torch.no_grad():
        losses = [symmetric_loss(cosines(head(test.left[0]), head(test.right[0])), 15.0).item() for _ in range(2)]
    assert losses[0] == losses[1] == pytest.approx(run.test["Loss"][-1], abs=1e-5)
    assert not run.head.training


def test_weights_that_are_not_to_be_trained_are_not(pairs: Pairs) -> None:
    for run in train_runs(pairs, replace(SETTINGS, head="partial"), [1, 2]):
        before = build_head("partial", 8, seeds_of(SETTINGS.seed, run.number)[1]).state_dict()
        changed = {name for name, value in state(run).items() if not torch.equal(value, before[name])}
        assert changed == {"2.weight", "2.bias"}
        assert run.optimiser is not None
        assert [len(group["params"]) for group in run.optimiser.param_groups] == [2]


def test_head_with_nothing_to_train_has_a_constant_curve(pairs: Pairs) -> None:
    for run in train_runs(pairs, replace(SETTINGS, head="fixed"), [1, 2]):
        assert run.optimiser is None
        assert run.train["Loss"] == [run.train["Loss"][0]] * SETTINGS.epochs
        assert run.test["Loss"] == [run.test["Loss"][0]] * SETTINGS.epochs
        assert run.test["Loss"][0] != run.frozen["Loss"]


# ---- one head on all pairs


@pytest.mark.parametrize("reduction", [None, SplitPCA(4, CPU)])
@pytest.mark.parametrize(
    "changed", [{}, {"batch_size": 8}, {"head": "peterson"}, {"head": "dummy"}, {"loss": "sigmoid"}]
)
def test_final_head_on_the_training_pairs_of_a_run_is_the_head_of_that_run(
    pairs: Pairs, changed: dict[str, Any], reduction: SplitPCA | None
) -> None:
    settings = replace(SETTINGS, **changed)
    run = train_run(pairs, settings, number=2, split_pca=reduction)
    final = train_final(pairs.subset(run.split.train), settings, number=2, split_pca=reduction)
    assert final.loss == run.train["Loss"]
    state, expected = final.head.state_dict(), run.head.state_dict()
    assert [*state] == [*expected]
    assert all(torch.equal(state[name], expected[name]) for name in state)
    assert not final.head.training
    assert (final.pca is None) == (run.pca is None)
    if final.pca is not None and run.pca is not None:
        assert np.array_equal(final.pca.components_, run.pca.components_)
        assert np.array_equal(final.pca.mean_, run.pca.mean_)


def test_final_head_learns_from_every_pair_and_has_a_seed_of_its_own(pairs: Pairs) -> None:
    final = train_final(pairs, SETTINGS)
    first = train_run(pairs, SETTINGS, number=1)
    for left_out in (0, len(pairs) - 1):
        others = torch.tensor([index for index in range(len(pairs)) if index != left_out])
        assert train_final(pairs.subset(others), SETTINGS).loss[0] != final.loss[0]
    seeds = [seeds_of(SETTINGS.seed, number)[1] for number in (0, first.number)]
    started = [build_head("original", 8, seed).state_dict()["0.weight"] for seed in seeds]
    assert not torch.equal(*started)
    reference = Reference(started[0], temperature=15.0)
    loss = [reference.step(pairs)[0] for _ in range(SETTINGS.epochs)]
    assert final.loss == pytest.approx(loss, abs=1e-5)


def test_each_epoch_of_the_final_head_is_reported(pairs: Pairs) -> None:
    seen: list[int] = []
    train_final(pairs, SETTINGS, on_epoch=lambda: seen.append(1))
    assert len(seen) == SETTINGS.epochs


def test_final_head_whose_loss_is_no_number_is_refused(pairs: Pairs) -> None:
    with pytest.raises(InputError, match=r"not finite at a temperature \(-t\) of 1e"):
        train_final(pairs, replace(SETTINGS, temperature=1e38))
