"""What is recorded of features in the `.json` beside them, and whether features that exist may be used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.machine.device import arithmetic_of, device_name
from common.record import check_whole, differences, make_record, package_versions
from common.storage.files import read_json, sha256
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.weights.loading import Weights
from featuresExtractor.extractor import Report
from featuresExtractor.images.folders.dataset import Remark
from featuresExtractor.images.settings import STORED, Decoding
from featuresExtractor.job import GivenPca, Job
from featuresExtractor.pca import load_pca, pca_digest
from featuresExtractor.processor import PcaPlan

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)  # of a record of others
GIVEN = "given"  # what a PCA was fitted on that the user gave: it is not recorded here


def settings_of(job: Job, weights: Weights) -> dict[str, Any]:
    """Return everything that the numbers in the features files of a job depend on, but for rounding."""
    dataset = job.dataset
    return {
        **network_settings(job.model, weights.identity, job.processor.recipe.pooling, job.precision, job.decoding),
        "views": ["original", "flipped"][: job.views],
        "dataset": {"kind": dataset.kind, "found": len(dataset), "fingerprint": dataset.fingerprint()},
    }


def network_settings(
    model: Backbone, identity: Mapping[str, Any], pooling: str, precision: str, decoding: Decoding
) -> dict[str, Any]:
    """Return what the features of an image depend on: the network, its weights (their `identity`), its layers and
    pooling, and what is done to the image before."""
    preprocessing = model.preprocessing.recorded() | {"alpha": "over white", "orientation": "as its EXIF says"}
    return {
        "model": model.name,
        "network": {"library": model.library, "architecture": model.architecture, "tag": model.tag},
        "layers": dict(model.layers),
        "weights": dict(identity),
        "preprocess": model.preprocess,
        "preprocessing": preprocessing | _unusual(decoding),
        "pooling": pooling,
        "tokens": {"pooled": model.tokens, "not of the picture": model.prefix},
        "precision": precision,
    }


def _unusual(decoding: Decoding) -> dict[str, Any]:
    """What changes pixels and is not the default: files of earlier versions do not record it."""
    used = {"value_range": list(decoding.value_range or ()), "color": decoding.color}
    return {name: value for name, value in used.items() if value not in ([], STORED.color)}


def plan_of(job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an extraction must have in common with one that resumes it, to the last digit. The images may differ
    where they were not read yet."""
    return {
        **settings,
        "dataset": {"kind": job.dataset.kind, "names": job.dataset.names_digest()},
        "device": arithmetic_of(job.device),
        "compiled": job.compiled,
        "versions": package_versions(),
    }


def by_text(remarks: Sequence[Remark]) -> dict[str, list[str]]:
    """Return the names of the images that each remark is about: `{text: [name, ...]}`."""
    names: dict[str, list[str]] = {}
    for remark in remarks:
        names.setdefault(remark.text, []).append(remark.name)
    return names


def record_of(
    job: Job, settings: Mapping[str, Any], weights: Weights, report: Report, digest: str, layout: str
) -> dict[str, Any]:
    """Return the record of a features file of this SHA-256."""
    contents = {
        "folder": str(job.dataset.root.resolve()),
        "weights_origin": weights.origin,
        "weights_read": weights.read,
        "written": report.written,
        "skipped": [asdict(skipped) for skipped in (*job.dataset.skipped, *report.skipped)],
        "remarks": by_text(report.remarks),
        "drift": asdict(report.drift) if report.drift else None,
        "not_read": [asdict(skipped) for skipped in job.dataset.not_read],
        "device": device_name(job.device),
        "layout": layout,
    }
    return {"sha256": digest, **make_record(settings, job.flags, **contents)}


def reduced_record(
    job: Job, part: PcaPlan, source: Mapping[str, Any], digest: str, pca_sha256: str, variance: float | None
) -> dict[str, Any]:
    """Return the record of features of this SHA-256 that a PCA, of the digest `pca_sha256`, made of those whose record
    is `source`: theirs, and the PCA with the share of their variance that it keeps (None where they have none)."""
    pca = {
        "sha256": pca_sha256,
        "components": job.processor.components,
        "layer": part.layer or "all",
        "fitted_on": GIVEN if job.given else "all vectors of the source, all sides and views",
        "whitening": False,
        "explained_variance": variance,
        "source": job.file(part.source).name,
        "source_sha256": source["sha256"],
        "flags": job.flags,
        "versions": package_versions(),
    }
    return {**source, "sha256": digest, "pca": pca}


