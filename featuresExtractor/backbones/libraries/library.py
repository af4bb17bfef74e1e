"""What is asked of a library that builds backbones, and what the descriptions of its networks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from common.errors import InputError, listed, nearest
from featuresExtractor.transforms import INTERPOLATION

if TYPE_CHECKING:
    from torch import nn

    from featuresExtractor.backbones.backbone import Backbone


class Library:
    """A library that builds backbones: a subclass, and a line in `table.LIBRARIES`. `build` is all that must be given.

    Methods import the library when they are called. A library with an `address` also has `describe` and `names`.
    """

    address = ""  # how a user names its networks: `timm/NAME[.TAG]`; empty where only rows of the table name them
    separator = "."  # between architecture and tag in an address
    towers = 1  # that are built, where only one of them is used: they take memory
    install = ""  # what to do when the library is missing, where `pip install PACKAGE` is not enough
    cache = ""  # the folder in torch's home where it keeps the weights of a URL; empty for torch's own

    def build(self, backbone: Backbone) -> nn.Module:
        """Return the network of `backbone`, its weights drawn from torch's generator."""
        raise NotImplementedError

    def describe(self, address: str, name: str) -> Backbone:
        """Return the backbone at `address`, without its layers; `name` is what follows the library in the address.

        InputError for a name that leads nowhere."""
        raise NotImplementedError

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield architecture and tag of all networks with pretrained weights, the library's own choice of tag first."""
        yield from ()

    def default_layers(self, backbone: Backbone, network: nn.Module) -> list[str]:
        """Return the layers that the library itself names; none where it names none."""
        return []


def check_known(address: str, name: str, names: Sequence[str], what: str) -> None:
    """InputError where `name` is none of `names`."""
    if name not in names:
        raise InputError(f"{address}: no {what} '{name}'{nearest(name, names)} {len(names):,} are there")


def check_tag(address: str, tag: str, tags: Sequence[str]) -> None:
    """InputError where `tag` is none of `tags`."""
    if tag not in tags:
        existing = f"there are: {listed(sorted(tags), 20)}" if tags else "there are none"
        raise InputError(f"{address}: no weights tagged '{tag}'; {existing}")


def known_interpolation(address: str, name: str) -> str:
    """Return `name`; InputError where it is no interpolation that images are resized by here."""
    if name not in INTERPOLATION:
        raise InputError(f"{address}: resizes by {name}; {', '.join(INTERPOLATION)} are supported")
    return name
