"""Every field of a description is checked by type and bounds, and named where it is wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from adaptation.similarity.learned.fields import MOST_NETWORKS, check_about
from tests.adaptation.similarity.learned.test_file import ABOUT, NETWORK

WHOLE = {"format": 1, **ABOUT, "backbones": [NETWORK]}
Place = tuple[str | int, ...]
FREE: set[Place] = {("settings",), ("metrics",), ("backbones", 0, "network"), ("backbones", 0, "preprocessing")}
NONE: set[Place] = {("pca",), ("head", "sha256"), ("loss", "sha256")}
NONE |= {("backbones", 0, "weights", "sha256"), ("backbones", 0, "weights", "seed")}
WRONG: list[Any] = [
    *(True, -1, 10**400, 2**60, 1.5, float("nan"), float("inf")),
    *("\x1b[31m", "x" * 1001, [], [[]], [3], {"a": []}, {"a": -1}, {"x" * 1001: 1}, {"a": "b"}),
]
"""Wrong wherever a field is not free to hold it."""


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """The places of all fields of a description, those that hold others too."""
    if place:
        yield place
    inner = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, part in inner:
        yield from places(part, (*place, name))


def at(value: Any, place: Place) -> Any:
    for name in place:
        value = value[name]
    return value


PLACES = [place for place in places(WHOLE) if place[:3] not in {(*free, "x")[:3] for free in FREE}]


def refused(about: Any) -> bool:
    """Whether a description is refused, which is by a ValueError of one line."""
    try:
        check_about(about)
    except ValueError as error:
        reason = str(error)
    else:
        return False
    assert reason.isprintable()
    assert len(reason) < 300
    return True


def allowed(place: Place, value: Any) -> bool:
    """What a place may hold of `WRONG`, by hand."""
    if place in FREE:
        return isinstance(value, dict)
    if place == ("versions",):
        return bool(value == {"a": "b"})
    if place == ("logit_scale",):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return place == ("backbones",) and bool(value == [])


@pytest.mark.parametrize("place", PLACES, ids=lambda place: " ".join(map(str, place)))
def test_a_field_takes_its_own_type_alone(place: Place) -> None:
    for value in WRONG:
        about = copy.deepcopy(WHOLE)
        at(about, place[:-1])[place[-1]] = value
        assert refused(about) != allowed(place, value), value


@pytest.mark.parametrize("place", PLACES, ids=lambda place: " ".join(map(str, place)))
def test_a_field_that_is_missing_or_none_is_named(place: Place) -> None:
    if place in {("backbones", 0), ("backbones", 0, "layers", "layer1")}:
        return  # which may be fewer
    for about in (copy.deepcopy(WHOLE), copy.deepcopy(WHOLE)):
        at(about, place[:-1])[place[-1]] = None
        assert refused(about) == (place not in NONE)
        del at(about, place[:-1])[place[-1]]
        with pytest.raises(ValueError, match=rf"its field '.*{place[-1]}' is missing"):
            check_about(about)


def test_a_whole_description_is_taken() -> None:
    check_about(WHOLE)
    check_about({**WHOLE, "more": [1]})
    check_about({**WHOLE, "backbones": [], "pca": None})


def test_networks_must_be_few() -> None:
    assert refused({**WHOLE, "backbones": [NETWORK] * (MOST_NETWORKS + 1)})


def test_a_network_is_there_once_and_all_have_the_dimensions_of_the_features() -> None:
    width = sum(NETWORK["layers"].values())
    other = {**NETWORK, "model": "another"}
    check_about({**WHOLE, "backbones": [NETWORK, other], "width": 2 * width})
    assert refused({**WHOLE, "backbones": [NETWORK, NETWORK], "width": 2 * width})
    assert refused({**WHOLE, "backbones": [NETWORK, other], "width": width})
    wrong: Any
    for wrong in (None, [], 3, "text"):
        assert refused(wrong)
