"""Visual towers of open_clip: `open_clip/ARCH/TAG`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.library import Library, check_known, check_tag, known_interpolation
from featuresExtractor.backbones.libraries.timm_library import feature_layers
from featuresExtractor.transforms import CLIP_MEAN, CLIP_STD, Preprocessing

if TYPE_CHECKING:
    from torch import nn


class OpenClip(Library):
    """open_clip: it builds the text tower with the visual one, which alone is used."""

    address = "open_clip/ARCH/TAG"
    separator = "/"
    towers = 2

    def build(self, backbone: Backbone) -> nn.Module:
        """Return the visual tower, with the activation function that the weights were trained with."""
        import open_clip
        import torch

        device = torch.empty(0).device  # the library would move what is built on the meta device to the CPU
        name, tag = backbone.architecture, backbone.tag
        quick = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
        with _quiet():
            towers = open_clip.create_model(
                name, load_weights=False, pretrained_text=False, force_quick_gelu=quick, device=device
            )
        visual: nn.Module = towers.visual
        return visual

    def describe(self, address: str, name: str) -> Backbone:
        """Return the backbone of `ARCHITECTURE/TAG`."""
        import open_clip

        architecture, _, tag = name.partition("/")
        check_known(address, architecture, open_clip.list_models(), "architecture of open_clip")
        check_tag(address, tag, open_clip.list_pretrained_tags_by_model(architecture))
        config = open_clip.get_pretrained_cfg(architecture, tag)
        repository, _, file = (config.get("hf_hub") or "").rpartition("/")
        hub = f"hub:{repository}/{file or 'open_clip_model.safetensors'}"
        weights = hub if repository else config.get("url", "")
        images = _preprocessing(address, architecture, config)
        return Backbone(
            name=address, library="open_clip", architecture=architecture, tag=tag, weights=weights, preprocessing=images
        )

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each architecture with its tags, OpenAI's first."""
        import open_clip

        yield from sorted(open_clip.list_pretrained(), key=lambda pair: pair[1] != "openai")

    def default_layers(self, backbone: Backbone, network: nn.Module) -> list[str]:
        """Return those of timm where the tower is one of timm's networks."""
        import open_clip

        if not hasattr(network, "trunk"):
            return []
        tower = open_clip.get_model_config(backbone.architecture)["vision_cfg"]["timm_model_name"]
        return [f"trunk.{layer}" for layer in feature_layers(tower)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that the weights are random: they are filled, or asked to be so."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _preprocessing(address: str, architecture: str, config: Mapping[str, Any]) -> Preprocessing:
    import open_clip

    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
    modes = {"shortest": False, "squash": True}
    mode = config.get("resize_mode", "shortest")
    if mode not in modes or not isinstance(size, int):
        raise InputError(
            f"{address}: takes images of {size} pixels, mode {mode}; only square ones, shortest or squash, "
            "are supported"
        )
    interpolation = known_interpolation(address, config.get("interpolation", "bicubic"))
    mean, std = config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)
    return Preprocessing(size, size, interpolation, tuple(mean), tuple(std), modes[mode])
