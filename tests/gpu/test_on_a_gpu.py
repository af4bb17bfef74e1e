"""What users run, on a real GPU beside the CPU: equal within the bounds that are written here. `make test-gpu` runs it.

The bounds are those of rounding: fp32 has 24 bits of mantissa, TF32 and fp16 have 11, bf16 has 8.
"""

from __future__ import annotations

import csv
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import extract
import train
from adaptation.similarity.learned.file import read_similarity
from common.machine.device import device_name
from common.storage.files import read_json
from featuresExtractor.backbones.activations import LayerReader
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.backbones.layers import named
from featuresExtractor.backbones.weights.loading import find_weights, load_backbone
from featuresExtractor.features.features_file import open_features
from featuresExtractor.features.writing import write_pairs
from featuresExtractor.pca import Projection, fit_pca

# The libraries of a GPU warn of much that is no fault here.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB = 2**20
APART = {"fp32": (0.0, 2e-5), "tf32": (0.0, 3e-3), "fp16": (2e-5, 3e-3), "bf16": (5e-4, 3e-2)}
"""How far features of a precision are from those of fp32 on a CPU, by their length: fp16 rounds by some 3e-4, bf16 by
some 3e-3. That tf32 rounds at all is shown with resnet18, whose convolutions are wide enough."""
LOSSES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}  # how far the losses of some epochs may be apart


@contextmanager
def memory_of(size: int) -> Iterator[None]:
    """Let torch take so many more bytes of the GPU and no more: the next ones are out of memory for real."""
    gc.collect()  # a network may be in a circle of references
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


# ---- extraction and PCA


def extracted(root: Path, folder: Path, where: str, *words: str, model: str = "tiny", pca: int = 3) -> Path:
    """The folder of the features of pairs."""
    call = ["-d", str(root), "-s", str(folder), "--model", model, "--weights", "random", "-p", "adapt-pca", str(pca)]
    assert extract.main([*call, f"--{where}", *words]) == 0
    (record,) = folder.glob("*/features.json")
    if where == "gpu":
        assert device_name(CUDA) in str(read_json(record))
    return record.parent


def vectors_of(path: Path) -> NDArray[np.float64]:
    """All vectors of a features file, (n, D)."""
    rows = np.load(path)
    return np.concatenate([rows[side] for side in open_features(path).sides]).astype(np.float64)


def apart(one: Path, other: Path) -> float:
    """The largest distance between the vectors of two folders, by their lengths."""
    first, second = (vectors_of(folder / "features.npy") for folder in (one, other))
    return float((np.linalg.norm(first - second, axis=1) / np.linalg.norm(first, axis=1)).max())


def check_apart(exact: Path, folder: Path, precision: str) -> None:
    least, most = APART[precision]
    assert least <= apart(exact, folder) <= most


