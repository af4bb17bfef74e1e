"""A trained head -> a similarity: what its file says, and its calibration on pairs that it has not learned from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptation.data.pairs import Pairs
from adaptation.similarity.learned.calibration import KINDS, count_cosines
from adaptation.similarity.learned.file import Learned
from adaptation.similarity.learned.origin import NO_PCA, OTHER_WIDTH, Origin
from adaptation.trainer import Settings
from common.machine.device import tf32
from common.record import package_versions
from common.vectors import to_unit
from featuresExtractor.pca import Projection, pca_digest

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


@torch.inference_mode()
@tf32(False)
def calibrate(head: nn.Module, pca: PCA | None, tested: Pairs) -> Tensor:
    """Return the counted cosines (spaces, kinds, BINS) of test pairs, before and after the head, where the head is.
    `pca` is that of the run, which the features have not been through."""
    weights = next(head.parameters(), tested.left)
    left, right = (_reduced(side[0], pca).to(weights.device) for side in (tested.left, tested.right))
    frozen = count_cosines(to_unit(left)[0], to_unit(right)[0])
    head.eval()
    adapted = count_cosines(to_unit(head(left).float())[0], to_unit(head(right).float())[0])
    return torch.stack([frozen, adapted])


def _reduced(side: Tensor, pca: PCA | None) -> Tensor:
    if pca is None:
        return side
    return torch.from_numpy(Projection(pca, side.device)(side.cpu().numpy())).to(side.device)


@dataclass(frozen=True)
class Trained:
    """A head that was trained on features of `width` dimensions, the PCA of its own that it stands behind, if it has
    one, and the names of the pairs that it has learned from."""

    head: nn.Module
    pca: PCA | None
    names: Sequence[tuple[str, str]]
    width: int


def learned_of(
    origin: Origin, trained: Trained, calibration: Tensor, settings: Settings, metrics: Mapping[str, Any]
) -> Learned:
    """Return the similarity that a head makes; without a PCA of its own that of the `origin` goes with it. Of the pairs
    the count and a digest are kept."""
    own, names = trained.pca, trained.names
    origin = _fitting(origin, own, trained.width)
    pca = own if own is not None else origin.pca
    protocol = "training pairs" if own is not None else "by extract.py" if origin.pca is not None else None
    about = {
        "backbones": origin.networks,
        "gap": origin.gap,
        "width": trained.width if pca is None else len(pca.mean_),
        "pca": None
        if pca is None
        else {"fitted": protocol, "sha256": pca_digest(pca), "components": len(pca.components_)},
        "head": _named(settings.head, settings),
        "loss": _named(settings.loss, settings),
        "logit_scale": settings.temperature,
        "settings": {key: value for key, value in settings.record().items() if key not in ("head", "loss", "code")},
        "pairs": {"count": len(names), "sha256": pairs_digest(names)},
        "metrics": dict(metrics),
        "calibration": {kind: int(calibration[1, number].sum()) for number, kind in enumerate(KINDS)},
        "versions": package_versions(),
    }
    mean, components = (None, None) if pca is None else (_tensor(pca.mean_), _tensor(pca.components_))
    return Learned(about, trained.head.state_dict(), mean, components, calibration)


def _fitting(origin: Origin, own: PCA | None, width: int) -> Origin:
    """The origin of features of `width` dimensions; one with a gap where its PCA or its networks give others."""
    if own is None and origin.pca is not None and len(origin.pca.components_) != width:
        return Origin([], gap=NO_PCA)
    pca = own if own is not None else origin.pca
    given = sum(sum(network["layers"].values()) for network in origin.networks)
    if origin.networks and given != (width if pca is None else len(pca.mean_)):
        return Origin([], gap=OTHER_WIDTH)
    return origin


def pairs_digest(names: Sequence[tuple[str, str]]) -> str:
    """Return a SHA-256 of the names of pairs, in any order: it recognises the pairs and does not tell their names."""
    return hashlib.sha256(json.dumps([list(each) for each in sorted(names)]).encode()).hexdigest()


def _named(address: str, settings: Settings) -> dict[str, str | None]:
    """A head or a loss by its name alone, and the SHA-256 of its file where it is the user's own."""
    return {"name": address.rpartition(":")[2], "sha256": dict(settings.code).get(address)}


def _tensor(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64))
