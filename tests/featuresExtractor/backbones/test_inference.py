"""The backbone on its device: features depend on the images alone, in every precision, compiled or not."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import InputError, OutOfMemory
from featuresExtractor.backbones import inference as module
from featuresExtractor.backbones.activations import LayerReader, bytes_per_image, pooled, raw
from featuresExtractor.backbones.drift import Drift, check_same
from featuresExtractor.backbones.inference import LAYOUTS, Forward, default_batch
from featuresExtractor.backbones.weights.loading import find_weights, load_backbone
from featuresExtractor.models import Backbone, find_model
from featuresExtractor.transforms import normalise

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
WIDTH = 32 + 192 + 96


FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
]


class Cramped(nn.Module):
    """A network on a GPU whose memory holds `most` images; with more it raises the `error`."""

    def __init__(self, backbone: nn.Module, most: int, error: Exception = FULL[0]) -> None:
        super().__init__()
        self.backbone, self.most, self.error = backbone, most, error
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise self.error
        output: Tensor = self.backbone(images)
        return output


def forward_of(model: Backbone, batch: int = 64, views: int = 2, most: int | None = None) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    network = backbone if most is None else Cramped(backbone, most)
    prefix = "" if most is None else "backbone."
    layers = tuple(f"{prefix}{layer}" for layer in model.layers)
    return Forward(LayerReader(network, layers), model.preprocessing, views, CPU, batch)


def pixels_of(model: Backbone, count: int) -> Tensor:
    crop = model.preprocessing.crop
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, crop, crop), dtype=torch.uint8, generator=generator)


def whole_layers(model: Backbone, batch: int = 64, views: int = 2) -> Forward:
    backbone = load_backbone(model, find_weights(model, "random", 1))
    return Forward(LayerReader(backbone, tuple(model.layers), raw), model.preprocessing, views, CPU, batch, False)


def test_a_layout_changes_nothing_beyond_rounding(tiny_model: Backbone) -> None:
    features = []
    for layout in LAYOUTS:
        reader = LayerReader(load_backbone(tiny_model, find_weights(tiny_model, "random", 1)), tuple(tiny_model.layers))
        forward = Forward(reader, tiny_model.preprocessing, 2, CPU, 4, layout=layout)
        assert forward.layout == layout
        features.append(forward(pixels_of(tiny_model, 6))[0])
    np.testing.assert_allclose(features[1], features[0], atol=1e-5)


def test_a_gpu_is_given_more_images_at_a_time() -> None:
    assert (default_batch(CPU), default_batch(torch.device("cuda"))) == (64, 256)


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0"])
def test_second_view_is_a_second_pass_over_the_mirror_image_bit_for_bit(name: str, tiny_model: Backbone) -> None:
    model = tiny_model if name == "tiny" else find_model(name)
    pixels = pixels_of(model, 3)
    ((original, flipped),) = forward_of(model, views=2)(pixels)
    ((second_pass,),) = forward_of(model, views=1)(pixels.flip(-1))
    assert np.array_equal(flipped, second_pass)
    assert not np.allclose(original, flipped, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 2048])
def test_batch_size_does_not_change_features(batch: int, tiny_model: Backbone) -> None:
    pixels = pixels_of(tiny_model, 7)
    (features,) = forward_of(tiny_model, batch)(pixels)
    assert (features.shape, features.dtype.name) == ((2, 7, WIDTH), "float32")
    forward = forward_of(tiny_model)
    one_by_one = np.concatenate([forward(pixels[n : n + 1])[0] for n in range(7)], axis=1)
    assert np.allclose(features, one_by_one, atol=1e-6)


def test_memory_bounds_the_batch(tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = forward_of(tiny_model)
    probe = torch.zeros(1, 3, 32, 32)
    need = bytes_per_image(forward.backbone, probe) + 2 * 4 * WIDTH
    monkeypatch.setattr(module, "CPU_BUDGET", 5 * need + need // 2)
    assert [forward_of(tiny_model, batch).batch for batch in (1, 4, 5, 6, 2048)] == [1, 4, 5, 5, 5]
    monkeypatch.setattr(module, "CPU_BUDGET", need // 2)
    assert forward_of(tiny_model, 2048).batch == 1


@pytest.mark.parametrize("most", [1, 3, 5])
def test_gpu_out_of_memory_halves_the_batch_and_goes_on_with_the_same_result(
    most: int, tiny_model: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = pixels_of(tiny_model, 11)
    (reference,) = forward_of(tiny_model)(pixels)
    forward = forward_of(tiny_model, batch=8, most=most)
    assert np.allclose(forward(pixels)[0], reference, atol=1e-6)
    assert forward.batch == {1: 1, 3: 2, 5: 4}[most]
    assert f"the memory is full: going on with {forward.batch} images at a time" in capsys.readouterr().err
    assert isinstance(forward.backbone.backbone, Cramped)
    forward.backbone.backbone.seen.clear()
    forward(pixels)
    assert max(forward.backbone.backbone.seen) == forward.batch  # what was learnt is kept


NO_MEMORY = "the memory does not hold the network and one image; free some, or use --cpu where this is a GPU's"


class Weighing(Cramped):
    """A network whose GPU holds pixels of `most` bytes, each counted once."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) * images.element_size() > self.most:
            raise self.error
        output: Tensor = self.backbone(images)
        return output


