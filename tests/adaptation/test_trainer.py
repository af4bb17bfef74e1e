"""Training beside a loop written with torch alone, and what may and may not change its numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptation.heads import build_head
from adaptation.pairs import Pairs
from adaptation.splits import seeds_of
from adaptation.trainer import Run, Scores, Settings, train_epoch, train_run
from common.errors import InputError

SETTINGS = Settings(epochs=12, temperature=15.0, test_split=0.25, ks=(1, 3), seed=5)


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
    head = build_head("original", 8, seed=3)
    (weight,) = (value.clone() for value in head.state_dict().values())
    reference = Reference(weight, temperature=15.0)
    found = train_epoch(head, torch.optim.Adam(head.parameters(), lr=1e-3), pairs, SETTINGS)
    loss, recall = reference.step(pairs)
    assert found["Loss"].item() == pytest.approx(loss, abs=1e-5)
    assert found["top 1"].item() == pytest.approx(recall)
    (stepped,) = head.parameters()
    torch.testing.assert_close(stepped, reference.linear.weight, atol=1e-5, rtol=0)
    assert not torch.equal(stepped, weight)


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
    assert str(told.value) == "the loss is no finite number at -t 1e+38; give a smaller temperature"


def test_the_scores_of_a_run_hold_no_tensors(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, number=1)
    scores = run.scores()
    assert type(scores) is Scores
    assert vars(scores) == {"train": run.train, "test": run.test, "frozen": run.frozen}


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


def test_without_flips_the_loss_is_that_of_the_one_view(pairs: Pairs) -> None:
    originals = Pairs(pairs.left[:1], pairs.right[:1], pairs.names)
    twice = Pairs(pairs.left[[0, 0]], pairs.right[[0, 0]], pairs.names)
    run, other = train_run(originals, SETTINGS, number=1), train_run(twice, SETTINGS, number=1)
    assert run.train["Loss"] == pytest.approx(other.train["Loss"], abs=1e-5)


def test_the_views_have_equal_parts_in_the_loss(pairs: Pairs) -> None:
    def loss(views: list[int]) -> float:
        head = build_head("original", 8, seed=3)
        chosen = Pairs(pairs.left[views], pairs.right[views], pairs.names)
        return train_epoch(head, torch.optim.Adam(head.parameters()), chosen, SETTINGS)["Loss"].item()

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
    assert all(weight.grad is not None for weight in more.head.parameters())
