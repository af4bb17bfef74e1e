"""Where the features of a training come from: the networks and the PCA that their records name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptation.similarity.learned.fields import NETWORK, WEIGHTS_ORIGIN, wrong
from common.errors import InputError
from common.record import read_record
from featuresExtractor.pca import load_pca, pca_digest
from featuresExtractor.processor import PROCESSORS

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

LOCAL = "a local file"  # in the place of its name, which may say more than its owner wants to send
ORIGIN = WEIGHTS_ORIGIN
RANDOM = "random"
SOURCES = re.compile(r"(hub:|package:|https?://).*/.*")  # of weights that anyone can have; no file's name has a slash
NO_RECORD = "no .json beside the features says which network they are of"
OTHER_WIDTH = "the features have other dimensions than the layers that their .json names"
APART = "the features are not those of all layers together, which extract.py -p adapt makes"
NO_PCA = "the PCA that reduced the features is not beside them"


@dataclass(frozen=True)
class Origin:
    """What is recorded of the `networks` that features were made with, and the PCA that reduced them. `gap` says why
    images cannot be embedded, where that is so: then features of the same kind can be."""

    networks: list[dict[str, Any]]
    pca: PCA | None = None
    gap: str = ""


def origin_of(path: Path) -> Origin:
    """Return what the record of a features file says of its networks, and its PCA."""
    record = read_record(path)
    recorded = _recorded(record)
    networks = [network for each in recorded if (network := _network(each)) is not None]
    if not networks or len(networks) < len(recorded):
        return Origin([], gap=NO_RECORD)
    poolings = {row.pooling for row in PROCESSORS.values() if row.joined}
    if any(network["pooling"] not in poolings for network in networks):
        return Origin([], gap=APART)
    if "pca" not in record:
        return Origin(networks)
    try:
        pca, layer = _pca(path, record["pca"]), record["pca"].get("layer", "all")
        if layer != "all":
            networks = [network | {"layers": {layer: network["layers"][layer]}} for network in networks]
    except (InputError, LookupError, TypeError, AttributeError):
        return Origin([], gap=NO_PCA)
    return Origin(networks, pca)


def _recorded(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of each network, with the source of its weights."""
    settings = record.get("settings")
    if not isinstance(settings, dict):
        return []
    several, origin = settings.get("backbones"), record.get(ORIGIN)
    if not isinstance(several, list):
        return [{**settings, ORIGIN: origin}]
    origins = origin if isinstance(origin, dict) else {}
    each_of = [each if isinstance(each, dict) else {} for each in several]
    return [{**each, ORIGIN: origins.get(str(each.get("model")))} for each in each_of]


def _network(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a similarity keeps of the settings of a network; None where there is too little."""
    if wrong(settings, NETWORK) is not None:
        return None
    origin = str(settings.get(ORIGIN))
    known = origin == RANDOM or SOURCES.fullmatch(origin) is not None
    return {key: settings[key] for key in NETWORK} | {ORIGIN: origin if known else LOCAL}


def _pca(path: Path, recorded: Mapping[str, Any]) -> PCA:
    """The PCA that reduced a features file: the one beside it, if it is the one that the record tells of."""
    stem = path.stem.removeprefix("features_") if recorded.get("layer", "all") == "all" else path.stem
    pca = load_pca(path.with_name(f"{stem}.skops"))
    kept = float(pca.explained_variance_ratio_.sum())
    same = recorded["sha256"] == pca_digest(pca) if "sha256" in recorded else kept == recorded["explained_variance"]
    if not same:
        raise InputError(f"{stem}.skops is another PCA")
    return pca
