"""The libraries that build networks: a row of the table -> a network, and the address of any network -> a row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from common.errors import InputError, listed, nearest
from featuresExtractor.backbones.suggestions import did_you_mean
from featuresExtractor.models import ADDRESSES, CLIP_MEAN, CLIP_STD, Model
from featuresExtractor.transforms import INTERPOLATION, Preprocessing


def build(model: Model) -> nn.Module:
    """The network of `model`, its weights drawn from torch's generator; where nothing can be built, InputError."""
    try:
        return BUILDERS[model.library](model)
    except RuntimeError as error:  # of a library that misses something, or finds no memory
        if torch.empty(0).is_meta:
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{model.name}: {model.library} cannot build it here: {reason}") from error
    except ImportError as error:
        of_facenet = "pip install requests && pip install --no-deps facenet-pytorch"
        wanted = of_facenet if model.library == "facenet_pytorch" else f"pip install {error.name}"
        raise InputError(f"{model.name}: needs the package {error.name}: {wanted}") from error


def skeleton(model: Model) -> nn.Module:
    """The network without memory for its weights, in eval mode: for shapes and names alone.

    A few networks compute with weights while they are built; those are built whole.
    """
    try:
        with torch.device("meta"):
            return build(model).eval()
    except (NotImplementedError, RuntimeError):
        return build(model).eval()


def _build_timm(model: Model) -> nn.Module:
    import timm

    create: Any = timm.create_model
    network: nn.Module = create(timm_name(model), pretrained=False, **model.options)
    return network


def timm_name(model: Model) -> str:
    """`architecture.tag`, as timm takes it: the tag decides on the number of classes."""
    return f"{model.architecture}.{model.tag}" if model.tag else model.architecture


def _build_torchvision(model: Model) -> nn.Module:
    from torchvision.models import get_model

    network: nn.Module = get_model(model.architecture, weights=None, **model.options)
    return network


def _build_open_clip(model: Model) -> nn.Module:
    """The visual tower, with the activation that the weights were trained with. The library builds the text tower
    with it, which is let go."""
    import open_clip

    device = torch.empty(0).device  # the library would move what is built on the meta device to the CPU
    quick = open_clip.get_pretrained_cfg(model.architecture, model.tag).get("quick_gelu", False)
    with _quiet():
        whole = open_clip.create_model(
            model.architecture, load_weights=False, pretrained_text=False, force_quick_gelu=quick, device=device
        )
    visual: nn.Module = whole.visual
    return visual


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the weights are random: they are filled, or asked to be so."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _build_facenet(model: Model) -> nn.Module:
    import facenet_pytorch

    network: nn.Module = getattr(facenet_pytorch, model.architecture)(**model.options)
    return network


BUILDERS: dict[str, Callable[[Model], nn.Module]] = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "open_clip": _build_open_clip,
    "facenet_pytorch": _build_facenet,
}


def describe(address: str) -> Model:
    """The row of a network that has none, without its layers: `timm/NAME[.TAG]`, `open_clip/ARCH/TAG` or
    `torchvision/NAME[.TAG]`. InputError for an address that leads nowhere."""
    library, _, rest = address.partition("/")
    if library not in DESCRIBERS or not rest:
        near = nearest(library, list(DESCRIBERS))
        meant = did_you_mean(rest) if near == ";" and library else near
        raise InputError(f"unknown model '{address}'{meant} addresses are {ADDRESSES}")
    return DESCRIBERS[library](address, rest)


def _row(
    address: str,
    library: str,
    architecture: str,
    tag: str,
    weights: str,
    images: Preprocessing,
    options: Mapping[str, object] | None = None,
) -> Model:
    return Model(
        address, library, library, architecture, tag, weights, {}, images, "", library, options or {}, paper=False
    )


def _known(address: str, name: str, names: Sequence[str], what: str) -> None:
    if name not in names:
        raise InputError(f"{address}: no {what} '{name}'{nearest(name, names)} {len(names):,} are there")


def _known_tag(address: str, tag: str, tags: Sequence[str]) -> None:
    if tag not in tags:
        there = f"there are: {listed(sorted(tags), 20)}" if tags else "there are none"
        raise InputError(f"{address}: no weights tagged '{tag}'; {there}")


