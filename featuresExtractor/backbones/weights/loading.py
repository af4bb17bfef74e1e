"""A row of the table of models -> a frozen network with its weights."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError, listed, printable
from common.machine.resources import available_memory, require_memory
from common.storage.files import sha256
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.table import LIBRARIES, build, skeleton
from featuresExtractor.backbones.weights.checkpoints import read_state_dicts, read_tensors
from featuresExtractor.backbones.weights.download import check_fetched, revision
from featuresExtractor.backbones.weights.fetch import pretrained_file
from featuresExtractor.backbones.weights.fitting import Fit, fit
from featuresExtractor.backbones.weights.needs import needs

logger = logging.getLogger(__name__)

__all__ = ["Weights", "find_weights", "load_backbone", "random_network", "read_tensors"]


@dataclass(frozen=True)
class Weights:
    """Where a network's weights come from: a file and its SHA-256, or a seed for random ones.

    `load_backbone` notes in `read` what it took of the file: `under` which names, and by kind (`missing`, `other
    shape`, `extra`) the tensors that were `ignored`, since no activation depends on them.
    """

    origin: str
    sha256: str | None = None
    seed: int | None = None
    file: Path | None = field(default=None, compare=False)
    read: dict[str, object] = field(default_factory=dict, compare=False)

    @property
    def identity(self) -> dict[str, str | int | None]:
        """What tells these weights from others, whatever their file is called."""
        return {"sha256": self.sha256, "seed": self.seed}


def find_weights(model: Backbone, weights: str | os.PathLike[str] | None = None, seed: int = 0) -> Weights:
    """Return where the weights asked for are, without building the network.

    `weights` is None for the pretrained ones, a path for a local file, `random` for torch's initialisation from `seed`.
    Raises InputError for a file that is not there, and for pretrained weights that cannot be had.
    """
    if weights == "random":
        return Weights("random", seed=seed)
    path = pretrained_file(model) if weights is None else Path(weights)
    if not path.is_file():
        raise InputError(f"{path}: no weights file here; --weights takes a .safetensors or .pt file, or 'random'")
    digest = sha256(path)
    if weights:
        return Weights(path.name, sha256=digest, file=path)
    check_fetched(path, digest)
    return Weights(model.weights + revision(path), sha256=digest, file=path)


def load_backbone(model: Backbone, weights: Weights) -> nn.Module:
    """Return the network of `model` with these weights, in eval mode and fp32, without gradients.

    What the layers of `model` are computed with must match exactly (names and shapes); InputError names what is
    missing, unexpected or of another shape. What no layer depends on is ignored where it does not fit, listed on stderr
    and in `weights.read`. A file may keep the tensors under other names (`checkpoints.ORDER`) and prefixes.
    """
    bones = skeleton(model)
    _check_memory(model, bones, weights.file)
    if weights.file is None:
        return _frozen(random_network(model, weights.seed or 0))
    fitting = fit(read_state_dicts(weights.file), bones, needs(model, bones), weights.file)
    backbone = random_network(model, 0)
    _check_fixed(backbone, fitting, weights.file)
    backbone.load_state_dict(fitting.tensors, strict=False)
    weights.read.update(under=str(fitting.place), ignored=fitting.ignored)
    _note(fitting, weights.file)
    return _frozen(backbone)


def _note(fitting: Fit, path: Path) -> None:
    """Print which weights were taken where there is a choice, and what was ignored."""
    shown = printable(str(path))
    if fitting.others:
        others = listed(map(str, fitting.others), 5)
        logger.warning(f"note: {shown}: weights taken from {fitting.place}; the network is also in {others}")
    ignored = [f"{name} ({kind})" for kind, names in fitting.ignored.items() for name in names]
    if ignored:
        count = f"{len(ignored):,} tensor{'s' * (len(ignored) > 1)}"
        message = f"{count} ignored, on which the features do not depend"
        logger.warning(f"note: {shown}: {message}: {listed(ignored, 5)}")


def _check_fixed(backbone: nn.Module, fitting: Fit, path: Path) -> None:
    """InputError where the file holds other values than the network's own for what it computes by itself."""
    own = dict(backbone.named_buffers())
    for name, value in fitting.fixed.items():
        if not torch.equal(own[name].to(value.dtype), value):
            raise InputError(
                f"{path}: these weights do not fit the network; {name} has other values than the network's"
            )


def _check_memory(model: Backbone, bones: nn.Module, file: Path | None) -> None:
    """OutOfMemory where the memory does not hold the network and its file."""
    network = LIBRARIES[model.library].towers * sum(weight.nbytes for weight in bones.parameters())
    needed = network + (file.stat().st_size if file else 0)
    what = f"{model.name}: loading its weights takes"
    require_memory(needed, available_memory(), what, "free some, or take a smaller network")


def _frozen(backbone: nn.Module) -> nn.Module:
    return backbone.eval().requires_grad_(False)


def random_network(model: Backbone, seed: int) -> nn.Module:
    """The network with random weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model)
