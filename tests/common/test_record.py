"""What differs between recorded settings and those asked for, beside sentences written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.record import differences

ASKED = {"settings": {"temperature": 15.0, "ks": (1, 3)}, "number of runs": 5, "weights": {"sha256": "ab" * 32}}
RECORDED: dict[str, Any] = json.loads(json.dumps(ASKED))


def test_the_same_settings_differ_in_nothing() -> None:
    assert differences(RECORDED, ASKED) == []
    assert differences({**RECORDED, "more": 1}, ASKED) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"number of runs": 8}, ["number of runs: 5 there, 8 asked"]),
        ({"settings": {"temperature": 5.0, "ks": (1, 3)}}, ["temperature: 15.0 there, 5.0 asked"]),
        (
            {"settings": {"temperature": 5.0, "ks": (1,)}},
            ["temperature: 15.0 there, 5.0 asked", "ks: [1, 3] there, [1] asked"],
        ),
        ({"weights": {"sha256": "cd" * 32}}, ["weights sha256: abababab there, cdcdcdcd asked"]),
        ({"weights": {"seed": 0}}, ["weights seed: none there, 0 asked", "weights sha256: abababab there, none asked"]),
        ({"device": "cpu"}, ["device: none there, cpu asked"]),
        ({"settings": "x" * 70}, ['settings: {"temperature": 15.0, "ks": [1, 3]} there, ' + "x" * 57 + "... asked"]),
    ],
)
def test_what_differs_is_named_with_both_values(change: dict[str, Any], expected: list[str]) -> None:
    assert differences(RECORDED, {**ASKED, **change}) == expected
