"""Which layers of a network are read: what a user names, what the library names, and what shapes they have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from common.errors import InputError, nearest
from featuresExtractor.backbones.activations import channels
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.table import LIBRARIES, addresses_text, skeleton, with_addresses
from featuresExtractor.backbones.suggestions import did_you_mean
from featuresExtractor.models import find_model

Shapes = Mapping[str, tuple[int, ...] | None]
CLIP_RESNET = ("layer1", "layer2", "layer3", "layer4", "attnpool")
CONTAINERS = ("features.", "blocks.", "trunk_output.")  # in which torchvision's networks keep their stages
LAST_BLOCKS = 3  # of a transformer, as timm's feature interface has it


def resolve(name: str, patterns: Sequence[str] = (), tokens: str | None = None) -> Backbone:
    """Return the row or the address `name`, with the layers that `patterns` name.

    Without patterns a row has its own layers, and any other network the stages that its library's feature interface
    names. `tokens` (`class` or `mean`) overrides how the network itself pools its tokens.
    """
    model = named(name)
    if not model.layers or patterns:
        network = skeleton(model)
        shapes = output_shapes(model, network)
        chosen = matching(model, patterns, shapes) if patterns else default_layers(model, network, shapes)
        read = {layer: _shape_of(model, layer, shapes) for layer in chosen}
        layers = {layer: channels(shape) for layer, shape in read.items()}
        model = with_tokens(replace(model, layers=layers), network, read)
    if tokens == "class" and not model.prefix:
        raise InputError(f"{name}: has no class token; --tokens mean is possible")
    return replace(model, tokens=tokens) if tokens else model


def with_tokens(model: Backbone, network: nn.Module, read: Mapping[str, tuple[int, ...]]) -> Backbone:
    """The model with its tokens pooled: the class token where the network itself looks at that alone, else the mean of
    its patches' tokens, without class token and registers.

    Some networks add their class token late. InputError when some of the layers `read` (and their shapes) have it
    and others do not.
    """
    trunk = getattr(network, "trunk", network)
    prefix = getattr(trunk, "num_prefix_tokens", None)
    if prefix is None:
        prefix = int(any(hasattr(trunk, name) for name in ("class_embedding", "class_token")))
    counts = {layer: shape[0] for layer, shape in read.items() if len(shape) == 2}
    bare = [layer for layer, count in counts.items() if _is_square(count) and not _is_square(count - prefix)]
    if bare and len(bare) < len(counts):
        other = next(layer for layer in counts if layer not in bare)
        raise InputError(
            f"{model.name}: layer {bare[0]} seems to have no class token yet, and {other} has one; tap them apart with "
            "--layers"
        )
    prefix = 0 if bare else prefix
    pool = getattr(trunk, "global_pool", None) or getattr(trunk, "pool_type", "token")
    return replace(model, tokens="class" if prefix and pool in ("token", "tok") else "mean", prefix=prefix)


def _is_square(count: int) -> bool:
    """Whether so many tokens are the patches of a square image, and no others."""
    return count >= 0 and math.isqrt(count) ** 2 == count


@torch.inference_mode()
def output_shapes(model: Backbone, network: nn.Module) -> Shapes:
    """What each module of a skeleton gives one image, in the order in which they end: `{path: (C, H, W)}`.

    None stands for what cannot be read: several tensors, or one whose first size is not the number of images.
    """
    shapes: dict[str, tuple[int, ...] | None] = {}

    def note(path: str, output: object) -> None:
        whole = isinstance(output, Tensor) and output.ndim > 1 and output.shape[0] == 2
        shapes[path] = tuple(output.shape[1:]) if whole and isinstance(output, Tensor) else None

    for path, module in network.named_modules():
        if path:
            module.register_forward_hook(lambda _module, _inputs, output, path=path: note(path, output))
    size = model.preprocessing.crop
    network(torch.zeros(2, 3, size, size, device=next(network.parameters()).device))
    return shapes


def _shape_of(model: Backbone, layer: str, shapes: Shapes) -> tuple[int, ...]:
    if (shape := shapes.get(layer)) is None:  # no module of that name, which some of timm's stages are, or no tensor
        raise InputError(
            f"{model.name}: layer {layer} does not give one tensor an image; name another (extract.py --list-layers)"
        )
    return shape


def matching(model: Backbone, patterns: Sequence[str], shapes: Shapes) -> list[str]:
    """The module paths that `patterns` name, in their order; `*` stands for any part between two dots."""
    chosen: dict[str, None] = {}
    for pattern in patterns:
        paths = [path for path in shapes if _matches(path, pattern)]
        if not paths:
            raise InputError(
                f"{model.name}: no layer '{pattern}'{nearest(pattern, list(shapes))} "
                f"extract.py --list-layers {model.name} shows all"
            )
        chosen |= dict.fromkeys(paths)
    return list(chosen)


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def default_layers(backbone: Backbone, network: nn.Module, shapes: Shapes) -> list[str]:
    """Return the layers that the library itself names; where it names none, a transformer's last blocks or the last
    module of each resolution."""
    if layers := LIBRARIES[backbone.library].default_layers(backbone, network):
        return layers
    if shapes.keys() >= set(CLIP_RESNET):
        return list(CLIP_RESNET)
    blocks = [path for path in shapes if _is_block(path)]
    return blocks[-LAST_BLOCKS:] or list(_last_of_each_size(shapes))


def _is_block(path: str) -> bool:
    """Whether `path` is a block of one of open_clip's or torchvision's vision transformers."""
    return any(_matches(path, pattern) for pattern in ("transformer.resblocks.*", "encoder.layers.*"))


def _last_of_each_size(shapes: Shapes) -> Iterator[str]:
    """Of the outermost modules, or those one deeper in a container, that give maps, the last of each size."""
    outer = [path for path in shapes if path.count(".") == path.startswith(CONTAINERS)]
    last: dict[int, str] = {}
    for path in outer:
        shape = shapes[path]
        if f"{path}." not in CONTAINERS and shape and len(shape) == 3 and shape[1] > 1:
            last[shape[1]] = path  # a height or width, wherever the channels are
    yield from last.values()


def listing(name: str) -> list[list[str]]:
    """A row for each module: its path and the shape that it gives one image at the model's input size."""
    model = named(name)
    network = skeleton(model)
    shapes = output_shapes(model, network)
    own = set(model.layers or default_layers(model, network, shapes))
    return [
        [path, " x ".join(map(str, shape)) if shape else "-", "tapped" if path in own else ""]
        for path, shape in shapes.items()
    ]


def named(name: str) -> Backbone:
    """Return the row of that name, or of that address."""
    return describe(name) if "/" in name else find_model(name)


def describe(address: str) -> Backbone:
    """Return the backbone at `LIBRARY/NAME`, without its layers; InputError for an address that leads nowhere."""
    library, _, name = address.partition("/")
    libraries = with_addresses()
    if library not in libraries or not name:
        near = nearest(library, list(libraries))
        meant = did_you_mean(name) if near == ";" and library else near
        raise InputError(f"unknown model '{address}'{meant} addresses are {addresses_text()}")
    return libraries[library].describe(address, name)