@pytest.mark.parametrize("precision", list(APART))
@pytest.mark.parametrize("model", ["tiny", "resnet18", "clip_rn50"])
def test_features_are_those_of_the_cpu(
    model: str, precision: str, pairs: Callable[[int], Path], tiny_model: Backbone, tmp_path: Path
) -> None:
    root = pairs(4)
    cpu = extracted(root, tmp_path / "cpu", "cpu", model=model)
    gpu = extracted(root, tmp_path / "gpu", "gpu", "--precision", precision, "-b", "3", model=model)
    check_apart(cpu, gpu, precision)
    if (model, precision) == ("resnet18", "tf32"):
        assert apart(cpu, gpu) > APART["fp16"][0]
    if precision == "fp32":
        reduced = [vectors_of(folder / "features_pca3.npy") for folder in (cpu, gpu)]
        np.testing.assert_allclose(reduced[1], reduced[0], atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_features_are_those_of_the_cpu(
    precision: str, pairs: Callable[[int], Path], tiny_model: Backbone, tmp_path: Path
) -> None:
    root = pairs(4)
    cpu = extracted(root, tmp_path / "cpu", "cpu")
    gpu = extracted(root, tmp_path / "gpu", "gpu", "--compile", "--precision", precision)
    check_apart(cpu, gpu, precision)


def test_an_extraction_that_fills_the_memory_goes_on_with_smaller_batches(
    pairs: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pairs(32)
    whole = extracted(root, tmp_path / "whole", "gpu", "-b", "64", model="resnet18")
    with memory_of(256 * MIB):  # 45 MiB of weights, and 196 MiB for the first map of 64 images
        short = extracted(root, tmp_path / "short", "gpu", "-b", "64", model="resnet18")
    assert re.search(r"the memory is full: going on with \d+ images at a time", capsys.readouterr().err)
    check_apart(whole, short, "fp32")


@pytest.mark.parametrize("width", [300, 1500], ids=["float64", "float32"])
def test_a_pca_is_that_of_the_cpu(width: int) -> None:
    generator = np.random.default_rng(0)
    scales = 1 / np.arange(1, width + 1)
    chunks = [(generator.normal(size=(500, width)) * scales).astype(np.float32) for _ in range(4)]
    cpu, gpu = (fit_pca(iter(chunks), width, 8, device) for device in (CPU, CUDA))
    np.testing.assert_allclose(gpu.explained_variance_, cpu.explained_variance_, rtol=1e-6)
    assert np.abs((gpu.components_ * cpu.components_).sum(1)).min() > 1 - 1e-10
    expected = Projection(cpu, CPU)(chunks[0])
    np.testing.assert_allclose(Projection(cpu, CUDA)(chunks[0]), expected, atol=1e-5)


# ---- training


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of 300 pairs that have something in common."""
    generator = np.random.default_rng(0)
    shared = generator.normal(size=(300, 64))
    left, right = ((shared + generator.normal(size=shared.shape)).astype(np.float32) for _ in range(2))
    path = tmp_path_factory.mktemp("features") / "features.npy"
    write_pairs(path, left, right)
    return path


def trained(features: Path, folder: Path, where: str, *words: str) -> Path:
    call = ["-d", str(features), "-s", str(folder), "-t", "15", "-e", "10", f"--{where}", *words]
    assert train.main(call) == 0
    assert read_json(folder / "summary.json")["device"].startswith("cuda" if where == "gpu" else "cpu")
    return folder


def losses(folder: Path) -> list[float]:
    """The losses of all runs and epochs, of training and test pairs."""
    found: list[float] = []
    for path in sorted(folder.glob("run*/train.csv")) + sorted(folder.glob("run*/val.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            found += [float(row["Loss"]) for row in csv.DictReader(file)]
    return found


CALLS: dict[str, list[str]] = {
    "one run": [],
    "three runs": ["-r", "3"],
    "batches": ["-r", "3", "--batch-size", "40"],
    "a PCA of each run": ["-r", "3", "--pca-fit", "train", "--components", "16"],
    "another head": ["-r", "2", "--model", "peterson"],
    "a final head": ["-r", "2", "--final"],
    "tf32": ["-r", "3", "--precision", "tf32"],
    "bf16": ["-r", "3", "--precision", "bf16"],
}


@pytest.mark.parametrize("words", CALLS.values(), ids=CALLS)
def test_training_is_that_of_the_cpu(words: list[str], features: Path, tmp_path: Path) -> None:
    on_cpu = [word for word in words if word not in ("--precision", "tf32", "bf16")]
    cpu = trained(features, tmp_path / "cpu", "cpu", *on_cpu)
    gpu = trained(features, tmp_path / "gpu", "gpu", *words)
    precision = words[-1] if words[-1:] in (["tf32"], ["bf16"]) else "fp32"
    expected = losses(cpu)
    assert len(expected) >= 20
    assert losses(gpu) == pytest.approx(expected, rel=LOSSES[precision], abs=LOSSES[precision])
    frozen = [frozen_of(folder) for folder in (cpu, gpu)]
    assert frozen[1] == pytest.approx(frozen[0], abs=1e-5)  # in fp32 whatever the precision
    counted = [read_similarity(folder / "run1" / "similarity.safetensors").calibration[0] for folder in (cpu, gpu)]
    assert int((counted[0] - counted[1]).abs().sum()) <= counted[0].sum() // 100  # near the edge of a bin alone


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_rounds_the_products_of_training(precision: str, features: Path, tmp_path: Path) -> None:
    exact, rounded = (
        losses(trained(features, tmp_path / name, "gpu", "--precision", name)) for name in ("fp32", precision)
    )
    assert rounded != pytest.approx(exact, rel=1e-6)


def test_a_batch_is_computed_while_the_last_one_waits_to_be_fetched(tiny_model: Backbone) -> None:
    backbone = load_backbone(named("resnet18"), find_weights(named("resnet18"), "random", 0))
    reader = LayerReader(backbone, tuple(named("resnet18").layers))
    forward = Forward(reader, named("resnet18").preprocessing, 2, CUDA, 256)
    pixels = torch.zeros(256, 3, 224, 224, dtype=torch.uint8).pin_memory()
    forward(pixels)
    torch.cuda.synchronize()
    first = forward.start(pixels)
    event: Any = torch.cuda.Event
    computed = event()
    computed.record()
    second = forward.start(pixels)  # returns while the first batch may still be computed
    assert not computed.query()
    np.testing.assert_array_equal(first()[0], second()[0])


def frozen_of(folder: Path) -> list[float]:
    with (folder / "run1" / "frozen.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["Loss"]) for row in csv.DictReader(file)]


def test_the_same_call_on_the_same_gpu_gives_the_same_losses(features: Path, tmp_path: Path) -> None:
    one, other = (trained(features, tmp_path / name, "gpu", "-r", "3") for name in ("one", "other"))
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)


def test_a_training_that_fills_the_memory_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = (np.random.default_rng(seed).normal(size=(4000, 256)).astype(np.float32) for seed in range(2))
    write_pairs(tmp_path / "features.npy", left, right)
    call = ["-d", str(tmp_path / "features.npy"), "-s", str(tmp_path / "runs"), "-e", "2", "--gpu"]
    with memory_of(16 * MIB):  # the similarities of the 3,000 training pairs alone take 34 MiB
        assert train.main(call) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "the GPU's memory does not hold the runs; give less --memory, a --batch-size, or --cpu; " in line
    assert "GiB are free" in line
    assert train.main(call) == 0


def test_checkpoints_need_no_gpu(features: Path, tmp_path: Path) -> None:
    run = trained(features, tmp_path / "runs", "gpu") / "run1"
    checkpoint: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)  # without map_location
    states = [value for state in checkpoint["optimizer"]["state"].values() for value in state.values()]
    tensors = [value for value in [*checkpoint["head"].values(), *states] if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
