"""The file of a learned similarity: what is written is read again, and what is anything else is refused."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from sklearn.decomposition import PCA

from adaptation.similarity.learned.calibration import BINS
from adaptation.similarity.learned.file import KEY, MOST_HEADER, Learned, describe, read_similarity, write_similarity
from common.errors import InputError
from featuresExtractor.pca import pca_digest

PROJECT = Path(__file__).resolve().parents[4]
COUNTS = torch.arange(2 * BINS).reshape(1, 2, BINS).repeat(2, 1, 1)
COUNTS[1] = COUNTS[1].flip(-1)


def numbers() -> dict[str, torch.Tensor]:
    """A head (5, 4) and a PCA from 6 dimensions to 4."""
    generator = torch.Generator().manual_seed(0)
    weight, mean, components = (torch.randn(*shape, generator=generator) for shape in ((5, 4), (6,), (4, 6)))
    return {"head.0.weight": weight, "pca.mean": mean.double(), "pca.components": components.double()}


def digest(mean: torch.Tensor, components: torch.Tensor) -> str:
    pca = PCA(len(components))
    pca.mean_, pca.components_ = mean.numpy(), components.numpy()
    return pca_digest(pca)


PCA_SHA256 = digest(numbers()["pca.mean"], numbers()["pca.components"])
ABOUT: dict[str, Any] = {
    "backbones": [],
    "gap": "no .json",
    "width": 6,
    "pca": {"fitted": "by extract.py", "sha256": PCA_SHA256, "components": 4},
    "head": {"name": "original", "sha256": None},
    "loss": {"name": "contrastive", "sha256": None},
    "logit_scale": 15.0,
    "settings": {},
    "pairs": {"count": 3, "sha256": "0" * 64},
    "metrics": {},
    "calibration": {"partners": int(COUNTS[0, 0].sum()), "strangers": int(COUNTS[0, 1].sum())},
    "versions": {},
}
NETWORK: dict[str, Any] = {
    "model": "tiny",
    "network": {},
    "layers": {"layer1": 6},
    "weights": {"sha256": None, "seed": 0},
    "preprocess": "own",
    "preprocessing": {},
    "pooling": "mean",
    "tokens": {"pooled": "mean", "not of the picture": 0},
    "precision": "fp32",
    "weights_origin": "random",
}


def similarity(**changes: Any) -> Learned:
    whole = numbers()
    head = {"0.weight": whole["head.0.weight"]}
    return Learned(ABOUT | changes, head, whole["pca.mean"], whole["pca.components"], COUNTS)


def tensors(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The tensors of `similarity()` under their names in the file; None takes one away."""
    named: dict[str, torch.Tensor | None] = {"calibration": COUNTS, **numbers()}
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
    write_similarity(tmp_path / "a.safetensors", Learned({**whole.about, "pca": None}, whole.head, None, None, COUNTS))
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
    "a huge width": (save(tensors(), about(width=10**9)), "its field 'width' is"),
    "a negative width": (save(tensors(), about(width=-6)), "its field 'width' is"),
    "networks of text": (save(tensors(), about(backbones=["x"])), "its field 'backbones 1' is"),
    "another width": (save(tensors(), about(width=7)), "its tensor pca.mean is"),
    "no calibration": (save(tensors(calibration=None), about()), "its tensor calibration is missing"),
    "a short calibration": (save(tensors(calibration=COUNTS[:, :, :9].clone()), about()), "its tensor calibration is"),
    "a calibration of floats": (save(tensors(calibration=COUNTS.double()), about()), "its tensor calibration is"),
    "counts below zero": (save(tensors(calibration=-COUNTS), about()), "counts cosines below zero, or too many"),
    "counts beyond all": (save(tensors(calibration=COUNTS + 2**62), about()), "counts cosines below zero, or too many"),
    "other counts": (save(tensors(calibration=COUNTS + 1), about()), "partners, its description says otherwise"),
    "a PCA that is not there": (
        save(tensors(**{"pca.mean": None, "pca.components": None}), about()),
        "its tensor pca.mean is missing",
    ),
    "a PCA that is not described": (save(tensors(), about(pca=None)), "it holds pca.components, pca.mean, which no"),
    "another PCA": (save(tensors(**{"pca.mean": torch.ones(6).double()}), about()), "its PCA is another one than its"),
    "a head of odd numbers": (
        save(tensors(**{"head.a": torch.zeros(4, dtype=torch.float8_e5m2)}), about()),
        "its tensor head.a is of a type that no head has",
    ),
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
    for name in ABOUT
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
    assert len(str(error.value)) < 400 + len(str(path))


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no file; give a similarity"):
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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="no file; give a similarity"):
        read_similarity(tmp_path / "a.safetensors")


def test_weights_that_share_memory_are_written_each(tmp_path: Path) -> None:
    """As of a head whose two layers are one."""
    weight = torch.randn(4, 4)
    head = {"a": weight, "b": weight, "c": weight.T}
    write_similarity(tmp_path / "a", replace(similarity(), head=head))
    read = read_similarity(tmp_path / "a").head
    assert torch.equal(read["a"], weight)
    assert torch.equal(read["b"], weight)
    assert torch.equal(read["c"], weight.T)


def test_what_it_holds_is_described_without_reading_its_numbers(tmp_path: Path) -> None:
    write_similarity(tmp_path / "a", similarity())
    described = describe(tmp_path / "a")
    assert (described.reduced, described.head) == (4, {"0.weight": (5, 4)})
    assert described.about == read_similarity(tmp_path / "a").about


def test_cosines_of_unknown_kinds_are_refused() -> None:
    for space, kind in (("raw", "partners"), ("frozen", "friends")):
        with pytest.raises(InputError, match=r"unknown cosines '(raw|friends)'; allowed are \w+ and \w+"):
            similarity().counts(space, kind)
