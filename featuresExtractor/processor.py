"""What becomes of the features: `-p adapt` keeps them, `-p adapt-pca N` also reduces them to N numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError, nearest
from common.progress import Bar, progress

if TYPE_CHECKING:
    import torch
    from sklearn.decomposition import PCA

    from featuresExtractor.embeddings import Features, Rows

WORDS = {"adapt": 0, "adapt-pca": 1}
ALLOWED = "adapt, or adapt-pca N"


@dataclass(frozen=True)
class Processor:
    """`adapt`, or `adapt-pca` with its number of components."""

    name: str
    components: int | None = None

    def __str__(self) -> str:
        return self.name if self.components is None else f"{self.name} {self.components}"


def parse_processor(words: Sequence[str]) -> Processor:
    """The words behind `-p`; InputError says which are allowed."""
    name, *numbers = words
    if name not in WORDS:
        raise InputError(f"unknown processor '{name}'{nearest(name, list(WORDS))} allowed: {ALLOWED}")
    if len(numbers) != WORDS[name]:
        wanted = "a number of components, such as 256" if WORDS[name] else "no number"
        raise InputError(f"processor '{' '.join(words)}': {name} takes {wanted}; allowed: {ALLOWED}")
    if not numbers:
        return Processor(name)
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", numbers[0]):
        raise InputError(
            f"processor '{' '.join(words)}': '{numbers[0]}' is not a whole number above 0; allowed: {ALLOWED}"
        )
    return Processor(name, int(numbers[0]))


def reduce_features(source: Path, target: Path, pca_file: Path, n_components: int, device: torch.device) -> PCA:
    """Fits a PCA on a features file, writes it to `pca_file` and the reduced features to `target`.

    The fit takes the vectors of all sides and views, as the paper's protocol does. Both passes stream over the file;
    the reduced rows keep their names, views and order.
    """
    from featuresExtractor.embeddings import open_features
    from featuresExtractor.pca import fit_pca, save_pca

    rows = open_features(source)
    with progress(2 * rows.count, "pca", "rows") as bar:
        pca = fit_pca(_vectors(rows, bar), rows.width, n_components, device)
        save_pca(pca, pca_file)
        _project(rows, target, pca, device, bar)
    return pca


def _vectors(rows: Rows, bar: Bar) -> Iterator[Features]:
    """The vectors of all sides, chunk by chunk: (n, D)."""
    for chunk in rows.chunks():
        for side in rows.sides:
            yield chunk[side].copy()
        bar.update(len(chunk))


def _project(rows: Rows, target: Path, pca: PCA, device: torch.device, bar: Bar) -> None:
    """Writes every row again with its vectors replaced by their principal components."""
    from featuresExtractor.embeddings import FeaturesWriter, row_type
    from featuresExtractor.pca import Projection

    project, row = Projection(pca, device), row_type(rows.sides, pca.n_components_, rows.name_length)
    with FeaturesWriter(target, row, rows.count) as writer:
        for chunk in rows.chunks():
            reduced = np.empty(len(chunk), row)
            for name in row.names or ():
                reduced[name] = project(chunk[name].copy()) if name in rows.sides else chunk[name]
            writer.append([reduced])
            bar.update(len(chunk))
        writer.finish()
