"""`similarity.safetensors`: the one file that holds all of a learned similarity. Tensors and text, no code, no paths.

    head.*           the state dict of the head
    pca.mean         (D,) float64, and
    pca.components   (n, D) float64: the PCA before the head, where there is one
    calibration      (2, 2, 2000) int64: cosines of test pairs by bins; frozen and adapted, partners and strangers

The metadata has one entry, `similarity`, a JSON object: `format`, `backbones`, `width` (D), `pca`, `head`, `loss`,
`logit_scale`, `settings`, `pairs`, `metrics`, `calibration`, `versions`. A file may be anyone's: its header is bounded,
shapes are compared before tensors are read, and values must be finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptation.similarity.learned.calibration import BINS, KINDS, SPACES
from common.errors import InputError, listed, printable
from common.machine.resources import available_memory, require_memory
from common.storage.files import written_whole

NAME, KEY, FORMAT = "similarity.safetensors", "similarity", 1
MOST_HEADER = 2**22  # bytes; those of 37 networks side by side take less than a hundredth of it
MOST_WIDTH = 2**24
HEAD, MEAN, COMPONENTS, CALIBRATION = "head.", "pca.mean", "pca.components", "calibration"
FIELDS = {
    "backbones": list,
    "width": int,
    "pca": (dict, type(None)),
    "head": dict,
    "loss": dict,
    "logit_scale": (int, float),
    "settings": dict,
    "pairs": dict,
    "metrics": dict,
    "calibration": dict,
    "versions": dict,
}
"""What the description must hold, and of which types."""


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

    def counts(self, space: str, kind: str) -> Tensor:
        """Return the calibration (BINS,) of `frozen` or `adapted` cosines, of `partners` or `strangers`."""
        return self.calibration[SPACES.index(space), KINDS.index(kind)]


def write_similarity(path: Path, learned: Learned) -> None:
    """Write the file, whole or not at all. The same similarity gives the same bytes."""
    from safetensors.torch import save

    tensors = {HEAD + name: value for name, value in learned.head.items()} | {CALIBRATION: learned.calibration}
    if learned.mean is not None and learned.components is not None:
        tensors |= {MEAN: learned.mean, COMPONENTS: learned.components}
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    contents = save(whole, {KEY: json.dumps({"format": FORMAT, **learned.about})})
    with written_whole(path) as partial:
        partial.write_bytes(contents)


def read_similarity(path: Path) -> Learned:
    """Read the file; InputError for one that is not whole, or holds anything but a similarity."""
    _check_size(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = _description(file.metadata() or {})
            _check_shapes({name: _shape(file, name) for name in file.keys()}, about)  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{printable(str(path))}: not a learned similarity ({_first_line(error)})") from error
    if unusable := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise InputError(f"{printable(str(path))}: {listed(unusable, 3)}: values that are not finite; do not use it")
    head = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    return Learned(about, head, tensors.get(MEAN), tensors.get(COMPONENTS), tensors[CALIBRATION].clamp(min=0))


def _check_size(path: Path) -> None:
    """InputError for a file that is missing, or whose header or tensors no memory should be given to."""
    shown = printable(str(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise InputError(f"{shown}: no learned similarity can be read here ({error.strerror})") from error
    if header > min(size - 8, MOST_HEADER):
        raise InputError(f"{shown}: not a learned similarity (no safetensors file, or too long a header)")
    require_memory(2 * size, available_memory(), f"{shown}: reading it takes", "free some")


def _description(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The description, with the fields that it must have; ValueError for anything else."""
    if KEY not in metadata:
        raise ValueError(f"its metadata has no entry '{KEY}'")
    about = json.loads(metadata[KEY])
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"format {FORMAT} is expected")
    for name, kind in FIELDS.items():
        if not isinstance(about.get(name), kind):  # type: ignore[arg-type]
            raise ValueError(f"its field '{name}' is missing or of another type")
    if not all(isinstance(network, dict) for network in about["backbones"]):
        raise ValueError("its networks are of another type")
    if not 0 < about["width"] <= MOST_WIDTH:
        raise ValueError(f"its width is {about['width']}")
    return about


def _shape(file: Any, name: str) -> tuple[str, tuple[int, ...]]:
    """The type and the shape of a tensor that is not read yet."""
    tensor = file.get_slice(name)
    return tensor.get_dtype(), tuple(tensor.get_shape())


def _check_shapes(shapes: Mapping[str, tuple[str, tuple[int, ...]]], about: Mapping[str, Any]) -> None:
    """ValueError for tensors that no similarity has, or of another shape. (Those of the head are compared with the
    head.)"""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {CALIBRATION: ("I64", (len(SPACES), len(KINDS), BINS))}
    if MEAN in shapes or COMPONENTS in shapes:
        components = shapes.get(COMPONENTS, ("", (0,)))[1][0:1]
        expected |= {MEAN: ("F64", (about["width"],)), COMPONENTS: ("F64", (*components, about["width"]))}
    for name, wanted in expected.items():
        if shapes.get(name) != wanted:
            raise ValueError(f"its tensor {name} is {shapes.get(name, 'missing')}, {wanted} is expected")
    if others := [name for name in shapes if name not in expected and not name.startswith(HEAD)]:
        raise ValueError(f"it holds {listed(others, 3)}, which no similarity has")


def _first_line(error: Exception) -> str:
    return printable(next(iter(str(error).splitlines()), type(error).__name__))
