"""Where features come from: the `.json` beside them, and whether features already there may be used again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import package_versions, sha256, write_json
from featuresExtractor.datasets import Dataset
from featuresExtractor.extractor import Report
from featuresExtractor.models import Model
from featuresExtractor.weights import Weights


def settings(model: Model, weights: Weights, dataset: Dataset, views: int, precision: str = "fp32") -> dict[str, Any]:
    """Everything that the numbers in a features file depend on, but for rounding."""
    return {
        "model": model.name,
        "layers": model.layers,
        "weights": asdict(weights),
        "preprocessing": asdict(model.preprocessing) | {"alpha": "over white", "orientation": "as its EXIF says"},
        "pooling": "mean over space, then unit L2 length, each layer",
        "views": ["original", "flipped"][:views],
        "precision": precision,
        "dataset": {"kind": dataset.kind, "found": len(dataset), "fingerprint": dataset.fingerprint()},
    }


def record(path: Path, chosen: Mapping[str, Any], report: Report, dataset: Dataset, flags: Mapping[str, Any]) -> None:
    """Writes the `.json` beside the features file `path`."""
    skipped = [asdict(item) for item in (*dataset.skipped, *report.skipped)]
    facts = {"written": report.written, "skipped": skipped, "flags": flags, "versions": package_versions()}
    write_json(path.with_suffix(".json"), {"settings": chosen, **facts})


def record_reduced(path: Path, source: Path, components: int, kept: float) -> None:
    """Writes the `.json` beside reduced features: that of their source, and the PCA."""
    facts = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
    fitted_on = "all vectors of the source, all sides and views"
    write_json(
        path.with_suffix(".json"),
        facts
        | {
            "pca": {
                "components": components,
                "fitted_on": fitted_on,
                "whitening": False,
                "explained_variance": kept,
                "source": source.name,
                "source_sha256": sha256(source),
            }
        },
    )


def same_features(path: Path, chosen: Mapping[str, Any]) -> bool:
    """True when the features file `path` is there and was made with the settings `chosen`; False when there is none.

    A file made with other settings, or without a `.json` to tell, is an InputError that says what differs.
    """
    if not path.exists():
        return False
    try:
        there = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: already there, and no .json beside it says how it was made; --overwrite replaces it"
        ) from error
    if differing := [key for key, value in json.loads(json.dumps(dict(chosen))).items() if there.get(key) != value]:
        raise InputError(f"{path}: already there, made with other {', '.join(differing)}; --overwrite replaces it")
    return True
