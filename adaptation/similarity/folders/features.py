"""Embed a features file of `extract.py`, if it is of the networks and the PCA that a similarity was trained with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptation.similarity.folders.embedded import Block, Contents, Embedded, existing_in, write_embedded
from adaptation.similarity.folders.embedding import PART, Options
from adaptation.similarity.learned.origin import ORIGIN, origin_of
from adaptation.similarity.similarity import Similarity
from common.errors import InputError, printable
from common.record import check_whole, differences, read_record
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.features.features_file import Rows, name_field, open_features
from featuresExtractor.pca import pca_digest

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

logger = logging.getLogger(__name__)


def embed_features(similarity: Similarity, path: Path, folder: Path, options: Options) -> Embedded:
    """Embed the original views of a features file into `folder`. InputError for features of other networks, for those
    that another PCA reduced, and where the folder holds other embeddings, unless they may be replaced."""
    digest = check_whole(path, read_record(path))
    rows = open_features(path)
    reduced = check_made_alike(similarity, path)
    with held(folder):
        staging = Staging(folder, PART)
        staging.complete()
        existing = existing_in(folder, similarity, rows.sides, options.overwrite)
        if existing is not None and read_record(existing.embeddings.path).get("source_sha256") == digest:
            logger.info(f"{printable(str(folder))}: all {len(existing):,} rows of it are embedded here already")
            return existing
        if existing is not None and not options.overwrite:
            raise InputError(
                f"{printable(str(folder))}: holds embeddings of others; give another folder, or --overwrite"
            )
        originals = int((rows.all()["view"] == 0).sum())
        source: dict[str, Any] = {"source": path.name, "source_sha256": digest, "skipped": []}
        contents = Contents(rows.sides, rows.name_length, originals, _blocks(similarity, rows, reduced), source)
        return write_embedded(similarity, staging, contents, options.flags)


def _blocks(similarity: Similarity, rows: Rows, reduced: bool) -> Iterator[Block]:
    for chunk in rows.chunks():
        originals = chunk[chunk["view"] == 0]
        if len(originals):
            names = zip(*(originals[name_field(side)].tolist() for side in rows.sides), strict=True)
            yield Block(list(names), [similarity.vectors(originals[side], reduced) for side in rows.sides])


def check_made_alike(similarity: Similarity, path: Path) -> bool:
    """Return whether the PCA of a similarity has reduced a features file already. InputError where it is not of the
    networks that the similarity was trained with, or was reduced by another PCA: its dimensions may fit, and its
    embeddings would mean nothing."""
    shown, origin = printable(str(path)), origin_of(path)
    if origin.gap:
        raise InputError(f"{shown}: {origin.gap}; so it may be of another network than the similarity")
    recorded = similarity.about["backbones"]
    names, own_names = ([str(each["model"]) for each in networks] for networks in (recorded, origin.networks))
    if names != own_names:
        message = f"of {' and '.join(own_names)}, and the similarity was trained with {' and '.join(names) or 'others'}"
        raise InputError(f"{shown}: {printable(message)}")
    settings = [{key: value for key, value in each.items() if key != ORIGIN} for each in origin.networks]
    if differing := [line for each, own in zip(recorded, settings, strict=True) for line in differences(each, own)]:
        raise InputError(
            f"{shown}: made with other settings than the features that the similarity was trained with ("
            f"{printable('; '.join(differing))}, where 'there' is the similarity and 'asked' this file)"
        )
    if origin.pca is not None:
        _check_pca(similarity, shown, origin.pca)
    return origin.pca is not None


def _check_pca(similarity: Similarity, shown: str, pca: PCA) -> None:
    """InputError where the PCA that reduced features is not that of a similarity."""
    recorded = similarity.about["pca"]
    if recorded is None:
        raise InputError(f"{shown}: was reduced by a PCA, and the similarity was trained without; give features.npy")
    if (digest := pca_digest(pca)) != (expected := printable(str(recorded.get("sha256")))):
        raise InputError(
            f"{shown}: was reduced by another PCA ({digest[:8]}...) than the similarity was trained with "
            f"({expected[:8]}...); give features.npy, which it reduces itself"
        )
