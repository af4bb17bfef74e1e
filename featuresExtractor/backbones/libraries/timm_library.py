"""Networks of timm: `timm/NAME[.TAG]`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from common.errors import InputError
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.library import Library, check_known, check_tag, known_interpolation
from featuresExtractor.transforms import Preprocessing

if TYPE_CHECKING:
    from torch import nn


class Timm(Library):
    """timm: the tag decides on the weights, the number of classes and how images are prepared."""

    address = "timm/NAME[.TAG]"

    def build(self, backbone: Backbone) -> nn.Module:
        """Return the network, with its classifier unless the row's options say otherwise."""
        import timm

        create: Any = timm.create_model
        network: nn.Module = create(_name(backbone), pretrained=False, **backbone.options)
        return network

    def describe(self, address: str, name: str) -> Backbone:
        """Return the backbone of `ARCHITECTURE[.TAG]`; without a tag timm's own choice."""
        import timm

        architecture, _, tag = name.partition(".")
        check_known(address, architecture, timm.list_models(), "architecture of timm")
        if tag:
            check_tag(address, tag, [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{architecture}.*")])
        config: Any = timm.get_pretrained_cfg(name)
        file = config.hf_hub_filename or "model.safetensors"
        weights = f"hub:{config.hf_hub_id}/{file}" if config.hf_hub_id else str(config.url or "")
        images = preprocessing(address, config.to_dict())
        return Backbone(
            name=address, library="timm", architecture=architecture, tag=tag, weights=weights, preprocessing=images
        )

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each architecture with its tags."""
        import timm

        for name in timm.list_models():
            own = str(timm.get_pretrained_cfg_value(name, "tag") or "")
            tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{name}.*")]
            yield from ((name, tag) for tag in sorted(tags, key=lambda tag: tag != own))

    def default_layers(self, backbone: Backbone, network: nn.Module) -> list[str]:
        """Return the layers of timm's feature interface."""
        return feature_layers(_name(backbone))


def _name(backbone: Backbone) -> str:
    """`architecture.tag`, as timm takes it."""
    return f"{backbone.architecture}.{backbone.tag}" if backbone.tag else backbone.architecture


def feature_layers(name: str) -> list[str]:
    """Return the layers of `timm.create_model(name, features_only=True)`; InputError where it has none."""
    import timm
    import torch

    try:
        with torch.device("meta"):
            network: Any = timm.create_model(name, features_only=True)
        return list(network.feature_info.module_name())
    except RuntimeError as error:
        raise InputError(f"timm/{name}: timm names no stages of it; name layers with --layers") from error


def preprocessing(address: str, config: Mapping[str, Any]) -> Preprocessing:
    """Return how timm prepares images for evaluation: the crop is `crop_pct` of the resized image."""
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
    interpolation = known_interpolation(address, data["interpolation"])
    return Preprocessing(resize, size, interpolation, data["mean"], data["std"], squash)
