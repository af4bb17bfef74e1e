"""Classification networks of torchvision: `torchvision/NAME[.TAG]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.libraries.library import Library, check_known, check_tag, known_interpolation
from featuresExtractor.transforms import Preprocessing

if TYPE_CHECKING:
    from torch import nn


class Torchvision(Library):
    """torchvision: of several weights without a tag the library's own choice."""

    address = "torchvision/NAME[.TAG]"

    def build(self, backbone: Backbone) -> nn.Module:
        """Return the network with its classifier."""
        from torchvision.models import get_model

        network: nn.Module = get_model(backbone.architecture, weights=None, **backbone.options)
        return network

    def describe(self, address: str, name: str) -> Backbone:
        """Return the backbone of `NAME[.TAG]`."""
        import torchvision.models
        from torchvision.models import get_model_weights, list_models

        architecture, _, tag = name.partition(".")
        networks = list_models(module=torchvision.models)
        check_known(address, architecture, networks, "classification network of torchvision")
        tags: Any = get_model_weights(architecture)
        if tag:
            check_tag(address, tag, list(tags.__members__))
        weights = tags[tag] if tag else tags.DEFAULT
        images = _preprocessing(address, weights.transforms())
        return Backbone(
            name=address,
            library="torchvision",
            architecture=architecture,
            tag=weights.name,
            weights=weights.url,
            preprocessing=images,
            options=_options(architecture, images.crop),
        )

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield each network, with the library's own choice of weights."""
        import torchvision.models
        from torchvision.models import list_models

        yield from ((name, "") for name in list_models(module=torchvision.models))


def _preprocessing(address: str, own: Any) -> Preprocessing:
    interpolation = known_interpolation(address, own.interpolation.value)
    return Preprocessing(own.resize_size[0], own.crop_size[0], interpolation, tuple(own.mean), tuple(own.std))


def _options(architecture: str, size: int) -> dict[str, object]:
    """What torchvision sets by itself when it loads pretrained weights."""
    if architecture in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": size} if architecture.startswith("vit_") else {}
