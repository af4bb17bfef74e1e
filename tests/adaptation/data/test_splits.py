"""Splits: how many, which, and from what seed."""

from __future__ import annotations

import re

import pytest

from adaptation.data.splits import check_ks, check_share, draw_split, seeds_of
from common.errors import InputError


@pytest.mark.parametrize(
    ("pairs", "share", "tested"),
    [
        (4199, 0.25, 1049),
        (1377, 0.25, 344),
        (40, 0.25, 10),
        (43, 0.25, 10),
        (2, 0.5, 1),
        (7, 0.99, 6),
        (5, 0.2, 1),
        (100, 0.29, 29),
        (100, 0.57, 57),
    ],
)
def test_a_share_is_rounded_down(pairs: int, share: float, tested: int) -> None:
    assert check_share(pairs, share) == tested
    split = draw_split(pairs, share, seed=0)
    assert len(split.test) == tested
    assert len(split.train) == pairs - tested


def test_the_paper_has_1049_test_and_3150_train_pairs() -> None:
    split = draw_split(4199, 0.25, seed=0)
    assert (len(split.test), len(split.train)) == (1049, 3150)


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_is_in_one_of_both_sets_once(seed: int) -> None:
    split = draw_split(101, 0.3, seed)
    train, test = split.train.tolist(), split.test.tolist()
    assert sorted(train + test) == list(range(101))
    assert train == sorted(train)
    assert test == sorted(test)


def test_test_pairs_are_drawn_from_everywhere() -> None:
    drawn = {index for seed in range(40) for index in draw_split(20, 0.25, seed).test.tolist()}
    assert drawn == set(range(20))


def test_the_seed_alone_makes_the_split() -> None:
    assert draw_split(100, 0.25, 3).test.tolist() == draw_split(100, 0.25, 3).test.tolist()
    assert draw_split(100, 0.25, 3).test.tolist() != draw_split(100, 0.25, 4).test.tolist()


def test_every_run_of_every_seed_has_seeds_of_its_own() -> None:
    seeds = [part for seed in range(20) for run in range(1, 21) for part in seeds_of(seed, run)]
    assert len(set(seeds)) == 2 * 20 * 20


def test_runs_differ_in_their_test_pairs() -> None:
    splits = {tuple(draw_split(40, 0.25, seeds_of(0, run)[0]).test.tolist()) for run in range(1, 21)}
    assert len(splits) == 20


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.25, float("nan"), float("inf")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InputError) as told:
        check_share(40, share)
    assert str(told.value) == f"--test-split {share:g}: give a share between 0 and 1, such as 0.25"


@pytest.mark.parametrize("pairs", [2, 3, 9, 10, 11, 40, 99, 101, 4199, 100_000])
def test_a_share_that_leaves_no_test_pair_is_refused_with_one_that_works(pairs: int) -> None:
    share = 0.5 / pairs
    with pytest.raises(InputError, match="leaves no test pair; --test-split ") as told:
        check_share(pairs, share)
    advised = re.search(r"--test-split (\S+) leaves 1$", str(told.value))
    assert advised
    assert check_share(pairs, float(advised[1])) == 1


def test_one_pair_cannot_be_split() -> None:
    with pytest.raises(InputError, match="1 pair: at least 2 are needed"):
        draw_split(1, 0.5, seed=0)


def test_k_up_to_the_number_of_test_pairs_is_possible() -> None:
    check_ks((1, 3, 10), 10)
    with pytest.raises(InputError) as told:
        check_ks((1, 11, 12), 10)
    assert str(told.value) == "-k 11: the 10 test pairs are the gallery; k from 1 to 10 is possible"
    with pytest.raises(InputError, match="-k 0: "):
        check_ks((0,), 10)
