"""The networks of a similarity: from what is recorded of them to networks that give images the very same features."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adaptation.similarity.learned.origin import LOCAL, ORIGIN
from common.errors import InputError, listed, printable
from common.machine.device import precisions
from common.record import differences
from common.storage.files import sha256
from featuresExtractor.backbones.activations import LayerReader, pooling_of
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.inference import LAYOUTS, Forward
from featuresExtractor.backbones.layers import named, resolve
from featuresExtractor.backbones.weights.fetch import REVISION
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone
from featuresExtractor.images.settings import Decoding
from featuresExtractor.models import as_in_the_paper
from featuresExtractor.processor import PROCESSORS, Processor
from featuresExtractor.recorded import network_settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A backbone of a similarity with its weights, what becomes of its layers, and how images are decoded for it."""

    model: Backbone
    weights: Weights
    processor: Processor
    decoding: Decoding
    precision: str

    def forward(self, device: torch.device, batch: int) -> Forward:
        """Return the network on a device: pixels -> [features (1, N, D)]."""
        recipe = self.processor.recipe
        backbone = load_backbone(self.model, self.weights)
        reader = LayerReader(backbone, tuple(self.model.layers), pooling_of(recipe, self.model))
        layout = next(iter(LAYOUTS))  # the same in every process: another changes last digits
        return Forward(reader, self.model.preprocessing, 1, device, batch, precision=self.precision, layout=layout)


def find_networks(
    recorded: Sequence[Mapping[str, Any]], device: torch.device, weights: Sequence[str | Path] = ()
) -> list[Network]:
    """Return the networks that a similarity records, whose features go side by side.

    `weights` are local files, each for the network whose SHA-256 it has. InputError for weights that cannot be had, and
    where the network, its layers or its preprocessing are no longer those that are recorded.
    """
    files = own_files(recorded, weights)
    return [_find(each, device, files) for each in recorded]


def own_files(recorded: Sequence[Mapping[str, Any]], weights: Sequence[str | Path]) -> dict[str, Path]:
    """Return files of weights by their SHA-256; InputError where there are none, or where they are of none of the
    recorded networks."""
    files = {sha256(path): path for path in _existing(weights)}
    if others := [str(path) for digest, path in files.items() if digest not in _digests(recorded)]:
        wanted = listed(f"{digest[:8]}..." for digest in _digests(recorded))
        begins = f"whose SHA-256 begins with {wanted}" if wanted else "which are random"
        raise InputError(f"{listed(others)}: not the weights of this similarity, {begins}")
    return files


def _existing(weights: Sequence[str | Path]) -> list[Path]:
    paths = [Path(path) for path in weights]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise InputError(f"{listed(missing)}: no weights file here; --weights takes a .safetensors or .pt file")
    return paths


def _digests(recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(each["weights"]["sha256"]) for each in recorded if each["weights"].get("sha256")]


def _find(recorded: Mapping[str, Any], device: torch.device, files: Mapping[str, Path]) -> Network:
    """One network; all that is read of the record is compared with what this program makes of it."""
    name, precision = printable(recorded["model"]), recorded["precision"]
    try:
        model, processor, decoding = _model(recorded), _processor(recorded), _decoding(recorded)
        now = network_settings(model, recorded["weights"], processor.recipe.pooling, precision, decoding)
        differing = differences({key: recorded.get(key) for key in now}, now)
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(f"{name}: what the similarity records of this network cannot be understood") from error
    if differing:
        raise InputError(
            f"{name}: no longer the network that this similarity was trained with ({printable('; '.join(differing))}, "
            "where 'there' is the similarity and 'asked' this program)"
        )
    return Network(model, _weights(model, recorded, files), processor, decoding, _precision(name, precision, device))


def _model(recorded: Mapping[str, Any]) -> Backbone:
    """The backbone of this name or address with the layers, the tokens and the preprocessing that are recorded."""
    name, layers, pooled = recorded["model"], recorded["layers"], recorded["tokens"]["pooled"]
    row = named(name)
    if list(layers.items()) != list(row.layers.items()):
        row = resolve(name, list(layers))
    if pooled == "class" and not row.prefix:
        raise ValueError("a class token, which this network has not")
    model = replace(row, tokens=pooled)
    return as_in_the_paper(model) if recorded["preprocess"] == "paper" else model


def _processor(recorded: Mapping[str, Any]) -> Processor:
    """What becomes of the layers."""
    names = [name for name, row in PROCESSORS.items() if row.joined and row.pooling == recorded["pooling"]]
    return Processor(names[0])


def _decoding(recorded: Mapping[str, Any]) -> Decoding:
    preprocessing = recorded["preprocessing"]
    low, high = preprocessing.get("value_range") or (0.0, 1.0)
    if not (-math.inf < float(low) < float(high) < math.inf):
        raise ValueError("value_range")
    value_range = (float(low), float(high)) if preprocessing.get("value_range") else None
    return Decoding(value_range, "srgb" if preprocessing.get("color") == "srgb" else "stored")


def _weights(model: Backbone, recorded: Mapping[str, Any], files: Mapping[str, Path]) -> Weights:
    """The weights that are recorded: random ones, those of a local file, or those of the network's own source."""
    digest, seed = recorded["weights"]["sha256"], recorded["weights"]["seed"]
    if digest is None:
        return find_weights(model, "random", seed or 0)
    if digest in files:
        return find_weights(model, files[digest])
    if (origin := recorded[ORIGIN]) == LOCAL:
        raise InputError(
            f"{model.name}: its weights were a local file; give it with --weights FILE (in Python weights=FILE): its "
            f"SHA-256 begins with {digest[:8]}"
        )
    found = _fetched(model, origin.rpartition("@")[2])
    if found.sha256 != digest:
        raise InputError(
            f"{model.name}: other weights than this similarity was trained with: their SHA-256 begins with "
            f"{str(found.sha256)[:8]}, {digest[:8]} is expected; give these with --weights FILE (in Python "
            "weights=FILE)"
        )
    return found


def _fetched(model: Backbone, revision: str) -> Weights:
    """The weights from the network's own source, at the commit of the hub that is recorded."""
    try:
        return find_weights(replace(model, revision=revision) if REVISION.fullmatch(revision) else model)
    except InputError as error:
        raise InputError(f"{error} (in Python weights=FILE)") from error


def _precision(name: str, precision: str, device: torch.device) -> str:
    """The precision that is recorded, or fp32 where the device does not take it."""
    if precision in precisions(device):
        return precision
    logger.warning(
        f"note: {name}: its features were made in {precision}, which this device does not take; fp32 is used"
    )
    return "fp32"
