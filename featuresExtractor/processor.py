"""What becomes of the layers of an image: the table of processors behind `-p`, a row for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from common.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row of the table: how a layer is pooled, and the files that this makes.

    `pool` takes the maps of a layer, (N, C, H, W) float32, and returns (N, C); None leaves each layer as it is. (Of
    tokens it gets those that count, (N, C, T, 1), and of a vector (N, C, 1, 1).) With `unit` each layer is brought to
    unit L2 length. `pooling` is the name of all this in the record: another name is another kind of features.

    `output` is the file, without its suffix, that the layers are joined in, or with `{layer}` a file for each layer. A
    PCA follows where `reduced` names the file of the reduced features and `pca` that of the PCA, with `{n}` for the
    number of components, and `{layer}` for a PCA of each layer. `help` says all of this to the user.
    """

    help: str
    pooling: str
    pool: Callable[[Tensor], Tensor] | None = None
    unit: bool = False
    output: str
    reduced: str = ""
    pca: str = ""

    @property
    def joined(self) -> bool:
        """Whether all layers are in one file."""
        return "{layer}" not in self.output

    def files(self) -> str:
        """Return the names of the files, as the user reads them."""
        stems = (self.output, ".npy"), (self.reduced, ".npy"), (self.pca, ".skops")
        names = ", ".join(stem + suffix for stem, suffix in stems if stem)
        return names.replace("{n}", "N").replace("{layer}", "<layer>")

    def makes(self, output: str, name: str) -> bool:
        """Return whether `name` is that of a file which a PCA of this row makes from the file `output` (a stem)."""
        patterns = (self.reduced, r"\.(npy|json)"), (self.pca, r"\.skops")
        return output == self.output and any(re.fullmatch(_pattern(stem) + suffix, name) for stem, suffix in patterns)


def _pattern(stem: str) -> str:
    """A regular expression for the names of files that `stem` stands for."""
    return re.escape(stem).replace(r"\{n\}", r"\d+").replace(r"\{layer\}", ".+")


def mean(maps: Tensor) -> Tensor:
    """Return the mean over space: (N, C, H, W) -> (N, C)."""
    return maps.mean((2, 3))


PROCESSORS = {
    "save": Recipe(
        help="every layer as it is (large; what is done when no -p is given)",
        pooling="none: each layer as it is",
        output="save_{layer}",
    ),
    "pca": Recipe(
        help="every layer pooled, then reduced",
        pooling="mean over space",
        pool=mean,
        output="pooled",
        reduced="pca{n}_{layer}",
        pca="pca{n}_{layer}",
    ),
    "adapt": Recipe(
        help="layers pooled, brought to unit length, concatenated",
        pooling="mean over space, then unit L2 length, each layer",
        pool=mean,
        unit=True,
        output="features",
    ),
    "adapt-pca": Recipe(
        help="these reduced, as in the paper",
        pooling="mean over space, then unit L2 length, each layer",
        pool=mean,
        unit=True,
        output="features",
        reduced="features_pca{n}",
        pca="pca{n}",
    ),
}


def usages() -> dict[str, Recipe]:
    """Return the rows by what the user writes: `save`, `pca N`, ..."""
    return {f"{name} N" if recipe.reduced else name: recipe for name, recipe in PROCESSORS.items()}


def allowed() -> str:
    """Return what the user may write: `save, pca N, adapt, or adapt-pca N`."""
    *others, last = usages()
    return f"{', '.join(others)}, or {last}"


def listing() -> str:
    """Return the table for a help text, a line for each row."""
    return "\n".join(f"    -p {usage:<14} {recipe.help}: {recipe.files()}" for usage, recipe in usages().items())


@dataclass(frozen=True)
class PcaPlan:
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
    """A row of the table with its number of components, if it has one."""

    name: str
    components: int | None = None

    def __str__(self) -> str:
        return self.name if self.components is None else f"{self.name} {self.components}"

    @property
    def recipe(self) -> Recipe:
        """Its row."""
        return PROCESSORS[self.name]

    def outputs(self, layers: Sequence[str]) -> list[str]:
        """The stems of the files that the backbone's outputs go to: one, or one a layer."""
        return list(dict.fromkeys(self.recipe.output.format(layer=layer) for layer in layers))

    def pcas(self, layers: Mapping[str, int]) -> list[PcaPlan]:
        """The PCAs that follow: none, one over all layers, or one a layer."""
        if self.components is None:
            return []
        if "{layer}" not in self.recipe.reduced:
            return [self._pca(0, sum(layers.values()))]
        stops = accumulate(layers.values())
        return [self._pca(stop - layers[layer], stop, layer) for layer, stop in zip(layers, stops, strict=True)]

    def _pca(self, start: int, stop: int, layer: str | None = None) -> PcaPlan:
        target, pca = (stem.format(n=self.components, layer=layer) for stem in (self.recipe.reduced, self.recipe.pca))
        return PcaPlan(self.recipe.output, start, stop, target, pca, layer)


def made_from(output: str, name: str) -> bool:
    """Whether `name` is that of a file which a PCA made from the file `output` (a stem)."""
    return any(recipe.reduced and recipe.makes(output, name) for recipe in PROCESSORS.values())


def parse_processor(words: Sequence[str]) -> Processor:
    """The words behind `-p`; InputError says which are allowed."""
    name, *numbers = words
    if name not in PROCESSORS:
        raise InputError(f"unknown processor '{name}'{nearest(name, list(PROCESSORS))} allowed: {allowed()}")
    reduced, written = bool(PROCESSORS[name].reduced), f"processor '{' '.join(words)}'"
    if len(numbers) != reduced:
        wanted = "a number of components, such as 256" if reduced else "no number"
        raise InputError(f"{written}: {name} takes {wanted}; allowed: {allowed()}")
    if not numbers:
        return Processor(name)
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", numbers[0]):
        raise InputError(f"{written}: '{numbers[0]}' is not a whole number above 0; allowed: {allowed()}")
    return Processor(name, int(numbers[0]))
