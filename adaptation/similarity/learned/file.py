"""`similarity.safetensors`: the one file that holds all of a learned similarity. Tensors and text, no code, no paths.

    head.*           the state dict of the head
    pca.mean         (D,) float64, and
    pca.components   (n, D) float64: the PCA before the head, where there is one
    calibration      (2, 2, 2000) int64: cosines of test pairs by bins; frozen and adapted, partners and strangers

The metadata has one entry, `similarity`, a JSON object (`fields.py`): `format`, `backbones`, `gap`, `width` (D), `pca`,
`head`, `loss`, `logit_scale`, `settings`, `pairs`, `metrics`, `calibration`, `versions`. A file is untrusted: its
header is bounded, shapes are compared before tensors are read, and values must be finite.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from adaptation.similarity.learned.calibration import BINS, KINDS, SPACES
from adaptation.similarity.learned.fields import FORMAT, MOST, check_about
from common.errors import InputError, listed, printable
from common.machine.resources import available_memory, require_memory
from common.storage.files import written_whole
from featuresExtractor.pca import pca_digest

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

NAME, KEY = "similarity.safetensors", "similarity"
MOST_HEADER = 2**22  # bytes; those of 37 networks side by side take less than a hundredth of it
HEAD, MEAN, COMPONENTS, CALIBRATION = "head.", "pca.mean", "pca.components", "calibration"
KINDS_OF_NUMBERS = ("F64", "F32", "F16", "BF16", "C64", "I64", "I32", "I16", "I8", "U8", "BOOL")
VALUES = 2**20  # that are looked at together
SHOWN = 200  # characters of a reason

Shape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Learned:
    """A learned similarity: its description `about`, the state dict of its `head`, the `mean` (D,) and `components`
    (n, D) of the PCA before it, or None, and the `calibration` (spaces, kinds, BINS)."""

    about: Mapping[str, Any]
    head: Mapping[str, Tensor]
    mean: Tensor | None
    components: Tensor | None
    calibration: Tensor

    @property
    def width(self) -> int:
        """D, the dimensions of the features before the PCA."""
        return int(self.about["width"])

    @property
    def reduced(self) -> int:
        """The dimensions that the head takes."""
        return self.width if self.components is None else len(self.components)

    @property
    def pca(self) -> PCA | None:
        """The PCA before the head, as far as it reduces vectors; None where there is none."""
        from sklearn.decomposition import PCA

        if self.mean is None or self.components is None:
            return None
        pca = PCA(len(self.components))
        pca.mean_, pca.components_ = self.mean.numpy(), self.components.numpy()
        return pca

    def counts(self, space: str, kind: str) -> Tensor:
        """Return the calibration (BINS,) of `frozen` or `adapted` cosines, of `partners` or `strangers`; InputError for
        other words."""
        for word, words in ((space, SPACES), (kind, KINDS)):
            if word not in words:
                raise InputError(f"unknown cosines '{printable(str(word))}'; allowed are {' and '.join(words)}")
        return self.calibration[SPACES.index(space), KINDS.index(kind)]


@dataclass(frozen=True)
class Described:
    """What a file says of a similarity before its tensors are read: its description, and the shapes of the head's
    tensors."""

    about: Mapping[str, Any]
    head: Mapping[str, tuple[int, ...]]

    @property
    def reduced(self) -> int:
        """The dimensions that the head takes."""
        pca = self.about["pca"]
        return int(self.about["width"] if pca is None else pca["components"])


def write_similarity(path: Path, learned: Learned) -> None:
    """Write the file, whole or not at all. The same similarity gives the same bytes."""
    from safetensors.torch import save

    tensors = {HEAD + name: value for name, value in learned.head.items()} | {CALIBRATION: learned.calibration}
    if learned.mean is not None and learned.components is not None:
        tensors |= {MEAN: learned.mean, COMPONENTS: learned.components}
    apart = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    contents = save(apart, {KEY: json.dumps({"format": FORMAT, **learned.about}, allow_nan=False)})
    with written_whole(path) as partial:
        partial.write_bytes(contents)


def describe(path: Path) -> Described:
    """Return what the file says before its tensors are read; InputError as by `read_similarity`, as far as it shows."""
    with _opened(path) as file:
        about, shapes = _checked(file)
    head = {name.removeprefix(HEAD): shape for name, (_, shape) in shapes.items() if name.startswith(HEAD)}
    return Described(about, head)


def read_similarity(path: Path) -> Learned:
    """Read the file; InputError for one that is not whole, or holds anything but a similarity."""
    with _opened(path) as file:
        about, shapes = _checked(file)
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in shapes}
        if unusable := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
            raise ValueError(f"{listed(unusable, 3)}: values that are not finite; do not use it")
        head = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
        learned = Learned(about, head, tensors.get(MEAN), tensors.get(COMPONENTS), tensors[CALIBRATION])
        _check_calibration(learned)
        if learned.pca is not None and pca_digest(learned.pca) != about["pca"]["sha256"]:
            raise ValueError("its PCA is another one than its description says")
    return learned


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file open to be read; what is wrong with it becomes an InputError."""
    _check_size(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(str(path))}: not a learned similarity ({_reason(error)})") from error


