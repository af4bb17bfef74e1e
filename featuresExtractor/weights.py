"""A row of the table of models -> a frozen network with its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.archives import check_archive
from common.errors import InputError, listed
from common.files import sha256
from common.resources import available_memory
from featuresExtractor.download import check_fetched, revision
from featuresExtractor.fetch import pretrained_file
from featuresExtractor.libraries import build, skeleton
from featuresExtractor.models import Model

if TYPE_CHECKING:
    from collections.abc import Mapping


SIZED = b"bytearray"


@dataclass(frozen=True)
class Weights:
    """Where a network's weights come from: a file and its SHA-256, or a seed for random ones."""

    origin: str
    sha256: str | None = None
    seed: int | None = None
    file: Path | None = field(default=None, compare=False)

    @property
    def identity(self) -> dict[str, str | int | None]:
        """What tells these weights from others, whatever their file is called."""
        return {"sha256": self.sha256, "seed": self.seed}


def find_weights(model: Model, weights: str | None = None, seed: int = 0) -> Weights:
    """The weights asked for, without building the network.

    `weights` is None for the pretrained ones, a path for a local file, `random` for torch's initialisation from `seed`.
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


def load_backbone(model: Model, weights: Weights) -> nn.Module:
    """The network of `model` with these weights, in eval mode and fp32, without gradients.

    Weights must fit to the last tensor: what is missing, unexpected or of another shape is named by an InputError.
    """
    _check_memory(model, copies=2 if weights.file else 1)
    if weights.file is None:
        return _frozen(random_network(model, weights.seed or 0))
    tensors = read_tensors(weights.file)
    backbone = random_network(model, 0)
    fill(backbone, tensors, weights.file)
    return _frozen(backbone)


def _check_memory(model: Model, copies: int) -> None:
    """InputError where the weights do not fit: the system would end the program without a word."""
    towers = 2 if model.library == "open_clip" else 1  # a text tower is read and built with the visual one
    needed = towers * copies * sum(weight.nbytes for weight in skeleton(model).parameters())
    if needed > (there := available_memory()):
        raise InputError(
            f"{model.name}: its weights need {needed / 2**30:.1f} GiB of memory while they are loaded, "
            f"{there / 2**30:.1f} GiB are free"
        )


def _frozen(backbone: nn.Module) -> nn.Module:
    return backbone.eval().requires_grad_(False)


def random_network(model: Model, seed: int) -> nn.Module:
    """The network with random weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(model)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors or .pt file (read with weights_only, so that nothing in it is executed)."""
    check_archive(path)
    _check_sizes(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file from elsewhere can fail in any way
        raise InputError(
            f"{path}: not a safetensors file or a plain state dict ({type(error).__name__}); "
            "a TorchScript archive must be saved again as a state dict"
        ) from error
    return _state_dict(content, path)


def _check_sizes(path: Path) -> None:
    """InputError for a pickle that makes a `bytearray`: torch admits it, a number says how long it is, and no file of
    weights has one."""
    if path.suffix == ".safetensors" or not path.is_file():
        return
    before = b""
    with path.open("rb") as file:
        while chunk := file.read(2**24):
            if SIZED in before + chunk:
                raise InputError(f"{path}: asks for memory by a number ({SIZED.decode()}); not a plain state dict")
            before = chunk[-len(SIZED) :]


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: the dict itself, or what it keeps under `state_dict`."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds {type(content).__name__}, not a state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def fill(backbone: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies `tensors` into `backbone`, all of them and nothing else.

    Files from before torch 0.4.1 do not have BatchNorm's count of batches, which nothing is computed with.
    """
    wanted = backbone.state_dict()
    counts = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    given = counts | _same_order(_first_densenet(_visual_part(tensors)), wanted)
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or unexpected:
        faults = [
            f"{kind}: {listed(names, 3)}" for kind, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        raise InputError(f"{path}: these weights do not fit the network; {'; '.join(faults)}")
    for name, tensor in wanted.items():
        if tensor.shape != given[name].shape:
            found, expected = tuple(given[name].shape), tuple(tensor.shape)
            raise InputError(f"{path}: these weights do not fit the network; {name} is {found}, expected {expected}")
    backbone.load_state_dict(given)


def _visual_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a whole CLIP checkpoint the visual tower alone; anything else as it is."""
    prefix = "visual."
    visual = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return visual or dict(tensors)


def _first_densenet(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of torchvision's DenseNets, whose files have `norm.1` where the networks have `norm1`."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(?=\d\.)", r"\1", name): value for name, value in tensors.items()}


def _same_order(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of EfficientNet's first PyTorch port, whose names differ from timm's but whose order and
    shapes are the same to the last one."""
    ported = "_conv_stem.weight" in tensors and "conv_stem.weight" in wanted
    if not ported or [t.shape for t in tensors.values()] != [t.shape for t in wanted.values()]:
        return tensors
    return dict(zip(wanted, tensors.values(), strict=True))
