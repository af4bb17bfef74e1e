"""The file of a learned similarity: what is written is read again, and what is anything else is refused."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from adaptation.similarity.learned.calibration import BINS
from adaptation.similarity.learned.file import FIELDS, KEY, MOST_HEADER, Learned, read_similarity, write_similarity
from common.errors import InputError

PROJECT = Path(__file__).resolve().parents[4]
ABOUT: dict[str, Any] = {
    "backbones": [{"model": "tiny"}],
    "width": 6,
    "pca": {"sha256": "0" * 64},
    "head": {"name": "original", "sha256": None},
    "loss": {"name": "contrastive"},
    "logit_scale": 15.0,
    "settings": {},
    "pairs": {"count": 3},
    "metrics": {},
    "calibration": {},
    "versions": {},
}
COUNTS = torch.arange(4 * BINS).reshape(2, 2, BINS)


def similarity(**changes: Any) -> Learned:
    generator = torch.Generator().manual_seed(0)
    head = {"0.weight": torch.randn(5, 4, generator=generator)}
    mean = torch.randn(6, generator=generator).double()
    components = torch.randn(4, 6, generator=generator).double()
    return Learned(ABOUT | changes, head, mean, components, COUNTS)


def tensors(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The tensors of `similarity()` under their names in the file; None takes one away."""
    whole = similarity()
    assert whole.mean is not None
    assert whole.components is not None
    named: dict[str, torch.Tensor | None] = {
        "calibration": COUNTS,
        "pca.mean": whole.mean,
        "pca.components": whole.components,
        "head.0.weight": whole.head["0.weight"],
    }
    return {name: tensor for name, tensor in (named | changes).items() if tensor is not None}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_similarity(path, similarity())
    read = read_similarity(path)
    assert {name: value for name, value in read.about.items() if name != "format"} == ABOUT
    assert read.width == 6
    assert read.reduced == 4
    for name, tensor in similarity().head.items():
        assert torch.equal(read.head[name], tensor)
    for own, other in ((read.mean, similarity().mean), (read.components, similarity().components)):
        assert own is not None
        assert other is not None
        assert torch.equal(own, other)
    assert torch.equal(read.counts("adapted", "strangers"), COUNTS[1, 1])
    assert torch.equal(read.counts("frozen", "partners"), COUNTS[0, 0])


def test_without_a_pca_the_head_takes_the_features(tmp_path: Path) -> None:
    whole = similarity()
    write_similarity(tmp_path / "a.safetensors", Learned(whole.about, whole.head, None, None, COUNTS))
    read = read_similarity(tmp_path / "a.safetensors")
    assert read.mean is None
    assert read.components is None
    assert read.reduced == read.width == 6


def test_the_same_similarity_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_similarity(tmp_path / name, similarity())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# --- files of others ---


def about(**changes: Any) -> dict[str, str]:
    return {KEY: json.dumps({"format": 1, **ABOUT, **changes})}


def header(length: int, contents: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + contents


NANS = torch.full((5, 4), float("nan"))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a learned similarity"),
    "a few bytes": (b"abc", "not a learned similarity"),
    "random": (np.random.default_rng(0).bytes(5000), "not a learned similarity"),
    "a header of 8 EB": (header(2**63 - 1), "too long a header"),
    "a header of 5 MB": (header(5 * 2**20, b" " * 5 * 2**20), "too long a header"),
    "a header of noise": (header(100, b"x" * 200), "not a learned similarity"),
    "a pickle": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.", "not a learned similarity"),
    "cut short": (save(tensors(), about())[:-9], "not a learned similarity"),
    "bytes behind": (save(tensors(), about()) + b"more", "not a learned similarity"),
    "no metadata": (save(tensors()), "its metadata has no entry 'similarity'"),
    "no JSON": (save(tensors(), {KEY: "{"}), "not a learned similarity"),
    "a list": (save(tensors(), {KEY: "[]"}), "format 1 is expected"),
    "nested deeply": (save(tensors(), {KEY: "[" * 10**5}), "not a learned similarity"),
    "of the future": (save(tensors(), {KEY: json.dumps({**ABOUT, "format": 2})}), "format 1 is expected"),
    "a huge width": (save(tensors(), about(width=10**9)), "its width is 1000000000"),
    "a negative width": (save(tensors(), about(width=-6)), "its width is -6"),
    "networks of text": (save(tensors(), about(backbones=["x"])), "its networks are of another type"),
    "another width": (save(tensors(), about(width=7)), "its tensor pca.mean is"),
    "no calibration": (save(tensors(calibration=None), about()), "its tensor calibration is missing"),
    "a short calibration": (save(tensors(calibration=COUNTS[:, :, :9].clone()), about()), "its tensor calibration is"),
    "a calibration of floats": (save(tensors(calibration=COUNTS.double()), about()), "its tensor calibration is"),
    "half of a PCA": (save(tensors(**{"pca.mean": None}), about()), "its tensor pca.mean is missing"),
    "a PCA of float32": (save(tensors(**{"pca.mean": torch.zeros(6)}), about()), "its tensor pca.mean is"),
    "another tensor": (save(tensors(code=torch.zeros(2)), about()), "it holds code, which no similarity has"),
    "NaNs": (save(tensors(**{"head.0.weight": NANS}), about()), "head.0.weight: values that are not finite"),
    "infinities": (save(tensors(**{"pca.mean": torch.full((6,), torch.inf).double()}), about()), "pca.mean: values"),
}
HOSTILE |= {
    f"no {name}": (
        save(tensors(), {KEY: json.dumps({k: v for k, v in {"format": 1, **ABOUT}.items() if k != name})}),
        name,
    )
    for name in FIELDS.keys() - {"pca"}  # which not all have
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_similarity_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    contents, message = HOSTILE[kind]
    path = tmp_path / "a.safetensors"
    path.write_bytes(contents)
    with pytest.raises(InputError) as error:
        read_similarity(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no learned similarity can be read here"):
            read_similarity(path)


def test_a_file_of_holes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    contents = {"head.a": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}
    text = json.dumps({"__metadata__": about(), **contents}).encode()
    with path.open("wb") as file:
        file.write(header(len(text), text))
        file.truncate(8 + len(text) + 2**40)
    with pytest.raises(InputError, match=r"reading it takes 2,048 GiB of memory"):
        read_similarity(path)


MEASURED = """
import resource, sys
sys.path.insert(0, {project!r})
from pathlib import Path
from adaptation.similarity.learned.file import read_similarity
import safetensors, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_similarity(Path({path!r}))
except Exception as error:
    print(type(error).__name__, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="peak memory is not told here")
def test_a_description_at_the_limit_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(tensors(), about(metrics={"x": [[]] * (MOST_HEADER // 8)}, width=0)))
    code = MEASURED.format(project=str(PROJECT), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name, grown = done.stdout.split()
    assert name == "InputError"
    assert int(grown) < 300 * 1024  # KiB


def test_a_head_of_other_shapes_is_refused_before_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptation import heads
    from adaptation.similarity.similarity import Similarity

    built: list[str] = []
    whole: Callable[[int], Any] = heads.HEADS["original"]

    def build(features: int) -> Any:
        head = whole(features)
        built.append(next(head.parameters()).device.type)
        return head

    monkeypatch.setitem(heads.HEADS, "original", build)
    write_similarity(tmp_path / "a.safetensors", similarity())
    with pytest.raises(InputError, match=r"its head original has tensors of shapes"):
        Similarity.load(tmp_path / "a.safetensors")
    assert built == ["meta"]
