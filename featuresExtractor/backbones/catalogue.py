"""The table of backbones as a person reads it: `--list-models`."""

from __future__ import annotations

from featuresExtractor.backbones.weights.fetch import on_this_machine, place
from featuresExtractor.models import BACKBONES, Backbone

HEADER = ("model", "family", "layers", "width", "input", "weights from", "here", "licence")


def listing() -> list[list[str]]:
    """Return the table's rows as text, under `HEADER`; `here` says whether the weights are on this machine."""
    return [_row(model) for model in BACKBONES]


def _row(model: Backbone) -> list[str]:
    here = "yes" if on_this_machine(model) else "no"
    size = f"{model.preprocessing.crop} px"
    layers, source = " ".join(model.layers), place(model.weights)
    return [model.name, model.family, layers, f"{model.width:,}", size, source, here, model.licence]
