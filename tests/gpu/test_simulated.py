"""Extraction, PCA and training on a GPU that is simulated: no operation mixes devices, no loop waits, nothing is sent.

The commands run as users run them. Tensors of the device hold no numbers, so these tests cannot see

- whether numbers are right, finite or equal to those of a CPU;
- whether CUDA has a kernel for an operation and a type, what a kernel demands of shapes, and whether it is
  deterministic;
- how much memory is taken, and what happens when it is full;
- how fast anything is, and whether copies and products overlap;
- waits inside CUDA's own libraries, such as those of its eigensolvers and allocators;
- `--compile`, pinned memory, several GPUs, and branches that only other numbers lead to.

`test_on_a_gpu.py` looks at these where there is a GPU (`make test-gpu`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import extract
import train
from adaptation import trainer
from adaptation.curves import Metrics
from adaptation.data.pairs import Pairs
from adaptation.data.split_pca import SplitPCA
from adaptation.similarity.learned.file import read_similarity
from adaptation.tiled_loss import Tiling
from adaptation.trainer import Settings, train_final, train_runs
from common.machine.device import uploaded
from common.storage.files import read_json
from featuresExtractor.backbones.activations import LayerReader
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.inference import Forward
from featuresExtractor.backbones.weights.loading import random_network
from featuresExtractor.features.writing import write_pairs
from featuresExtractor.pca import NARROW, MeasuredProjection, Projection, fit_pca
from tests.gpu.simulated import CARD, Event, Mixed, Simulated, Uploads, Waits, beside, simulated

KINDS = ["cuda", "meta"]  # fakes know CUDA's rules of devices; meta tensors go through autograd's own engine
EPOCHS = 2


def pairs_of(count: int = 32, width: int = 24) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, count, width, generator=generator) for _ in range(2))
    return Pairs(left, right, [(f"l{number}.png", f"r{number}.png") for number in range(count)])


# ---- the simulation itself


def test_tensors_that_stay_on_the_device_are_no_fault() -> None:
    for kind in KINDS:
        with simulated(kind) as gpu:
            gpu.uploads = 0
            left = torch.zeros(3, 4, device=kind)
            (left @ left.T + 1).softmax(-1)[:2].sum()
            assert re.fullmatch("c+", gpu.log)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0, 0].item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu(),
        lambda x: float(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.zeros(3, 4).copy_(x),
    ],
    ids=["item", "tolist", "bool", "cpu", "float", "nonzero", "mask", "copy"],
)
def test_each_wait_is_seen(kind: str, wait: Callable[[Tensor], object]) -> None:
    with simulated(kind) as gpu:
        values = torch.zeros(3, 4, device=kind)
        gpu.uploads = 1
        with pytest.raises(Waits):
            wait(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "send",
    [
        lambda x: torch.zeros(3).to(x.device),
        lambda x: torch.zeros(3, 4, device=x.device).copy_(torch.zeros(3, 4)),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: torch.tensor([1.0, 2.0]).to(x),
    ],
    ids=["to", "copy", "index", "like"],
)
def test_each_upload_is_seen(kind: str, send: Callable[[Tensor], object]) -> None:
    with simulated(kind) as gpu:
        values = torch.zeros(3, 4, device=kind)
        gpu.uploads = 1
        with beside(gpu):
            send(values)
        with pytest.raises(Uploads):
            send(values)


def test_what_is_sent_in_the_stream_of_the_work_is_a_wait() -> None:
    with simulated("cuda") as gpu:
        gpu.uploads = 2
        assert uploaded(torch.zeros(3), gpu.device).device.type == "cuda"
        with pytest.raises(Waits):
            torch.zeros(3).to(gpu.device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("operation", [torch.add, torch.matmul, Tensor.add_], ids=["+", "product", "in place"])
def test_two_devices_in_one_operation_are_seen(kind: str, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    with simulated(kind), pytest.raises(Mixed):
        operation(torch.zeros(4, 4, device=kind), torch.zeros(4, 4))


# ---- extraction and PCA


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["resnet18", "timm/test_resnet", "clip_rn50"])
def test_extraction_and_pca_as_users_run_them(
    model: str, precision: str, pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    """A model of each library: torchvision, timm and open_clip."""
    words = ["-d", str(pairs(4)), "-s", str(tmp_path), "--model", model, "--weights", "random", "-p", "adapt-pca", "3"]
    with simulated("cuda"):
        assert extract.main([*words, "--precision", precision, "-b", "4", "--gpu"]) == 0
    (record,) = tmp_path.glob("*/features.json")
    assert f"cuda ({CARD})" in str(read_json(record))
    assert len(list(tmp_path.glob("*/*.npy"))) == 2  # the features, and those of 3 dimensions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joined", [True, False], ids=["joined", "layer by layer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_of_a_batch_is_computed_before_anything_is_waited_for(
    kind: str, joined: bool, precision: str, tiny_model: Backbone
) -> None:
    network = random_network(tiny_model, 0).eval().requires_grad_(False)
    pixels = torch.zeros(5, 3, 32, 32, dtype=torch.uint8)
    with simulated(kind) as gpu:
        reader = LayerReader(network, tuple(tiny_model.layers))
        forward = Forward(reader, tiny_model.preprocessing, 2, gpu.device, 4, joined, precision)
        forward(pixels)
        gpu.log = ""
        forward(pixels)
    assert re.fullmatch("([uc]+f+){2}", gpu.log)


def test_the_next_batch_is_computed_before_the_last_one_is_fetched(
    tiny_model: Backbone, pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    network = random_network(tiny_model, 0).eval().requires_grad_(False)
    pixels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    words = ["-d", str(pairs(6)), "-s", str(tmp_path), "--model", tiny_model.name, "--weights", "random", "-p", "adapt"]
    with simulated("cuda") as gpu:
        reader = LayerReader(network, tuple(tiny_model.layers))
        forward = Forward(reader, tiny_model.preprocessing, 2, gpu.device, 4, precision="bf16")
        forward(pixels)
        gpu.log = ""
        waiting = [forward.start(pixels), forward.start(pixels)]
        assert re.fullmatch("([uc]+f+){2}", gpu.log)
        assert [fetch()[0].shape[:2] for fetch in waiting] == [(2, 4), (2, 4)]
        gpu.log = ""
        assert extract.main([*words, "-b", "4", "--gpu", "--precision", "bf16"]) == 0  # no layout is timed
    assert re.search("([uc]+f+){2}ss$", gpu.log)  # the third batch is computed before the second is waited for


@pytest.mark.parametrize(("second", "layout"), [(0.90, "channels first"), (0.96, "channels last")])
def test_the_faster_layout_is_measured_on_a_gpu_in_fp32(
    second: float, layout: str, tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([9.0, 1.0, 1.0, 1.2, 9.0, 1.0, second, 1.0])
    monkeypatch.setattr(Event, "elapsed_time", lambda *_: next(times))
    reader = LayerReader(random_network(tiny_model, 0).eval().requires_grad_(False), tuple(tiny_model.layers))
    with simulated("cuda") as gpu:
        assert Forward(reader, tiny_model.preprocessing, 2, gpu.device, 4).layout == layout
        assert next(times, None) is None
        assert Forward(reader, tiny_model.preprocessing, 2, gpu.device, 4, precision="bf16").layout == "channels last"
        given = Forward(reader, tiny_model.preprocessing, 2, gpu.device, 4, layout="channels first")
        assert given.layout == "channels first"


def chunks_of(gpu: Simulated, width: int) -> Iterator[NDArray[np.float32]]:
    """Three chunks, between which the host may not wait, and sends two tensors at most: the rows and their mean."""
    for number in range(3):
        yield np.random.default_rng(number).normal(size=(20, width)).astype(np.float32)
        gpu.uploads = 2
    gpu.uploads = None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [40, NARROW + 1], ids=["float64", "float32"])
def test_no_chunk_of_a_pca_is_waited_for(kind: str, width: int) -> None:
    rows = np.ones((5, width), np.float32)
    with simulated(kind) as gpu:
        pca = fit_pca(chunks_of(gpu, width), width, 3, gpu.device)
        for projection in (Projection(pca, gpu.device), MeasuredProjection(pca, gpu.device)):
            gpu.log = ""
            assert projection(rows).shape == (5, 3)
            assert re.fullmatch("uc+f", gpu.log)
    assert pca.components_.shape == (3, width)


# ---- training


def watched(gpu: Simulated, steps: int, sent: int) -> Callable[[], None]:
    """What is called after each epoch: in the next one the host may not wait, and sends as many tensors at most. After
    the last one it fetches the curves."""
    following = iter(range(1, steps))

    def after_epoch() -> None:
        gpu.uploads = None if next(following, None) is None else sent

    return after_epoch


def train_on(gpu: Simulated, runs: int = 1, pca: bool = False, keep: bool = True, **settings: Any) -> None:
    """Train some runs, or a final head where `runs` is 0. With batches, one tensor is sent an epoch: their order."""
    chosen = Settings(**{"epochs": EPOCHS, "temperature": 15.0, "ks": (1, 3), **settings})
    after_epoch = watched(gpu, chosen.steps, 1 if chosen.batch_size else 0)
    split_pca = SplitPCA(8, gpu.device) if pca else None
    pairs = pairs_of() if pca else pairs_of().to(gpu.device)
    factors = torch.bfloat16 if chosen.precision == "bf16" else None
    tiling = Tiling(keep=keep, factors=factors, numbers=1, rows=10)
    if runs:
        trained = train_runs(pairs, chosen, range(1, runs + 1), after_epoch, split_pca, tiling)
        assert [len(run.train["Loss"]) for run in trained] == [chosen.steps] * runs
    else:
        assert len(train_final(pairs, chosen, 0, after_epoch, split_pca, tiling).loss) == chosen.steps


WAYS: dict[str, dict[str, Any]] = {
    "kept tiles": {},
    "tiles computed again": {"keep": False},
    "a large temperature": {"temperature": 80.0},
    "batches": {"batch_size": 12},
    "bf16": {"precision": "bf16"},
    "own PCA": {"pca": True},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("head", ["original", "peterson"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_epoch_is_waited_for_and_none_sends_more_than_its_batches(
    kind: str, head: str, runs: int, way: dict[str, Any]
) -> None:
    with simulated(kind) as gpu:
        train_on(gpu, runs, head=head, **way)


@pytest.mark.parametrize(("head", "runs"), [("dummy", 3), ("original", 0)], ids=["no head", "a final head"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_frozen_features_nor_a_final_head_are_waited_for(kind: str, head: str, runs: int) -> None:
    with simulated(kind) as gpu:
        train_on(gpu, runs, head=head)


CALLS = {
    "three runs, batches and a final head": ["-r", "3", "--batch-size", "4", "--final"],
    "a PCA of each run": ["-r", "2", "--pca-fit", "train", "--components", "3", "--precision", "tf32"],
    "bf16": ["--precision", "bf16", "--model", "peterson"],
}


@pytest.mark.parametrize("words", CALLS.values(), ids=CALLS)
def test_training_as_users_run_it_and_its_checkpoints_need_no_gpu(words: list[str], tmp_path: Path) -> None:
    pairs = pairs_of(16, 8)
    write_pairs(tmp_path / "features.npy", pairs.left[0].numpy(), pairs.right[0].numpy())
    call = ["-d", str(tmp_path / "features.npy"), "-s", str(tmp_path / "runs"), "-e", str(EPOCHS), "--gpu", *words]
    with simulated("cuda"):
        assert train.main(call) == 0
    checkpoints = list((tmp_path / "runs").rglob("*.pt*"))
    assert checkpoints
    for path in checkpoints:
        assert "device(type='cuda" not in repr(torch.load(path, weights_only=True))
    for path in (tmp_path / "runs").rglob("similarity.safetensors"):
        assert read_similarity(path).calibration.device.type == "cpu"


# ---- code that does what it must not


def also(function: Callable[..., Any], act: Callable[[Tensor], object]) -> Callable[..., Any]:
    """A function of training that does something else with what it returns first, a tensor of the device."""

    def changed(*given: Any, **named: Any) -> Any:
        result: Metrics = function(*given, **named)
        act(next(iter(result.values())))
        return result

    return changed


BREAKS: dict[str, tuple[type[Exception], Callable[[Tensor], object]]] = {
    "mixed devices": (Mixed, lambda values: values + torch.zeros(len(values))),
    "item": (Waits, lambda values: values[0].item()),
    "tolist": (Waits, lambda values: values.tolist()),
    "bool": (Waits, lambda values: bool(values.isfinite().all())),
    "cpu": (Waits, lambda values: values.cpu()),
    "upload": (Uploads, lambda values: torch.zeros(3).to(values.device)),
}


@pytest.mark.parametrize(("fault", "act"), BREAKS.values(), ids=BREAKS)
@pytest.mark.parametrize("name", ["train_epoch", "evaluate"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_breaks_a_rule_is_seen(
    kind: str, name: str, fault: type[Exception], act: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, name, also(getattr(trainer, name), act))
    with simulated(kind) as gpu, pytest.raises(fault):
        train_on(gpu)
