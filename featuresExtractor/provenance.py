"""Where features come from: the `.json` beside them, and whether features already there may be used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.record import check_whole, differences, package_versions
from common.storage.files import read_json, sha256, write_json
from featuresExtractor.backbones.weights.loading import Weights
from featuresExtractor.extractor import Report
from featuresExtractor.images.folders.dataset import Dataset
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.models import Model

POOLING = {
    "raw": "none: each layer as it is",
    "pooled": "mean over space",
    "normalised": "mean over space, then unit L2 length, each layer",
}


def settings(
    model: Model,
    weights: Weights,
    dataset: Dataset,
    views: int,
    activation: str = "normalised",
    precision: str = "fp32",
    decoding: Decoding = STORED,
) -> dict[str, Any]:
    """Everything that the numbers in a features file depend on, but for rounding."""
    preprocessing = model.preprocessing.recorded() | {"alpha": "over white", "orientation": "as its EXIF says"}
    preprocessing |= _unusual(decoding)
    return {
        "model": model.name,
        "network": {"library": model.library, "architecture": model.architecture, "tag": model.tag},
        "layers": dict(model.layers),
        "weights": weights.identity,
        "preprocess": model.preprocess,
        "preprocessing": preprocessing,
        "pooling": POOLING[activation],
        "tokens": {"pooled": model.tokens, "not of the picture": model.prefix},
        "views": ["original", "flipped"][:views],
        "precision": precision,
        "dataset": {"kind": dataset.kind, "found": len(dataset), "fingerprint": dataset.fingerprint()},
    }


def _unusual(decoding: Decoding) -> dict[str, Any]:
    """What changes pixels and is not the default: files of earlier versions do not record it."""
    used = {"value_range": list(decoding.value_range or ()), "color": decoding.color}
    return {name: value for name, value in used.items() if value not in ([], STORED.color)}


def remarks_of(report: Report) -> dict[str, list[str]]:
    """Return the names of the images that each remark is about: `{text: [name, ...]}`."""
    found: dict[str, list[str]] = {}
    for remark in report.remarks:
        found.setdefault(remark.text, []).append(remark.name)
    return found


def facts_of(
    chosen: Mapping[str, Any],
    origin: str,
    report: Report,
    dataset: Dataset,
    flags: Mapping[str, Any],
    digest: str,
    read: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the `.json` beside a features file says; `digest` is the SHA-256 of that file, `read` what was taken of the
    weights' file (`Weights.read`)."""
    return {
        "sha256": digest,
        "settings": chosen,
        "weights_origin": origin,
        "weights_read": dict(read or {}),
        "written": report.written,
        "skipped": [asdict(item) for item in (*dataset.skipped, *report.skipped)],
        "remarks": remarks_of(report),
        "drift": asdict(report.drift) if report.drift else None,
        "not_read": [asdict(item) for item in dataset.not_read],
        "flags": flags,
        "versions": package_versions(),
    }


def record_reduced(
    path: Path,
    source: Path,
    components: int,
    kept: float,
    flags: Mapping[str, Any],
    digest: str,
    layer: str | None = None,
) -> None:
    """Writes the `.json` beside reduced features of this SHA-256: that of their source, and the PCA, of all layers or
    of one."""
    facts = _read(source)
    pca = {
        "components": components,
        "layer": layer or "all",
        "fitted_on": "all vectors of the source, all sides and views",
        "whitening": False,
        "explained_variance": kept,
        "source": source.name,
        "source_sha256": facts.get("sha256") or sha256(source),
        "flags": flags,
        "versions": package_versions(),
    }
    write_json(path.with_suffix(".json"), {**facts, "sha256": digest, "pca": pca})


def _read(path: Path) -> dict[str, Any]:
    """The `.json` beside a features file."""
    return read_json(path.with_suffix(".json"))


def same_features(path: Path, chosen: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the features file `path` when it was made with the settings `chosen`; None when there is no file.

    A file made with other settings, or without a `.json` to tell, is an InputError that says what differs.
    """
    if not path.exists():
        return None
    try:
        facts = _read(path)
        there = dict(facts["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: already there, and no .json beside it says how it was made; --overwrite replaces it"
        ) from error
    if differing := differences(there, chosen):
        raise InputError(
            f"{path}: already there, made with other settings ({'; '.join(differing)}); --overwrite replaces it"
        )
    check_whole(path, facts)
    return facts


def is_made_from(path: Path, source: Path) -> bool:
    """Whether reduced features are there, with a `.json` that tells of this very file and of this very `source`."""
    try:
        facts = _read(path)
        told = facts["sha256"], facts["pca"]["source_sha256"]
        return told == (sha256(path), _read(source).get("sha256") or sha256(source))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
