"""Checkpoints of people who trained further: whatever their names, the features are those of the plain state dict, to
the bit; what would change them is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import extract
from common.errors import InputError
from featuresExtractor.backbones.activations import LayerReader, pooled
from featuresExtractor.backbones.backbone import Backbone
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone, random_network

Tensors = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")
RESNET = ("timm/test_resnet", ("layer1", "layer2"))


def model_of(name: str = RESNET[0], layers: tuple[str, ...] = RESNET[1]) -> Backbone:
    return resolve(name, list(layers))


def full(model: Backbone, seed: int = 7) -> Tensors:
    """A state dict none of whose values are those that a new network has."""
    network, generator = random_network(model, seed), torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    return network.state_dict()


def features(model: Backbone, network: nn.Module) -> list[Tensor]:
    size = model.preprocessing.crop
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found: list[Tensor] = LayerReader(network, tuple(model.layers), pooled)(images)
    return found


def loaded(model: Backbone, path: Path) -> tuple[list[Tensor], Weights]:
    weights = find_weights(model, path)
    return features(model, load_backbone(model, weights)), weights


def expected(model: Backbone, tensors: Tensors) -> list[Tensor]:
    """The features of these weights without any code of this project but the layers' means."""
    network = random_network(model, 99).eval()
    network.load_state_dict(tensors)
    return features(model, network)


def check_same(model: Backbone, content: object, tensors: Tensors, path: Path) -> Weights:
    """That the file gives the features of `tensors`, to the bit."""
    torch.save(content, path)
    found, weights = loaded(model, path)
    assert all(map(torch.equal, found, expected(model, tensors)))
    assert not any(map(torch.equal, found, expected(model, full(model, 8))))
    return weights