@pytest.mark.parametrize("known", [True, False], ids=["estimated", "found out"])
def test_fp32_beside_which_a_precision_is_measured_does_not_halve_its_batch(
    known: bool, tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels, layers = pixels_of(tiny_model, 8), tuple(f"backbone.{layer}" for layer in tiny_model.layers)
    inside = bytes_per_image(forward_of(tiny_model).backbone, torch.zeros(1, 3, 32, 32))
    if known:
        monkeypatch.setattr(module, "CPU_BUDGET", 8 * (inside // 2 + 4 * WIDTH))
    network = Weighing(trained(tiny_model), 8 * 2)
    forward = Forward(LayerReader(network, layers), tiny_model.preprocessing, 1, CPU, 64 if known else 8, True, "bf16")
    assert forward.batch == 8
    network.seen.clear()
    (found,) = forward(pixels)
    assert forward.batch == 8
    assert network.seen == ([4, 4, 8] if known else [8, 4, 4, 8])
    assert "the memory is full" not in capsys.readouterr().err
    assert forward.drift is not None
    assert forward.drift.images == 8
    assert np.allclose(found, forward_in(tiny_model, "bf16", 8, views=1)(pixels)[0], atol=1e-2)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_memory_that_runs_out_anywhere_is_an_error_of_memory(error: Exception, tiny_model: Backbone) -> None:
    """At the first look, when BatchNorms are folded, and in a batch."""
    pixels = pixels_of(tiny_model, 5)
    backbone = load_backbone(tiny_model, find_weights(tiny_model, "random", 1))
    layers = tuple(f"backbone.{layer}" for layer in tiny_model.layers)

    def forward_with(network: nn.Module) -> Forward:
        return Forward(LayerReader(network, layers), tiny_model.preprocessing, 2, CPU, 8)

    forward = forward_with(Cramped(backbone, 2, error))
    (expected,) = forward_of(tiny_model)(pixels)
    assert np.allclose(forward(pixels)[0], expected, atol=1e-6)
    assert forward.batch == 2
    for calls in (0, 1):
        with pytest.raises(OutOfMemory) as caught:
            forward_with(Filling(copy.deepcopy(backbone), calls, error))
        assert str(caught.value) == NO_MEMORY


class Filling(Cramped):
    """A network whose GPU is full after `most` calls."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(self.seen) > self.most:
            raise self.error
        output: Tensor = self.backbone(images)
        return output


def test_memory_too_small_for_one_image_is_told(tiny_model: Backbone) -> None:
    with pytest.raises(InputError) as caught:
        forward_of(tiny_model, most=0)
    assert str(caught.value) == NO_MEMORY
    forward = forward_of(tiny_model, most=1)
    assert isinstance(forward.backbone.backbone, Cramped)
    forward.backbone.backbone.most = 0
    with pytest.raises(InputError) as caught:
        forward(pixels_of(tiny_model, 2))
    assert str(caught.value) == NO_MEMORY


# --- each layer on its own ---


def test_outputs_are_each_layer_or_all_of_them_joined(tiny_model: Backbone) -> None:
    assert whole_layers(tiny_model).shapes == [(32, 8, 8), (192, 2, 2), (96, 1, 1)]
    assert forward_of(tiny_model).shapes == [(WIDTH,)]


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_every_layer_is_given_for_every_view_and_image(batch: int, tiny_model: Backbone) -> None:
    pixels = pixels_of(tiny_model, 5)
    outputs = whole_layers(tiny_model, batch)(pixels)
    assert [output.shape for output in outputs] == [(2, 5, 32, 8, 8), (2, 5, 192, 2, 2), (2, 5, 96, 1, 1)]
    assert {output.dtype.name for output in outputs} == {"float32"}
    for view, images in enumerate((pixels, pixels.flip(-1))):
        for found, (expected,) in zip(outputs, whole_layers(tiny_model, views=1)(images), strict=True):
            assert np.allclose(found[view], expected, atol=1e-5)


def test_gpu_out_of_memory_loses_nothing_of_any_layer(tiny_model: Backbone) -> None:
    pixels = pixels_of(tiny_model, 7)
    reference = whole_layers(tiny_model)(pixels)
    forward = whole_layers(tiny_model, batch=4)
    forward.backbone.backbone = Cramped(forward.backbone.backbone, 2)
    for found, expected in zip(forward(pixels), reference, strict=True):
        assert np.allclose(found, expected, atol=1e-5)
    assert forward.batch == 2


# --- beside the plain network ---


def trained(model: Backbone) -> nn.Module:
    """The network with statistics of BatchNorms that are not those of the start, which change nothing."""
    backbone, generator = load_backbone(model, find_weights(model, "random", 1)), torch.Generator().manual_seed(2)
    for norm in backbone.modules():
        if isinstance(norm, _BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(std=0.3, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            with torch.no_grad():
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.normal_(std=0.3, generator=generator)
    return backbone


def by_hooks(network: nn.Module, model: Backbone, pixels: Tensor) -> Tensor:
    """Joined features (n, D) of the network as it is, in plain memory order."""
    kept: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: kept.update({layer: output.mean((2, 3))})
        )
        for layer in model.layers
    ]
    with torch.no_grad():
        network(normalise(pixels, model.preprocessing))
    for handle in handles:
        handle.remove()
    return torch.cat([F.normalize(kept[layer], dim=1) for layer in model.layers], dim=1)


def forward_in(model: Backbone, precision: str, batch: int = 64, compiled: bool = False, views: int = 2) -> Forward:
    backbone = LayerReader(trained(model), tuple(model.layers))
    return Forward(backbone, model.preprocessing, views, CPU, batch, True, precision, compiled)


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0", "resnet18"])
def test_fp32_features_are_those_of_the_plain_network(name: str, tiny_model: Backbone) -> None:
    model = tiny_model if name == "tiny" else find_model(name)
    model = replace(model, preprocessing=replace(model.preprocessing, crop=64))
    pixels, forward = pixels_of(model, 3), forward_in(model, "fp32", batch=2)
    assert not any(isinstance(one, _BatchNorm) for one in forward.backbone.modules())  # they were folded
    (features,) = forward(pixels)
    for view, images in enumerate((pixels, pixels.flip(-1))):
        expected = by_hooks(trained(model), model, images)
        found = torch.from_numpy(features[view])
        assert F.cosine_similarity(found.double(), expected.double()).min() >= 0.999999
        assert (found - expected).abs().max() < 1e-5
    others = features[0] @ features[0].T / len(model.layers) - np.eye(3)
    assert others.max() < 0.99999  # or another image would do as well
    assert forward.drift is None


# --- precision ---


def cosines(one: NDArray[Any], other: NDArray[Any]) -> list[float]:
    """Image by image and view by view, by hand."""
    pairs = zip(one.reshape(-1, WIDTH).tolist(), other.reshape(-1, WIDTH).tolist(), strict=True)
    return [np.dot(a, b) / (np.dot(a, a) * np.dot(b, b)) ** 0.5 for a, b in pairs]


@pytest.mark.parametrize(("batch", "count", "measured"), [(4, 7, 4), (64, 7, 7), (1, 2, 1)])
def test_drift_of_bf16_is_that_of_the_first_batch(batch: int, count: int, measured: int, tiny_model: Backbone) -> None:
    pixels = pixels_of(tiny_model, count)
    forward = forward_in(tiny_model, "bf16", batch)
    (found,), (exact,) = forward(pixels), forward_in(tiny_model, "fp32")(pixels)
    assert found.dtype == np.float32
    expected = cosines(found[:, :measured], exact[:, :measured])
    assert forward.drift is not None
    assert (forward.drift.precision, forward.drift.images) == ("bf16", measured)
    assert forward.drift.lowest == pytest.approx(min(expected), abs=1e-9)
    assert forward.drift.mean == pytest.approx(float(np.mean(expected)), abs=1e-9)
    assert 0.99 < forward.drift.lowest <= forward.drift.mean < 1 - 1e-8
    assert {tensor.dtype for tensor in forward.backbone.parameters()} == {torch.bfloat16}


def test_drift_is_measured_once(tiny_model: Backbone) -> None:
    forward, types = forward_in(tiny_model, "bf16", views=1), []
    forward.backbone.backbone.register_forward_pre_hook(lambda _, inputs: types.append(inputs[0].dtype))
    forward(pixels_of(tiny_model, 3))
    first = forward.drift
    (again,) = forward(pixels_of(tiny_model, 3).flip(0))
    assert forward.drift is first
    assert types == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert np.array_equal(forward(pixels_of(tiny_model, 3))[0][:, ::-1], again)


def test_drift_of_whole_layers_is_that_of_the_worst(tiny_model: Backbone) -> None:
    backbone = LayerReader(trained(tiny_model), tuple(tiny_model.layers), raw)
    forward = Forward(backbone, tiny_model.preprocessing, 1, CPU, 8, False, "bf16")
    forward(pixels_of(tiny_model, 2))
    assert forward.drift is not None
    assert 0.9 < forward.drift.lowest < forward.drift.mean < 1 - 1e-8


def test_features_that_are_no_numbers_in_fp32_are_not_blamed_on_a_precision(tiny_model: Backbone) -> None:
    forward = forward_in(tiny_model, "bf16", 4)
    next(forward.backbone.parameters()).data.fill_(torch.nan)
    with pytest.raises(InputError) as caught:
        forward(pixels_of(tiny_model, 5))
    expected = "the first 4 images: the network gives values that are not finite numbers; are these its weights?"
    assert str(caught.value) == expected


def test_drift_is_told_in_words() -> None:
    told = "fp16 beside fp32, cosine of the first 1,024 images' features: lowest 0.999876, mean 0.999988"
    assert str(Drift("fp16", 1024, 0.9998761, 0.9999881)) == told


MISSING = RuntimeError("\"strange\" not implemented for 'BFloat16'\nand so on")


class Only32(nn.Module):
    """A network with an operation that there is in fp32 alone: in others it raises the `error`."""

    def __init__(self, error: Exception = MISSING) -> None:
        super().__init__()
        self.error = error
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.float32:
            raise self.error
        output: Tensor = self.layer(images)
        return output


def test_network_that_cannot_be_computed_in_a_precision_is_told_in_one_line(tiny_model: Backbone) -> None:
    def made(precision: str) -> Forward:
        return Forward(LayerReader(Only32(), ("layer",)), tiny_model.preprocessing, 1, CPU, 8, True, precision)

    pixels = pixels_of(tiny_model, 2)
    assert made("fp32")(pixels)[0].shape == (1, 2, 4)
    with pytest.raises(InputError) as caught:
        made("bf16")(pixels)
    told = "this network cannot be computed in bf16 here: \"strange\" not implemented for 'BFloat16'"
    assert str(caught.value) == told


def test_an_error_of_a_gpu_is_not_blamed_on_a_precision(tiny_model: Backbone) -> None:
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    network = LayerReader(Only32(error), ("layer",))
    forward = Forward(network, tiny_model.preprocessing, 1, CPU, 8, True, "bf16")
    with pytest.raises(torch.AcceleratorError) as caught:
        forward(pixels_of(tiny_model, 2))
    assert caught.value is error


SETTINGS: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(params=[True, False])
def before(request: pytest.FixtureRequest) -> Iterator[list[bool]]:
    """Whether TF32 was allowed before, until the test is over."""
    found = [setting.allow_tf32 for setting in SETTINGS]
    for setting in SETTINGS:
        setting.allow_tf32 = request.param
    yield [request.param] * 2
    for setting, value in zip(SETTINGS, found, strict=True):
        setting.allow_tf32 = value


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", [False, False]), ("tf32", [False, True, True])])
def test_fp32_means_fp32_and_tf32_is_measured_beside_it(
    precision: str, allowed: list[bool], before: list[bool], tiny_model: Backbone
) -> None:
    forward, seen = forward_in(tiny_model, precision, views=1), []
    forward.backbone.backbone.register_forward_pre_hook(
        lambda *_: seen.append([setting.allow_tf32 for setting in SETTINGS])
    )
    forward(pixels_of(tiny_model, 1))
    forward(pixels_of(tiny_model, 1))
    assert seen == [[one, one] for one in allowed]
    assert [setting.allow_tf32 for setting in SETTINGS] == before


# --- compiled ---


class Compiler:
    """A `torch.compile` that notes what it is given, and the shapes that its code is called with."""

    def __init__(self, fault: str = "") -> None:
        self.settings: list[dict[str, object]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.types: list[torch.dtype] = []
        self.fault = fault

    def __call__(self, network: nn.Module, **settings: object) -> Callable[[Tensor], Any]:
        self.settings.append(settings)

        def code(images: Tensor) -> Any:
            if self.fault:
                raise RuntimeError(self.fault)
            self.shapes.append(tuple(images.shape))
            self.types.append(images.dtype)
            return network(images)

        return code


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch, "compile", made)
    return made


def test_compiled_code_is_made_once_and_sees_whole_batches_alone(tiny_model: Backbone, compiler: Compiler) -> None:
    pixels = pixels_of(tiny_model, 11)
    forward = forward_in(tiny_model, "fp32", 4, compiled=True)
    parts = [forward(part)[0] for part in (pixels[:4], pixels[4:8], pixels[8:9], pixels[9:])]
    assert compiler.settings == [{"dynamic": False}]
    assert compiler.shapes == [(4, 3, 32, 32)] * 8  # two views of four batches
    assert [part.shape[1] for part in parts] == [4, 4, 1, 2]
    (expected,) = forward_in(tiny_model, "fp32")(pixels)
    assert np.allclose(np.concatenate(parts, axis=1), expected, atol=1e-6)
    assert forward.drift is None


def test_compiled_bf16_is_measured_beside_plain_fp32(tiny_model: Backbone, compiler: Compiler) -> None:
    forward = forward_in(tiny_model, "bf16", 4, compiled=True, views=1)
    forward(pixels_of(tiny_model, 3))
    assert (compiler.shapes, compiler.types) == ([(4, 3, 32, 32)], [torch.bfloat16])
    assert forward.drift is not None
    assert forward.drift.images == 3


def test_what_is_not_compiled_is_not_filled_up(tiny_model: Backbone, compiler: Compiler) -> None:
    forward, seen = forward_in(tiny_model, "fp32", 4, views=1), []
    forward.backbone.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    forward(pixels_of(tiny_model, 5))
    assert seen == [4, 1]
    assert compiler.settings == []


def test_network_that_cannot_be_compiled_is_told_in_one_line(
    tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", Compiler("no such instruction\nat line 3"))
    forward = forward_in(tiny_model, "bf16", 4, compiled=True)
    with pytest.raises(InputError) as caught:
        forward(pixels_of(tiny_model, 1))
    told = "this network cannot be computed in bf16 and compiled here: no such instruction"
    assert str(caught.value) == told


def test_graph_that_torch_compiles_is_one_for_all_batches(
    tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own tracing, with a back end that runs what was traced: no C++ compiler is needed."""
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        traced.append(len(inputs))
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **words: real(network, backend=backend, **words))
    torch.compiler.reset()
    pixels = pixels_of(tiny_model, 5)
    forward = forward_in(tiny_model, "fp32", 2, compiled=True)
    parts = [forward(pixels[:4])[0], forward(pixels[4:])[0]]
    torch.compiler.reset()
    assert len(traced) == 1
    (expected,) = forward_in(tiny_model, "fp32")(pixels)
    assert np.allclose(np.concatenate(parts, axis=1), expected, atol=1e-6)


def test_many_models_are_compiled_one_after_the_other(tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives up on a function after eight versions of it, and all models share one."""
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        traced.append(len(inputs))
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **words: real(network, backend=backend, **words))
    for _ in range(10):
        forward_in(tiny_model, "fp32", 2, compiled=True)(pixels_of(tiny_model, 2))
    torch.compiler.reset()
    assert len(traced) == 10


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_code_for_this_machine_gives_the_same_features(
    tiny_model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in torch's place here; a network of one convolution, since the compiler takes its time."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def features(compiled: bool) -> NDArray[np.float32]:
        torch.manual_seed(0)
        taps = LayerReader(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), ("2",))
        forward = Forward(taps, tiny_model.preprocessing, 2, CPU, 4, True, "fp32", compiled)
        return forward(pixels_of(tiny_model, 6))[0]

    torch.compiler.reset()
    found = features(True)
    torch.compiler.reset()
    assert list(tmp_path.rglob("*.cpp"))  # code was made
    assert np.allclose(found, features(False), atol=1e-5)


def test_memory_that_runs_out_halves_what_compiled_code_is_made_for(tiny_model: Backbone, compiler: Compiler) -> None:
    pixels = pixels_of(tiny_model, 7)
    layers = tuple(f"backbone.{layer}" for layer in tiny_model.layers)
    taps = LayerReader(Cramped(trained(tiny_model), 2), layers)
    forward = Forward(taps, tiny_model.preprocessing, 1, CPU, 4, True, "fp32", True)
    (found,) = forward(pixels)
    (expected,) = forward_in(tiny_model, "fp32", views=1)(pixels)
    assert np.allclose(found, expected, atol=1e-6)
    assert [shape[0] for shape in compiler.shapes] == [4, 2, 2, 2, 2]


def test_room_is_bytes_of_the_shape_asked_for(tiny_model: Backbone) -> None:
    room = forward_of(tiny_model).buffer((2, 1, 4, 4, 3))
    assert (room.shape, room.dtype.name, room.flags.c_contiguous) == ((2, 1, 4, 4, 3), "uint8", True)
    room[:] = 3  # it can be written to


@pytest.mark.parametrize("error", [FULL[1], RuntimeError("CUDA error: operation not supported")], ids=str)
def test_memory_that_cannot_be_pinned_is_taken_unpinned(
    error: Exception, tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, asked, empty = forward_of(tiny_model), [], torch.empty

    def no_pages(*shape: Any, pin_memory: bool = False, **words: Any) -> Tensor:
        asked.append(pin_memory)
        if pin_memory:
            raise error
        return empty(*shape, **words)

    monkeypatch.setattr(torch, "empty", no_pages)
    forward.device = torch.device("cuda")
    room = forward.buffer((2, 1, 4, 4, 3))
    assert (room.shape, room.dtype.name, room.flags.c_contiguous) == ((2, 1, 4, 4, 3), "uint8", True)
    assert asked[0]


# --- devices that nobody has tried ---


class Drifting(nn.Module):
    """A network whose device computes something else: from its second call on, `by` times noise is added."""

    def __init__(self, backbone: nn.Module, by: float, right: int) -> None:
        super().__init__()
        self.backbone, self.by, self.right = backbone, by, right

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.backbone(images)
        self.right -= 1
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        return output + self.by * output.std() * noise if self.right < 0 else output


def untried(model: Backbone, by: float = 0.0, right: int = 2) -> Forward:
    """A forward pass that is compared with the CPU, on a device (the CPU) that is wrong after `right` calls."""
    backbone = load_backbone(model, find_weights(model, "random", 1))
    network = Drifting(backbone, by, 10**6)
    reader = LayerReader(network, ("",), partial(pooled, tokens="mean"))
    forward = Forward(reader, model.preprocessing, 1, CPU, 4)
    forward.compared, network.right = True, right
    return forward


def test_a_device_that_computes_as_the_cpu_is_used(tiny_model: Backbone) -> None:
    pixels = pixels_of(tiny_model, 6)
    assert np.array_equal(untried(tiny_model, by=9.0, right=9)(pixels)[0], untried(tiny_model, right=99)(pixels)[0])


def test_a_device_that_computes_something_else_is_refused(tiny_model: Backbone) -> None:
    with pytest.raises(InputError, match=r"^this GPU gives other features than the CPU: .* down to 0\.\d{6}, "):
        untried(tiny_model, by=1.0, right=1)(pixels_of(tiny_model, 6))


@pytest.mark.parametrize("angle", [0.0, 0.0141, 0.0142, 1.0, np.nan])
def test_features_are_the_same_down_to_a_cosine_of_9999(angle: float) -> None:
    """cos(.01414) = .9999; the image that differs is one of many, in one view of one output."""
    expected = [np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32), np.zeros((2, 5, 2), np.float32)]
    expected[1][..., 0] = 7
    found = [output.copy() for output in expected]
    found[1][1, 3] = 5 * np.cos(angle), 5 * np.sin(angle)
    if np.cos(angle) > 0.9999:
        check_same(expected, found)
        return
    with pytest.raises(InputError) as told:
        check_same(expected, found)
    assert str(told.value) == (
        f"this GPU gives other features than the CPU: cosines of the first 5 images down to {np.cos(angle):.6f}, "
        "0.9999 is allowed; use --cpu"
    )


# --- memory ---


def test_fewer_images_go_at_a_time_where_memory_is_short(tiny_model: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = bytes_per_image(whole_layers(tiny_model).backbone, torch.zeros(1, 3, 32, 32))
    needed = inside + 2 * 4 * (32 * 8 * 8 + 192 * 2 * 2 + 96)  # and the whole layers of both views
    for free, batch in ((2.0 * 9 * needed, 9), (1e15, 64), (1.5 * needed, 1)):
        monkeypatch.setattr("common.machine.device.available_memory", lambda free=free: free)
        assert whole_layers(tiny_model).batch == batch
    monkeypatch.setattr("common.machine.device.available_memory", lambda: needed - 1)
    with pytest.raises(OutOfMemory, match=r"^one image in the network takes"):
        whole_layers(tiny_model)
