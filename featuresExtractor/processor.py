"""What becomes of the layers of an image: the four processors behind `-p`.

save          each layer as it is                               save_<layer>.npy
pca N         each layer pooled, then reduced to N numbers      pooled.npy, pcaN_<layer>.npy, pcaN_<layer>.skops
adapt         layers pooled, normalised and concatenated        features.npy
adapt-pca N   that, reduced to N numbers                        features.npy, features_pcaN.npy, pcaN.skops
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.errors import InputError, nearest
from common.progress import Bar, progress

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from sklearn.decomposition import PCA

    from featuresExtractor.features.features_file import Features, FeaturesWriter, Rows
    from featuresExtractor.pca import Projection


@dataclass(frozen=True)
class Kind:
    """What a processor does: how a layer's activation is reduced, the one file that all layers are joined in (None: a
    file a layer), and whether a PCA follows."""

    activation: str
    joined: str | None
    reduced: bool


KINDS = {
    "save": Kind("raw", None, False),
    "pca": Kind("pooled", "pooled", True),
    "adapt": Kind("normalised", "features", False),
    "adapt-pca": Kind("normalised", "features", True),
}
ALLOWED = "save, pca N, adapt, or adapt-pca N"


@dataclass(frozen=True)
class Reduction:
    """A PCA to fit: on the columns from `start` to `stop` of the file `source`, into `target` and `pca` (stems)."""

    source: str
    start: int
    stop: int
    target: str
    pca: str
    layer: str | None = None

    @property
    def columns(self) -> slice:
        """The columns of the source."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Processor:
    """A processor with its number of components, if it has one."""

    name: str
    components: int | None = None

    def __str__(self) -> str:
        return self.name if self.components is None else f"{self.name} {self.components}"

    @property
    def kind(self) -> Kind:
        """What it does."""
        return KINDS[self.name]

    def outputs(self, layers: Sequence[str]) -> list[str]:
        """The stems of the files that the backbone's outputs go to: one, or one a layer."""
        return [self.kind.joined] if self.kind.joined else [f"save_{layer}" for layer in layers]

    def reductions(self, layers: Mapping[str, int]) -> list[Reduction]:
        """The PCAs that follow: none, one over all layers, or one a layer."""
        if self.components is None or self.kind.joined is None:
            return []
        source, pca = self.kind.joined, f"pca{self.components}"
        if self.name == "adapt-pca":
            return [Reduction(source, 0, sum(layers.values()), f"{source}_{pca}", pca)]
        stops = np.cumsum(list(layers.values())).tolist()
        return [
            Reduction(source, stop - width, stop, f"{pca}_{layer}", f"{pca}_{layer}", layer)
            for (layer, width), stop in zip(layers.items(), stops, strict=True)
        ]


def made_from(output: str, name: str) -> bool:
    """Whether `name` is that of a file which a PCA made from the file `output` (a stem)."""
    patterns = {
        "features": r"features_pca\d+\.(npy|json)|pca\d+\.skops",
        "pooled": r"pca\d+_.+\.(npy|json|skops)",
    }
    return output in patterns and re.fullmatch(patterns[output], name) is not None


def parse_processor(words: Sequence[str]) -> Processor:
    """The words behind `-p`; InputError says which are allowed."""
    name, *numbers = words
    if name not in KINDS:
        raise InputError(f"unknown processor '{name}'{nearest(name, list(KINDS))} allowed: {ALLOWED}")
    reduced = KINDS[name].reduced
    if len(numbers) != reduced:
        wanted = "a number of components, such as 256" if reduced else "no number"
        raise InputError(f"processor '{' '.join(words)}': {name} takes {wanted}; allowed: {ALLOWED}")
    if not numbers:
        return Processor(name)
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", numbers[0]):
        raise InputError(
            f"processor '{' '.join(words)}': '{numbers[0]}' is not a whole number above 0; allowed: {ALLOWED}"
        )
    return Processor(name, int(numbers[0]))


def reduce_features(
    rows: Rows, columns: slice, writer: FeaturesWriter, pca_file: Path, n_components: int, device: torch.device
) -> PCA:
    """Fits a PCA on the columns of a features file, writes it to `pca_file`, and the reduced features by `writer`.

    The fit takes the vectors of all sides and views, as the paper's protocol does. Both passes stream over the file;
    the reduced rows keep their names, views and order.
    """
    from featuresExtractor.pca import Projection, fit_pca, save_pca

    width = len(range(*columns.indices(rows.width)))
    with progress(2 * rows.count, "pca", "rows") as bar:
        pca = fit_pca(_vectors(rows, columns, bar), width, n_components, device)
        save_pca(pca, pca_file)
        _project(rows, columns, writer, Projection(pca, device), bar)
    return pca


def _vectors(rows: Rows, columns: slice, bar: Bar) -> Iterator[Features]:
    """The vectors of all sides, chunk by chunk: (n, D)."""
    for chunk in rows.chunks():
        for side in rows.sides:
            yield chunk[side][:, columns].copy()
        bar.update(len(chunk))


def _project(rows: Rows, columns: slice, writer: FeaturesWriter, project: Projection, bar: Bar) -> None:
    """Writes every row again with its vectors replaced by their principal components."""
    first = 0
    for chunk in rows.chunks():
        reduced = np.empty(len(chunk), writer.row)
        for name in rows.row.names or ():
            values = chunk[name]
            reduced[name] = project(values[:, columns].copy()) if name in rows.sides else values
        writer.put(first, [reduced])
        first += len(chunk)
        bar.update(len(chunk))