def source_record(path: Path) -> dict[str, Any]:
    """Return the record (a `.json`) of a features file that a PCA is fitted on; those of earlier versions hold no
    SHA-256."""
    record = read_json(path)
    return record if record.get("sha256") else {**record, "sha256": sha256(path.with_suffix(".npy"))}


def same_features(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of the features file `path` when it was made with these settings; None when there is no file.

    A file made with other settings, or without a `.json` to tell, is an InputError that says what differs.
    """
    if not path.exists():
        return None
    try:
        record = read_json(path.with_suffix(".json"))
        existing = dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: already there, and no .json beside it says how it was made; --overwrite replaces it"
        ) from error
    if differing := differences(existing, settings):
        raise InputError(
            f"{path}: already there, made with other settings ({'; '.join(differing)}); --overwrite replaces it"
        )
    check_whole(path, record)
    return record


def is_made_from(path: Path, source: Path) -> bool:
    """Return whether reduced features exist, with a `.json` that records this very file and this very `source`."""
    try:
        record = read_json(path.with_suffix(".json"))
        recorded = record["sha256"], record["pca"]["source_sha256"]
        return bool(recorded == (sha256(path), source_record(source.with_suffix(".json"))["sha256"]))
    except UNREADABLE:
        return False


def check_pca(path: Path, pca_file: Path, given: GivenPca | None) -> None:
    """InputError where reduced features exist in `path` that were made with another PCA than the one `given`, or, where
    none is, with one that was given then; also where `pca_file`, which lies beside them, holds another PCA.

    Files of earlier versions do not record the PCA's SHA-256; it is then that of `pca_file`.
    """
    recorded = _recorded_pca(path)
    if recorded is None:
        return
    lying = _digest_of(pca_file)
    made = recorded.get("sha256") or lying
    replaced = "--overwrite replaces it"
    if given and made != given.sha256:
        differing = f"{str(made or 'unknown')[:8]} there, {given.sha256[:8]} asked"
        raise InputError(f"{path}: made with another PCA ({differing}); {replaced}")
    if not given and recorded.get("fitted_on") == GIVEN:
        raise InputError(f"{path}: made with a PCA that was given ({str(made)[:8]}); give it (--pca), or {replaced}")
    if lying not in (None, made):
        differing = f"{str(lying)[:8]}, and {path.name} was made with {str(made)[:8]}"
        raise InputError(f"{pca_file}: another PCA ({differing}); to reduce by it give --pca; {replaced}")


def pca_differences(given: GivenPca, settings: Mapping[str, Any]) -> list[str]:
    """Return what differs of `settings` from those of the features that a PCA was fitted on, where `features_pcaN.json`
    beside its `pcaN.skops` tells. Other images, views and arithmetic do not count."""
    try:
        record = read_json(given.path.with_name(f"features_{given.path.stem}.json"))
        known = _of_backbones(record["settings"]) if record["pca"]["sha256"] == given.sha256 else None
    except UNREADABLE:
        return []
    return differences(known, _of_backbones(settings)) if known else []


def _of_backbones(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those of the images."""
    kept = {name: value for name, value in settings.items() if name not in ("views", "dataset", "precision")}
    return kept | {"backbones": [_of_backbones(each) for each in kept["backbones"]]} if "backbones" in kept else kept


def _recorded_pca(path: Path) -> dict[str, Any] | None:
    """What is recorded of the PCA of reduced features; None where there are none, or nothing tells."""
    try:
        return dict(read_json(path.with_suffix(".json"))["pca"]) if path.exists() else None
    except UNREADABLE:
        return None


def _digest_of(pca_file: Path) -> str | None:
    """The digest of the PCA in a file; None where there is none, or half of one."""
    try:
        return pca_digest(load_pca(pca_file)) if pca_file.exists() else None
    except InputError:
        return None
