"""A PCA of the training pairs alone, beside scikit-learn's and beside a direction that only test pairs have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from adaptation.data import split_pca
from adaptation.data.pairs import Pairs
from adaptation.data.split_pca import SplitPCA, check_components
from adaptation.data.splits import seeds_of
from adaptation.heads import build_head
from adaptation.trainer import Run, Settings, train_runs
from common.errors import InputError

CPU = torch.device("cpu")
SETTINGS = Settings(epochs=3, temperature=15.0, seed=5)


def train_run(pairs: Pairs, settings: Settings, number: int, split_pca: SplitPCA | None = None) -> Run:
    return train_runs(pairs, settings, [number], split_pca=split_pca)[0]


def rows_of(pairs: Pairs, indices: Tensor) -> NDArray[np.float64]:
    """The vectors of both sides and all views of some pairs: (n, D)."""
    sides = torch.stack([pairs.left, pairs.right])[:, :, indices]
    return sides.reshape(-1, sides.shape[-1]).double().numpy()


def sklearns(pairs: Pairs, indices: Tensor, components: int) -> PCA:
    return PCA(components, svd_solver="full").fit(rows_of(pairs, indices))


@pytest.mark.parametrize("chunk", [1, 200, 2**26])
def test_the_projection_is_that_of_scikit_learn_fitted_on_the_training_pairs(
    pairs: Pairs, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_pca, "CHUNK_BYTES", chunk)
    train = torch.arange(0, 40, 3)
    found, pca = SplitPCA(4, CPU)(pairs, train)
    oracle = sklearns(pairs, train, 4)
    signs = np.sign((pca.components_ * oracle.components_).sum(1))
    np.testing.assert_allclose(pca.components_ * signs[:, None], oracle.components_, atol=1e-8)
    assert pca.n_samples_ == 2 * 2 * len(train)
    for side, reduced in ((pairs.left, found.left), (pairs.right, found.right)):
        assert reduced.shape == (2, 40, 4)
        assert reduced.dtype == torch.float32
        for view in (0, 1):
            expected = oracle.transform(side[view].double().numpy()) * signs
            np.testing.assert_allclose(reduced[view], expected, atol=1e-5)
    assert found.names == pairs.names


def planted(pairs: Pairs, test: Tensor, direction: Tensor) -> Pairs:
    """The pairs, with a loud direction in which the test pairs alone differ."""
    loud = 100 * torch.randn(len(test), 1, generator=torch.Generator().manual_seed(1)) * direction
    left, right = (side.clone() for side in (pairs.left, pairs.right))
    left[:, test] += loud
    right[:, test] += loud
    return Pairs(left, right, pairs.names)


def test_what_only_test_pairs_have_is_not_in_a_runs_pca(pairs: Pairs) -> None:
    direction = torch.zeros(10)
    direction[9] = 1.0
    room = torch.zeros(2, 40, 2)  # two numbers that no pair uses
    wide = Pairs(torch.cat([pairs.left, room], -1), torch.cat([pairs.right, room], -1), pairs.names)
    split = train_run(wide, SETTINGS, 1).split
    loud = planted(wide, split.test, direction)
    run = train_run(loud, SETTINGS, 1, split_pca=SplitPCA(4, CPU))
    assert torch.equal(run.split.test, split.test)
    assert run.pca is not None
    assert np.abs(run.pca.components_ @ direction.numpy()).max() < 1e-9
    assert run.pca.n_samples_ == 2 * 2 * len(split.train)
    everything = sklearns(loud, torch.arange(40), 4)
    assert np.abs(everything.components_ @ direction.numpy()).max() > 0.99


def test_a_run_is_that_of_features_that_were_reduced_before(pairs: Pairs) -> None:
    run = train_run(pairs, SETTINGS, 2, split_pca=SplitPCA(4, CPU))
    reduced, _ = SplitPCA(4, CPU)(pairs, run.split.train)
    other = train_run(reduced, SETTINGS, 2)
    assert (run.train, run.test, run.frozen) == (other.train, other.test, other.frozen)
    assert other.pca is None
    (weight,) = run.head.parameters()
    assert weight.shape[1] == 4
    (first,) = build_head("original", 4, seeds_of(SETTINGS.seed, 2)[1]).parameters()
    assert not torch.equal(weight, first)  # the gradients came through
    assert run.frozen != train_run(pairs, SETTINGS, 2).frozen  # the frozen features are the reduced ones


def test_each_run_has_a_pca_of_its_own(pairs: Pairs) -> None:
    one, other = (train_run(pairs, SETTINGS, number, split_pca=SplitPCA(2, CPU)).pca for number in (1, 2))
    assert one is not None
    assert other is not None
    assert not np.allclose(one.mean_, other.mean_)


def test_autograd_works_on_what_comes_out(pairs: Pairs) -> None:
    found, _ = SplitPCA(4, CPU)(pairs, torch.arange(30))
    assert not found.left.is_inference()
    weight = torch.ones(4, requires_grad=True)
    (found.left * weight).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(weight.grad, found.left.sum((0, 1)))


def test_the_pairs_that_are_reduced_stay_as_they_are(pairs: Pairs) -> None:
    left, right = pairs.left.clone(), pairs.right.clone()
    SplitPCA(4, CPU)(pairs, torch.arange(30))
    assert torch.equal(pairs.left, left)
    assert torch.equal(pairs.right, right)


@pytest.mark.parametrize(("components", "views", "trained", "width"), [(8, 2, 30, 8), (12, 1, 6, 99), (24, 2, 6, 99)])
def test_as_many_components_as_there_are_vectors_or_numbers(
    components: int, views: int, trained: int, width: int
) -> None:
    check_components(components, Path("f.npy"), views, trained, width)
    with pytest.raises(InputError) as told:
        check_components(components + 1, Path("f.npy"), views, trained, width)
    vectors = 2 * views * trained
    assert str(told.value) == (
        f"--components {components + 1}: f.npy has {vectors} vectors of {width} numbers in the {trained} training "
        f"pairs of a run; 1 to {components} are possible"
    )


def test_the_dummy_shows_the_reduced_features(pairs: Pairs) -> None:
    run = train_run(pairs, replace(SETTINGS, head="dummy"), 1, split_pca=SplitPCA(3, CPU))
    assert {name: curve[-1] for name, curve in run.test.items()} == run.frozen
