"""What the description of a similarity must hold, and of which types. It is untrusted: nothing in it is used before it
is checked here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import printable
from common.machine.device import TYPES

Check = Callable[[Any], bool]
FORMAT = 1
LONGEST = 1000  # characters of a name
MOST_WIDTH = 2**24  # dimensions
MOST = 2**53  # of what is counted: so far JSON is exact everywhere
MOST_NETWORKS = 100
DIGEST = re.compile(r"[0-9a-f]{64}")


def text(value: Any) -> bool:
    """Whether a value is a text of reasonable length, without characters that could rewrite a terminal."""
    return isinstance(value, str) and len(value) <= LONGEST and value.isprintable()


def digest(value: Any) -> bool:
    """Whether a value is a SHA-256."""
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def whole(least: int = 0, most: int = MOST) -> Check:
    """Return whether a value is a whole number in these bounds."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def finite(value: Any) -> bool:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -1e300 < value < 1e300 and math.isfinite(value)


def mapping(value: Any) -> bool:
    """Whether a value is a JSON object."""
    return isinstance(value, dict)


def none_or(check: Check) -> Check:
    """Return whether a value is none, or passes a check."""
    return lambda value: value is None or check(value)


def of(check: Check) -> Check:
    """Return whether a value is a JSON object of texts to values that pass a check."""
    return lambda value: isinstance(value, dict) and all(map(text, value)) and all(map(check, value.values()))


NETWORK: dict[str, Any] = {
    "model": text,
    "network": mapping,
    "layers": of(whole(1, MOST_WIDTH)),
    "weights": {"sha256": none_or(digest), "seed": none_or(whole())},
    "preprocess": text,
    "preprocessing": mapping,
    "pooling": text,
    "tokens": {"pooled": ("class", "mean").__contains__, "not of the picture": whole(0, MOST_WIDTH)},
    "precision": lambda value: text(value) and value in TYPES,
}
"""What is kept of a network: what its features depend on (`featuresExtractor.recorded.network_settings`)."""
NAMED: Mapping[str, Any] = {"name": text, "sha256": none_or(digest)}
ABOUT: Mapping[str, Any] = {
    "format": whole(FORMAT, FORMAT),
    "gap": text,
    "width": whole(1, MOST_WIDTH),
    "head": NAMED,
    "loss": NAMED,
    "logit_scale": finite,
    "settings": mapping,
    "pairs": {"count": whole(), "sha256": digest},
    "metrics": mapping,
    "calibration": {"partners": whole(), "strangers": whole()},
    "versions": of(text),
}
PCA: Mapping[str, Any] = {"fitted": text, "sha256": digest, "components": whole(1, MOST_WIDTH)}
WEIGHTS_ORIGIN = "weights_origin"


def wrong(value: Any, expected: Mapping[str, Any], place: str = "") -> str | None:
    """Return the first field that a value lacks or has of another type or out of bounds; None where all are right."""
    if not isinstance(value, dict):
        return place or "description"
    for name, check in expected.items():
        inner = f"{place} {name}".strip()
        if name not in value:
            return inner
        if isinstance(check, Mapping):
            if found := wrong(value[name], check, inner):
                return found
        elif not check(value[name]):
            return inner
    return None


def _disagreeing(networks: list[Mapping[str, Any]], width: int) -> str | None:
    """The field in which networks are one twice, or give other dimensions than `width` when side by side."""
    if any(network in networks[:number] for number, network in enumerate(networks)):
        return "backbones"
    return "width" if networks and sum(sum(each["layers"].values()) for each in networks) != width else None


def check_about(about: Any) -> None:
    """ValueError for a description that is not as `learned_of` makes it, which names the field."""
    name = wrong(about, ABOUT)
    if name is None and not (isinstance(about.get("backbones"), list) and len(about["backbones"]) <= MOST_NETWORKS):
        name = "backbones"
    if name is None:
        network = NETWORK | {WEIGHTS_ORIGIN: text}
        parts = (wrong(each, network, f"backbones {number}") for number, each in enumerate(about["backbones"], 1))
        name = next(filter(None, parts), None)
    if name is None and ("pca" not in about or about["pca"] is not None):
        name = wrong(about.get("pca"), PCA, "pca")
    if name is None:
        name = _disagreeing(about["backbones"], about["width"])
    if name is not None:
        raise ValueError(f"its field '{printable(name)}' is missing, of another type or out of bounds")