def _describe_timm(address: str, name: str) -> Model:
    import timm

    architecture, _, tag = name.partition(".")
    _known(address, architecture, timm.list_models(), "architecture of timm")
    if tag:
        _known_tag(address, tag, [one.partition(".")[2] for one in timm.list_pretrained(f"{architecture}.*")])
    config: Any = timm.get_pretrained_cfg(name)
    file = config.hf_hub_filename or "model.safetensors"
    weights = f"hub:{config.hf_hub_id}/{file}" if config.hf_hub_id else str(config.url or "")
    return _row(address, "timm", architecture, tag, weights, _timm_images(address, config.to_dict()))


def _timm_images(address: str, config: Mapping[str, Any]) -> Preprocessing:
    """timm's evaluation: the crop is `crop_pct` of the resized image."""
    import timm.data

    resolve: Any = timm.data.resolve_data_config  # type: ignore[attr-defined]
    data = resolve({}, pretrained_cfg=dict(config))
    size, modes = data["input_size"][-1], {"center": False, "squash": True}
    if data["crop_mode"] not in modes or data["input_size"] != (3, size, size):
        raise InputError(
            f"{address}: takes images of {data['input_size']}, mode {data['crop_mode']}; only square ones of three "
            "channels, center or squash, are supported"
        )
    resize, squash = math.floor(size / data["crop_pct"]), modes[data["crop_mode"]]
    return Preprocessing(
        resize, size, _interpolation(address, data["interpolation"]), data["mean"], data["std"], squash
    )


def _interpolation(address: str, name: str) -> str:
    if name not in INTERPOLATION:
        raise InputError(f"{address}: resizes by {name}; {', '.join(INTERPOLATION)} are supported")
    return name


def _describe_open_clip(address: str, rest: str) -> Model:
    import open_clip

    architecture, _, tag = rest.partition("/")
    _known(address, architecture, open_clip.list_models(), "architecture of open_clip")
    _known_tag(address, tag, open_clip.list_pretrained_tags_by_model(architecture))
    config = open_clip.get_pretrained_cfg(architecture, tag)
    repository, _, file = (config.get("hf_hub") or "").rpartition("/")
    hub = f"hub:{repository}/{file or 'open_clip_model.safetensors'}"
    weights = hub if repository else config.get("url", "")
    return _row(address, "open_clip", architecture, tag, weights, _open_clip_images(address, architecture, config))


def _open_clip_images(address: str, architecture: str, config: Mapping[str, Any]) -> Preprocessing:
    import open_clip

    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
    modes = {"shortest": False, "squash": True}
    mode = config.get("resize_mode", "shortest")
    if mode not in modes or not isinstance(size, int):
        raise InputError(
            f"{address}: takes images of {size} pixels, mode {mode}; only square ones, shortest or squash, "
            "are supported"
        )
    interpolation = _interpolation(address, config.get("interpolation", "bicubic"))
    mean, std = config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)
    return Preprocessing(size, size, interpolation, tuple(mean), tuple(std), modes[mode])


def _describe_torchvision(address: str, name: str) -> Model:
    import torchvision.models
    from torchvision.models import get_model_weights, list_models

    architecture, _, tag = name.partition(".")
    _known(address, architecture, list_models(module=torchvision.models), "classification network of torchvision")
    found: Any = get_model_weights(architecture)
    if tag:
        _known_tag(address, tag, list(found.__members__))
    weights = found[tag] if tag else found.DEFAULT
    own = weights.transforms()
    images = Preprocessing(
        own.resize_size[0],
        own.crop_size[0],
        _interpolation(address, own.interpolation.value),
        tuple(own.mean),
        tuple(own.std),
    )
    options = _torchvision_options(architecture, images.crop)
    return _row(address, "torchvision", architecture, weights.name, weights.url, images, options)


def _torchvision_options(architecture: str, size: int) -> dict[str, object]:
    """What torchvision sets by itself when it loads pretrained weights."""
    if architecture in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": size} if architecture.startswith("vit_") else {}


DESCRIBERS: dict[str, Callable[[str, str], Model]] = {
    "timm": _describe_timm,
    "open_clip": _describe_open_clip,
    "torchvision": _describe_torchvision,
}
