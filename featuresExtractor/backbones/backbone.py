"""A backbone as data: which network, where its weights are, which layers are read, and how its images are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featuresExtractor.transforms import PAPER_224, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network and the layers whose activations are its features.

    `library` builds `architecture` (open_clip its visual tower), with `options` for its constructor. `weights` is where
    the weights that `tag` names come from: `hub:REPOSITORY/FILE` on the model hub, `package:PACKAGE/FILE` in an
    installed package, or a URL; empty where there are none. `layers` maps the path of a module to the number of its
    channels. Where a layer gives tokens, `tokens` says what becomes of them, `class` or `mean`, and `prefix` how many
    of them (class token, registers) stand before those of the image's patches. `paper` marks the 37 of the paper.
    `revision` is the commit of a repository on the hub; None for its newest when it is first fetched.
    """

    name: str
    library: str
    architecture: str
    preprocessing: Preprocessing
    layers: Mapping[str, int] = field(default_factory=dict)
    weights: str = ""
    tag: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    tokens: str = "mean"
    prefix: int = 0
    family: str = ""
    licence: str = ""
    source: str = ""
    paper: bool = False
    revision: str | None = None

    @property
    def width(self) -> int:
        """Dimensions of the concatenated features."""
        return sum(self.layers.values())

    @property
    def preprocess(self) -> str:
        """`paper` where the images are made ready as in the paper's code and not as the weights were trained."""
        return "paper" if self.preprocessing == PAPER_224 else "own"

    @property
    def folder(self) -> str:
        """The name of the backbone's folder of features: `timm/NAME` -> `timm-NAME`."""
        return self.name.replace("/", "-")
