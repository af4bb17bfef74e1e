"""The table of libraries that build backbones, and a backbone -> its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.errors import InputError
from featuresExtractor.backbones.libraries.facenet_library import Facenet
from featuresExtractor.backbones.libraries.library import Library
from featuresExtractor.backbones.libraries.open_clip_library import OpenClip
from featuresExtractor.backbones.libraries.timm_library import Timm
from featuresExtractor.backbones.libraries.torchvision_library import Torchvision

if TYPE_CHECKING:
    from torch import nn

    from featuresExtractor.backbones.backbone import Backbone

LIBRARIES: dict[str, Library] = {
    "timm": Timm(),
    "open_clip": OpenClip(),
    "torchvision": Torchvision(),
    "facenet_pytorch": Facenet(),
}


def with_addresses() -> dict[str, Library]:
    """Return the libraries whose networks a user can name by an address."""
    return {name: library for name, library in LIBRARIES.items() if library.address}


def addresses_text() -> str:
    """Return how networks without a row are named: `timm/NAME[.TAG], ... or torchvision/NAME[.TAG]`."""
    *others, last = (library.address for library in with_addresses().values())
    return f"{', '.join(others)} or {last}"


def build(backbone: Backbone) -> nn.Module:
    """Return the network of `backbone`, its weights drawn from torch's generator; InputError where it cannot be built.

    On the meta device a RuntimeError is raised as it is: some networks compute with weights while they are built."""
    import torch

    library = LIBRARIES[backbone.library]
    try:
        return library.build(backbone)
    except RuntimeError as error:  # of a library that misses something, or finds no memory
        if torch.empty(0).is_meta:
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{backbone.name}: {backbone.library} cannot build it here: {reason}") from error
    except ImportError as error:
        command = library.install or f"pip install {error.name}"
        raise InputError(f"{backbone.name}: needs the package {error.name}: {command}") from error


def skeleton(backbone: Backbone) -> nn.Module:
    """Return the network without memory for its weights, in eval mode: for shapes and names alone.

    A few networks compute with weights while they are built; those are built whole.
    """
    import torch

    try:
        with torch.device("meta"):
            return build(backbone).eval()
    except (NotImplementedError, RuntimeError):
        return build(backbone).eval()
