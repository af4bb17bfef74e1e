"""Networks of facenet_pytorch, which have rows in the table and no addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featuresExtractor.backbones.libraries.library import Library

if TYPE_CHECKING:
    from torch import nn

    from featuresExtractor.backbones.backbone import Backbone


class Facenet(Library):
    """facenet_pytorch: its requirements are of old versions, so that it is installed without them."""

    install = "pip install requests && pip install --no-deps facenet-pytorch"
    cache = "checkpoints"

    def build(self, backbone: Backbone) -> nn.Module:
        """Return the network."""
        import facenet_pytorch

        network: nn.Module = getattr(facenet_pytorch, backbone.architecture)(**backbone.options)
        return network
