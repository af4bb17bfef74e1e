"""State dicts in files: under which names they are, and what else may stand beside the tensors."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import InputError
from featuresExtractor.backbones.weights.checkpoints import ORDER, read_state_dicts, read_tensors

A, B = {"conv.weight": torch.arange(3.0)}, {"conv.weight": torch.arange(4.0)}


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def plain(found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, list[float]]]:
    return {name: {key: value.tolist() for key, value in tensors.items()} for name, tensors in found.items()}


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_state_dicts(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (A, [""]),
        (OrderedDict(A), [""]),
        ({"model": A, "optimizer": {}, "epoch": 3}, ["model"]),
        ({"anything": A}, ["anything"]),
        ({"model": {"teacher": A}}, ["model.teacher"]),
        ({**A, "epoch": 3, "arch": "resnet18", "best": None}, [""]),
        ({"student": B, "teacher": A}, ["teacher", "student"]),
        ({"model": B, "state_dict": dict(B), "model_ema": A}, ["model_ema", "state_dict", "model"]),
        ({"other": B, "network": A}, ["network", "other"]),
        ({**A, "model": B, "ema": dict(B)}, ["ema", "", "model"]),
    ],
)
def test_state_dicts_are_found_under_their_names_in_order(content: Any, names: list[str], tmp_path: Path) -> None:
    found = read_state_dicts(saved(content, tmp_path / "w.pt"))
    assert list(found) == names
    for name, tensors in found.items():
        expected = content
        for part in filter(None, name.split(".")):
            expected = expected[part]
        assert plain({"": tensors}) == plain({"": {k: v for k, v in expected.items() if isinstance(v, Tensor)}})


def test_the_order_is_one_list_without_doubles() -> None:
    assert len(set(ORDER)) == len(ORDER)
    known = ["model_ema", "state_dict", "model_state_dict", "model", "teacher", "student"]
    assert sorted(known, key=ORDER.index) == known


def test_numbers_of_an_optimizer_are_state_dicts_of_their_own(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = saved({"optimizer": optimizer.state_dict(), "model": layer.state_dict()}, tmp_path / "w.pt")
    found = read_state_dicts(path)
    assert list(found) == ["model", "optimizer.state.0", "optimizer.state.1"]
    assert read_tensors(path).keys() == {"weight", "bias"}


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_a_path_may_be_text(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(A, path) if path.suffix == ".safetensors" else torch.save(A, path)
    for given in (str(path), path, _PathLike(path)):
        assert plain({"": read_tensors(given)}) == plain({"": A})


class _PathLike(os.PathLike[str]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


# --- what stands beside the tensors ---


def test_settings_and_numbers_of_other_libraries_are_passed_over(tmp_path: Path) -> None:
    """torch by itself refuses the whole file for the sake of these."""
    beside = {"args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(71.5), "rng": random.Random(0)}
    path = saved({"model": A, **beside, "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(Exception, match="weights_only"):
        torch.load(path, weights_only=True)
    assert plain(read_state_dicts(path)) == plain({"model": A})
    with pytest.raises(Exception, match="weights_only"):  # and torch is as strict as before
        torch.load(path, weights_only=True)


class Canary:
    """Calls what it is told to when it is unpickled, or when its state is set."""

    def __init__(self, call: Any, *words: object) -> None:
        self.call = call, words

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [True, False])
def test_nothing_beside_the_tensors_is_run(legacy: bool, tmp_path: Path) -> None:
    for number, call in enumerate((os.mkdir, os.system, subprocess.run, exec, print)):
        word = str(tmp_path / "alive") if call is os.mkdir else f"mkdir {tmp_path / 'alive'}"
        path = tmp_path / f"{number}.pt"
        torch.save({"model": A, "args": Canary(call, word)}, path, _use_new_zipfile_serialization=not legacy)
        try:
            assert plain(read_state_dicts(path)) == plain({"model": A})
        except InputError as error:
            assert "not a safetensors file or a plain state dict" in str(error)  # noqa: PT017
        assert not (tmp_path / "alive").exists()


def test_whole_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    assert refusal(saved(nn.Linear(2, 2), tmp_path / "w.pt")) == (
        "holds a whole network or another object, not a state dict of tensors; save it again: "
        "torch.save(network.state_dict(), FILE)"
    )


def test_network_within_a_checkpoint_is_no_state_dict(tmp_path: Path) -> None:
    assert refusal(saved({"model": nn.Linear(2, 2)}, tmp_path / "w.pt")) == "holds dict, not a state dict of tensors"


def test_dicts_that_hold_each_other_end(tmp_path: Path) -> None:
    inner: dict[str, Any] = {**A}
    inner["self"] = inner
    deep: Any = inner
    for _ in range(30):  # each way through would be another name: 100 ** 30 of them
        deep = {str(number): deep for number in range(100)}
    assert plain(read_state_dicts(saved({"model": inner, "deep": deep}, tmp_path / "w.pt"))) == plain({"model": A})


# --- names ---


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("_orig_mod.conv.weight", "conv.weight"),
        ("module._orig_mod.conv.weight", "module.conv.weight"),
        ("layer1._orig_mod.0.conv.weight", "layer1.0.conv.weight"),
        ("_fsdp_wrapped_module.layer1._checkpoint_wrapped_module.conv.weight", "layer1.conv.weight"),
        ("features.denselayer2.norm.1.weight", "features.denselayer2.norm1.weight"),
        ("features.denselayer2.conv2.weight", "features.denselayer2.conv2.weight"),
    ],
)
def test_torchs_wrappers_are_taken_out_of_names(name: str, own: str, tmp_path: Path) -> None:
    assert list(read_tensors(saved({name: torch.zeros(1)}, tmp_path / "w.pt"))) == [own]


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    path = saved({"a.weight": torch.zeros(1), "_orig_mod.a.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert refusal(path) == "a.weight and _orig_mod.a.weight are both a.weight of the network; keep one of them"


def test_endless_names_are_refused(tmp_path: Path) -> None:
    path = saved({"a." * 10**6: torch.zeros(1)}, tmp_path / "w.pt")
    assert refusal(path) == "a tensor has a name of 2,000,000 characters; not a plain state dict"
