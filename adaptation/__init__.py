"""Features -> a similarity: a small head that learns from pairs what people see as alike.

`data` finds and lays out the features, `heads`, `losses` and `metrics` are what is learned and measured, `trainer` runs
the epochs, `memory` says how many runs go at once, `reporting` writes runs and comparisons, `experiment` is the whole.
`similarity` uses what was learned.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptation.similarity.pair_adapter import PairAdapter as PairAdapter
    from adaptation.similarity.similarity import Similarity as Similarity

EXPORTS = {
    "PairAdapter": "adaptation.similarity.pair_adapter",
    "Similarity": "adaptation.similarity.similarity",
}
"""What `from adaptation import ...` gives, each from its module, which is imported when it is first asked for: torch
takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'adaptation' has no attribute '{name}'")
    return getattr(import_module(EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})