def refusal(model: Backbone, content: object, path: Path) -> str:
    torch.save(content, path)
    with pytest.raises(InputError) as caught:
        loaded(model, path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def but(tensors: Tensors, pattern: str) -> Tensors:
    return {name: value for name, value in tensors.items() if not re.match(pattern, name)}


# --- names ---

PREFIXES = ["module.", "model.", "backbone.", "_orig_mod.", "module.model.backbone.", "_orig_mod.module.", "net."]
PREFIXES += ["module.encoder_q.", "encoder.", "teacher.backbone.", "student_model.", "0.", "visual_encoder.", "visual."]
NAMES = ["model", "model_state_dict", "state_dict", "teacher", "student", "model_ema", "net", "network", "ema"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_any_prefix_is_taken_away(prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of()
    tensors = full(model)
    weights = check_same(model, prefixed(prefix, tensors), tensors, tmp_path / "w.pt")
    assert weights.read["ignored"] == {}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_state_dict_under_any_name_is_found(name: str, prefix: str, tmp_path: Path) -> None:
    model = model_of()
    tensors = full(model)
    content = {"epoch": 3, name: prefixed(prefix, tensors), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    weights = check_same(model, content, tensors, tmp_path / "w.pt")
    assert weights.read == {"under": ".".join(filter(None, (name, prefix[:-1]))), "ignored": {}}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("model_ema", "model"),
        ("state_dict", "model"),
        ("model", "teacher"),
        ("teacher", "student"),
        ("model", "anything"),
    ],
)
def test_of_several_the_first_in_the_documented_order_is_taken_and_said(
    first: str, second: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of()
    tensors, others, path = full(model), full(model, 8), tmp_path / "w.pt"
    check_same(model, {second: others, first: tensors}, tensors, path)
    note = f"note: {path}: weights taken from {first}; the network is also in {second}\n"
    assert capsys.readouterr().err == note
    check_same(model, prefixed(f"{first}.", tensors) | prefixed(f"{second}.x.", others), tensors, path)


def test_queries_of_moco_are_taken_and_its_queue_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, path = model_of(), tmp_path / "w.pt"
    tensors = full(model)
    head = {"fc.0.weight": torch.zeros(2, 2)}
    queries, keys = but(tensors, "fc") | head, but(full(model, 8), "fc") | head
    state = prefixed("module.encoder_k.", keys) | prefixed("module.encoder_q.", queries)
    weights = check_same(model, {"state_dict": state | {"module.queue": torch.zeros(2, 9)}}, tensors, path)
    assert weights.read["ignored"] == {
        "missing": ["fc.weight", "fc.bias"], "extra": ["fc.0.weight", "module.encoder_k.fc.0.weight", "module.queue"]
    }  # fmt: skip
    taken = "weights taken from state_dict.module.encoder_q; the network is also in state_dict.module.encoder_k"
    assert taken in capsys.readouterr().err


def test_another_copy_beside_the_network_is_not_listed_tensor_by_tensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = model_of(), tmp_path / "w.pt"
    tensors = full(model)
    others = full(model, 8) | {"head.weight": torch.ones(2)}
    weights = check_same(model, tensors | prefixed("teacher.", others), tensors, path)
    assert weights.read == {"under": "the top level", "ignored": {"extra": ["teacher.head.weight"]}}
    assert "weights taken from the top level; the network is also in teacher\n" in capsys.readouterr().err


def test_state_dict_that_lacks_something_gives_way_to_a_whole_one(tmp_path: Path) -> None:
    model = model_of()
    tensors = full(model)
    check_same(model, {"model_ema": but(full(model, 8), "conv1"), "model": tensors}, tensors, tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.backbone."])
@pytest.mark.parametrize("several", [True, False])
def test_two_tensors_for_one_are_refused_by_name(prefix: str, several: bool, tmp_path: Path) -> None:
    model = model_of()
    tensors = full(model)
    more = tensors if several else {"conv1.0.weight": tensors["conv1.0.weight"]}
    text = refusal(model, tensors | prefixed(prefix, more), tmp_path / "w.pt")
    assert text == (
        f"conv1.0.weight and {prefix}conv1.0.weight are both conv1.0.weight of the network; keep one of them"
    )


def test_networks_that_no_order_tells_apart_are_refused(tmp_path: Path) -> None:
    model = model_of()
    content = prefixed("left_eye.", full(model)) | prefixed("right_eye.", full(model, 8))
    told = "holds this network more than once, under left_eye, right_eye; keep one of them in the file"
    assert refusal(model, content, tmp_path / "w.pt") == told


# --- what is behind the layers ---


@pytest.mark.parametrize(
    ("change", "ignored"),
    [
        (lambda tensors: but(tensors, "fc"), {"missing": ["fc.weight", "fc.bias"]}),
        (
            lambda tensors: tensors | {"fc.weight": torch.zeros(10, 96), "fc.bias": torch.zeros(10)},
            {"other shape": ["fc.weight", "fc.bias"]},
        ),
        (lambda tensors: tensors | {"fc.bias": torch.zeros(1000, dtype=torch.int8)}, {"other shape": ["fc.bias"]}),
        (
            lambda tensors: tensors | {"projector.0.weight": torch.ones(2), "fc.scale": torch.ones(1)},
            {"extra": ["projector.0.weight", "fc.scale"]},
        ),
        (lambda tensors: but(tensors, "layer4.0.conv2"), {"missing": ["layer4.0.conv2.weight"]}),
        (lambda tensors: tensors | {"layer3.0.se.weight": torch.ones(1)}, {"extra": ["layer3.0.se.weight"]}),
        (lambda tensors: tensors | {"mask_token": torch.ones(1)}, {"extra": ["mask_token"]}),
        (lambda tensors: but(tensors, ".*num_batches_tracked"), {}),
        (lambda tensors: tensors | {"fc.bias": torch.full((1000,), torch.nan)}, {}),
        (lambda tensors: prefixed("module.", tensors) | {"n_averaged": torch.tensor(3)}, {"extra": ["n_averaged"]}),
        (
            lambda tensors: prefixed("model.", tensors) | {"head.weight": torch.ones(3), "loss.scale": torch.ones(1)},
            {"extra": ["head.weight", "loss.scale"]},
        ),
    ],
)
def test_what_is_behind_the_layers_is_ignored_and_listed(
    change: Callable[[Tensors], Tensors],
    ignored: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, path = model_of(), tmp_path / "w.pt"
    tensors = full(model)
    weights = check_same(model, change(tensors), tensors, path)
    assert weights.read["ignored"] == ignored
    names = [f"{name} ({kind})" for kind, names in ignored.items() for name in names]
    count = f"{len(names)} tensor{'s' * (len(names) > 1)} ignored, on which the features do not depend"
    assert capsys.readouterr().err == (f"note: {path}: {count}: {', '.join(names)}\n" if names else "")


def test_safetensors_are_no_different(tmp_path: Path) -> None:
    model = model_of()
    tensors = full(model)
    save_file(prefixed("module.", but(tensors, "fc")), tmp_path / "w.safetensors")
    found, weights = loaded(model, tmp_path / "w.safetensors")
    assert all(map(torch.equal, found, expected(model, tensors)))
    assert weights.read["ignored"] == {"missing": ["fc.weight", "fc.bias"]}


@pytest.mark.parametrize("kind", [torch.half, torch.bfloat16, torch.double])
def test_halves_give_the_features_of_the_halves(
    kind: torch.dtype, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a whole network was turned into halves, BatchNorm's counts with it."""
    model = model_of()
    tensors = full(model)
    halves = {name: value.to(kind) for name, value in tensors.items()}
    singles = {name: value.to(tensors[name].dtype) for name, value in halves.items()}
    assert check_same(model, {"model": halves}, singles, tmp_path / "w.pt").read["ignored"] == {}
    assert capsys.readouterr().err == ""


# --- what is not ---


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: but(tensors, "layer1.0.conv2"), "missing: layer1.0.conv2.weight"),
        (lambda tensors: but(tensors, "bn1.running_mean"), "missing: bn1.running_mean"),
        (lambda tensors: tensors | {"layer1.0.se.weight": torch.ones(1)}, "unexpected: layer1.0.se.weight"),
        (lambda tensors: tensors | {"layer2.7.conv1.weight": torch.ones(1)}, "unexpected: layer2.7.conv1.weight"),
        (lambda tensors: tensors | {"register_token": torch.ones(1)}, "unexpected: register_token"),
        (
            lambda tensors: prefixed("module.", tensors) | {"layer1.0.se.weight": torch.ones(1)},
            "unexpected: layer1.0.se.weight",
        ),
        (
            lambda tensors: tensors | {"model.layer1.0.se.weight": torch.ones(1)},
            "unexpected: layer1.0.se.weight",
        ),
        (lambda tensors: tensors | {"bn1.bias": torch.ones(7)}, "bn1.bias is (7,), expected (32,)"),
        (
            lambda tensors: tensors | {"bn1.bias": torch.ones(32, dtype=torch.int8)},
            "bn1.bias is int8, expected float32",
        ),
        (
            lambda tensors: tensors | {"bn1.bias": torch.ones(32, dtype=torch.complex64)},
            "bn1.bias is complex64, expected float32",
        ),
        (
            lambda tensors: (
                but(tensors, "conv1.0|bn1.bias") | {"layer1.0.x": torch.ones(1), "bn1.weight": torch.ones(3)}
            ),
            "missing: bn1.bias, conv1.0.weight; unexpected: layer1.0.x; bn1.weight is (3,), expected (32,)",
        ),
        (lambda _: {"vision.a": torch.ones(1)}, None),
    ],
)
def test_what_the_layers_are_computed_with_must_match(
    change: Callable[[Tensors], Tensors], told: str | None, tmp_path: Path
) -> None:
    model = model_of()
    advice = "What the layers are computed with must match exactly: choose the --model that they were trained with"
    text = refusal(model, {"model": change(full(model))}, tmp_path / "w.pt")
    if told:
        assert text == f"these weights do not fit the network; {told}. {advice}"
    else:
        assert " and 37 more; the file holds: vision.a. " in text


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_tensors_without_plain_values_are_refused(kind: str, tmp_path: Path) -> None:
    model = model_of()
    bias = torch.ones(32).to_sparse() if kind == "sparse" else torch.ones(32, device="meta")
    assert "bn1.bias is " in refusal(model, full(model) | {"bn1.bias": bias}, tmp_path / "w.pt")


# --- other networks ---


@pytest.mark.parametrize(
    ("name", "layers", "more"),
    [
        ("timm/test_vit", ("blocks.5",), "blocks.6.norm1.weight"),
        ("timm/test_vit", ("norm",), "reg_token"),
        ("timm/test_vit", ("norm",), "norm_pre.weight"),
        ("timm/test_vit_relpos", ("norm",), "blocks.0.attn.rel_pos.scale"),
        ("timm/test_efficientnet", ("blocks.2",), "blocks.0.0.se.conv_reduce.weight"),
        ("timm/test_convnext", ("stages.3",), "stages.4.blocks.0.conv_dw.weight"),
    ],
)
def test_networks_of_other_kinds(name: str, layers: tuple[str, ...], more: str, tmp_path: Path) -> None:
    model = model_of(name, layers)
    tensors = full(model)
    headless = but(tensors, r"head|classifier")
    weights = check_same(model, {"teacher": prefixed("module.backbone.", headless)}, tensors, tmp_path / "w.pt")
    assert weights.read["ignored"].keys() == {"missing"}  # type: ignore[attr-defined]
    assert f"unexpected: {more}. " in refusal(model, tensors | {more: torch.ones(1)}, tmp_path / "w.pt")


def test_tables_that_the_network_makes_itself_are_compared(tmp_path: Path) -> None:
    """Older versions of timm saved them."""
    model = resolve("timm/test_vit_relpos", ["blocks.2"])
    tables = {name: value for name, value in random_network(model, 0).named_buffers() if name not in full(model)}
    assert tables
    assert check_same(model, full(model) | tables, full(model), tmp_path / "w.pt").read["ignored"] == {}
    name, table = next(iter(tables.items()))
    text = refusal(model, full(model) | {name: table + 1}, tmp_path / "w.pt")
    assert text == f"these weights do not fit the network; {name} has other values than the network's"


def test_clip_is_found_in_its_checkpoint_and_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text tower has tensors of the same names as the visual one; it is no part of the network and not listed."""
    import open_clip

    model = replace(resolve("clip_vit32_b"), architecture="ViT-S-32-alt", tag="", layers={"ln_post": 384})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        whole: Any = open_clip.create_model("ViT-S-32-alt", load_weights=False).eval()
    tower, projector = whole.visual.state_dict(), {"module.projector.weight": torch.ones(1)}
    assert check_same(model, {"model": prefixed("visual.", tower)}, tower, tmp_path / "w.pt").read["ignored"] == {}
    assert capsys.readouterr().err == ""
    weights = check_same(model, prefixed("module.", whole.state_dict()) | projector, tower, tmp_path / "w.pt")
    assert weights.read == {"under": "module.visual", "ignored": {"extra": ["module.projector.weight"]}}


def test_densenets_first_names_under_a_prefix_with_other_classes(tmp_path: Path) -> None:
    model = resolve("torchvision/densenet121", ["features.denseblock1"])
    tensors = full(model)
    named = {re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", key): value for key, value in tensors.items()}
    named |= {"classifier.weight": torch.ones(10, 1024), "classifier.bias": torch.ones(10)}
    weights = check_same(model, {"state_dict": prefixed("module.", named)}, tensors, tmp_path / "w.pt")
    assert weights.read["ignored"] == {"other shape": ["classifier.weight", "classifier.bias"]}


def test_command_prints_and_records_what_was_ignored_and_features_are_used_again(
    tiny_model: Backbone, pairs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, path = full(tiny_model), tmp_path / "w.ckpt"
    torch.save({"state_dict": prefixed("model.", but(tensors, "fc")), "epoch": 3}, path)
    words = ["-d", str(pairs(2)), "-s", str(tmp_path / "out"), "--model", "tiny", "--cpu", "-p", "adapt"]
    assert extract.main([*words, "--weights", str(path)]) == 0
    note = (
        f"note: {path}: 2 tensors ignored, on which the features do not depend: fc.weight (missing), fc.bias (missing)"
    )
    assert note in capsys.readouterr().err.splitlines()
    facts = json.loads((tmp_path / "out" / "tiny" / "features.json").read_text())
    assert facts["weights_read"] == {"under": "state_dict.model", "ignored": {"missing": ["fc.weight", "fc.bias"]}}
    assert extract.main([*words, "--weights", str(path)]) == 0
    assert "used again" in capsys.readouterr().out
    plain, other = tmp_path / "plain.pt", tmp_path / "other"
    torch.save(tensors, plain)
    words[3] = str(other)
    assert extract.main([*words, "--weights", str(plain)]) == 0
    assert (other / "tiny" / "features.npy").read_bytes() == (tmp_path / "out" / "tiny" / "features.npy").read_bytes()
    assert json.loads((other / "tiny" / "features.json").read_text())["weights_read"]["ignored"] == {}
