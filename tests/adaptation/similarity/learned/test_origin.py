"""What a record tells of the networks of features, and what is not passed on from it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from adaptation.similarity.learned.origin import APART, LOCAL, NO_PCA, NO_RECORD, origin_of
from common.errors import InputError
from featuresExtractor.pca import pca_digest, save_pca
from tests.adaptation.similarity.learned.test_file import NETWORK

POOLING = "mean over space, then unit L2 length, each layer"
SETTINGS = {name: value for name, value in NETWORK.items() if name != "weights_origin"} | {"pooling": POOLING}


def origin(folder: Path, record: Any, stem: str = "features") -> Any:
    (folder / f"{stem}.json").write_text(json.dumps(record))
    return origin_of(folder / f"{stem}.npy")


@pytest.fixture
def pca(tmp_path: Path) -> PCA:
    fitted = PCA(2, svd_solver="full").fit(np.random.default_rng(0).standard_normal((9, 6)))
    save_pca(fitted, tmp_path / "pca2.skops")
    return fitted


@pytest.mark.parametrize(
    ("recorded", "kept"),
    [
        ("hub:timm/resnet18/model.safetensors@" + "0" * 40, True),
        ("package:facenet_pytorch/data/x.pt", True),
        ("https://download.pytorch.org/models/a.pth", True),
        ("random", True),
        *(("random.safetensors", False), ("hub:secret.pt", False), ("my weights.pt", False), ("https", False)),
        *((None, False), ([], False), ({}, False), ("x" * 2000, False)),
    ],
)
def test_the_source_of_weights_is_kept_where_it_is_open_to_all(tmp_path: Path, recorded: Any, kept: bool) -> None:
    found = origin(tmp_path, {"settings": SETTINGS, "weights_origin": recorded})
    assert [network["weights_origin"] for network in found.networks] == [recorded if kept else LOCAL]


def test_what_is_of_the_data_is_not_kept(tmp_path: Path) -> None:
    settings = SETTINGS | {"dataset": {"kind": "pairs", "fingerprint": "x"}, "views": ["original"]}
    (network,) = origin(tmp_path, {"settings": settings, "flags": {"dataset": "/home/me"}}).networks
    assert network == SETTINGS | {"weights_origin": LOCAL}


def test_several_networks_have_a_source_each(tmp_path: Path) -> None:
    several = [SETTINGS, SETTINGS | {"model": "other"}]
    found = origin(tmp_path, {"settings": {"backbones": several}, "weights_origin": {"tiny": "random"}})
    assert [network["weights_origin"] for network in found.networks] == ["random", LOCAL]
    assert origin(tmp_path, {"settings": {"backbones": [SETTINGS, {}]}}).gap == NO_RECORD
    assert origin(tmp_path, {"settings": {"backbones": [SETTINGS, 3]}}).gap == NO_RECORD
    assert origin(tmp_path, {"settings": {"backbones": []}}).gap == NO_RECORD


def test_a_pca_is_taken_by_its_sha256_and_a_gap_tells_no_path(tmp_path: Path, pca: PCA) -> None:
    record = {"settings": SETTINGS, "pca": {"sha256": pca_digest(pca), "layer": "all"}}
    found = origin(tmp_path, record, "features_pca2")
    assert pca_digest(found.pca) == pca_digest(pca)
    assert found.gap == ""
    record["pca"] = {"sha256": "0" * 64}
    assert origin(tmp_path, record, "features_pca2").gap == NO_PCA
    (tmp_path / "pca2.skops").unlink()
    found = origin(tmp_path, record, "features_pca2")
    assert (found.networks, found.pca, found.gap) == ([], None, NO_PCA)
    assert str(tmp_path) not in found.gap


def test_a_pca_of_one_layer_keeps_that_layer(tmp_path: Path, pca: PCA) -> None:
    save_pca(pca, tmp_path / "pca2_b.skops")
    settings = SETTINGS | {"layers": {"a": 9, "b": 6}, "pooling": "mean over space"}
    record = {"settings": settings, "pca": {"sha256": pca_digest(pca), "layer": "b"}}
    (network,) = origin(tmp_path, record, "pca2_b").networks
    assert network["layers"] == {"b": 6}
    record["pca"] = {"sha256": pca_digest(pca), "layer": "c"}
    assert origin(tmp_path, record, "pca2_b").gap == NO_PCA


def test_features_of_each_layer_apart_have_no_network(tmp_path: Path) -> None:
    settings = SETTINGS | {"pooling": "none: each layer as it is"}
    assert origin(tmp_path, {"settings": settings}).gap == APART
    assert origin_of(tmp_path / "others.npy").gap == NO_RECORD


def test_a_record_of_others_is_a_gap_or_an_error_of_one_line_whatever_it_holds(tmp_path: Path, pca: PCA) -> None:
    whole = {
        "settings": SETTINGS,
        "weights_origin": "random",
        "pca": {"sha256": pca_digest(pca), "layer": "all", "explained_variance": 1.0},
    }
    places = [("settings",), ("weights_origin",), ("pca",), *(("pca", name) for name in ("sha256", "layer"))]
    places += [("settings", name) for name in SETTINGS]
    values: list[Any] = [None, True, 3, -1.5, "", "text", [], [[]], {}, {"a": []}, [{}], {"backbones": {}}]
    for place in places:
        for value in values:
            record: Any = copy.deepcopy(whole)
            target = record if len(place) == 1 else record[place[0]]
            target[place[-1]] = value
            found = origin(tmp_path, record, "features_pca2")
            assert bool(found.networks) != bool(found.gap)
    for text in ("[", "[]", "3", "[" * 10**5):
        (tmp_path / "features.json").write_text(text)
        with pytest.raises(InputError, match=r"features.json: damaged"):
            origin_of(tmp_path / "features.npy")