def _check_size(path: Path) -> None:
    """InputError for a file that is missing, or whose header or tensors no memory should be given to."""
    shown = printable(str(path))
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise InputError(f"{shown}: no file; give a {NAME}, or the run folder that it is in")
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise InputError(f"{shown}: no learned similarity can be read here ({error.strerror})") from error
    if not size:
        raise InputError(f"{shown}: not a learned similarity (an empty file)")
    if header > min(size - 8, MOST_HEADER):
        raise InputError(f"{shown}: not a learned similarity (no safetensors file, or too long a header)")
    require_memory(2 * size, available_memory(), f"{shown}: reading it takes", "free some")


def _checked(file: Any) -> tuple[dict[str, Any], dict[str, Shape]]:
    """The description and the shapes of the tensors; ValueError where they are not those of a similarity."""
    about = _description(file.metadata() or {})
    shapes = {name: _shape(file, name) for name in file.keys()}  # noqa: SIM118
    _check_shapes(shapes, about)
    return about, shapes


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The description, with the fields that it must have; ValueError for anything else."""
    if KEY not in metadata:
        raise ValueError(f"its metadata has no entry '{KEY}'")
    about = json.loads(metadata[KEY])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"format {FORMAT} is expected")
    check_about(about)
    return about


def _shape(file: Any, name: str) -> Shape:
    """The type and the shape of a tensor that is not read yet."""
    tensor = file.get_slice(name)
    return tensor.get_dtype(), tuple(tensor.get_shape())


def _check_shapes(shapes: Mapping[str, Shape], about: Mapping[str, Any]) -> None:
    """ValueError for tensors that no similarity has, or of another shape. (Those of the head are compared with the
    head.)"""
    expected: dict[str, Shape] = {CALIBRATION: ("I64", (len(SPACES), len(KINDS), BINS))}
    if about["pca"] is not None:
        components = about["pca"]["components"]
        expected |= {MEAN: ("F64", (about["width"],)), COMPONENTS: ("F64", (components, about["width"]))}
    for name, wanted in expected.items():
        if shapes.get(name) != wanted:
            raise ValueError(f"its tensor {name} is {shapes.get(name, 'missing')}, {wanted} is expected")
    if odd := [name for name, (kind, _) in shapes.items() if kind not in KINDS_OF_NUMBERS]:
        raise ValueError(f"its tensor {printable(odd[0])} is of a type that no head has")
    if others := [name for name in shapes if name not in expected and not name.startswith(HEAD)]:
        raise ValueError(f"it holds {listed(others, 3)}, which no similarity has")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; a part at a time, for the memory's sake."""
    return all(bool(torch.isfinite(part).all()) for part in torch.split(tensor.flatten(), VALUES))


def _check_calibration(learned: Learned) -> None:
    """ValueError for counts below zero, and for others than the description says."""
    counts = learned.calibration.numpy()
    if counts.min() < 0 or counts.max() > MOST // counts.size:
        raise ValueError("its calibration counts cosines below zero, or too many")
    for number, kind in enumerate(KINDS):
        totals = np.unique(counts[:, number].sum(1)).tolist()
        if totals != [learned.about["calibration"][kind]]:
            raise ValueError(f"its calibration counts {totals} {kind}, its description says otherwise")


def _reason(error: Exception) -> str:
    line = printable(next(iter(str(error).splitlines()), type(error).__name__))
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."
