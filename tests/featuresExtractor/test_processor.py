"""The words behind `-p`, and the reduction of a features file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from common.errors import InputError
from featuresExtractor.features import features_file as embeddings
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, open_features, row_type
from featuresExtractor.pca import load_pca
from featuresExtractor.processor import (
    Processor,
    Reduction,
    made_from,
    parse_processor,
    reduce_features,
)

CPU = torch.device("cpu")


def test_allowed_words_are_understood() -> None:
    assert parse_processor(["save"]) == Processor("save", None)
    assert parse_processor(["pca", "256"]) == Processor("pca", 256)
    assert parse_processor(["adapt"]) == Processor("adapt", None)
    assert parse_processor(["adapt-pca", "256"]) == Processor("adapt-pca", 256)
    for words in ("save", "pca 8", "adapt", "adapt-pca 8"):
        assert str(parse_processor(words.split())) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("save 3", "processor 'save 3': save takes no number"),
        ("pca", "processor 'pca': pca takes a number of components, such as 256"),
        ("pca 1 2", "processor 'pca 1 2': pca takes a number of components, such as 256"),
        ("pca -p", "processor 'pca -p': '-p' is not a whole number above 0"),
        ("pca 1234567890", "processor 'pca 1234567890': '1234567890' is not a whole number above 0"),
        ("adapt-pca", "processor 'adapt-pca': adapt-pca takes a number of components, such as 256"),
        ("adapt-pca 1 2", "processor 'adapt-pca 1 2': adapt-pca takes a number of components, such as 256"),
        ("adapt 256", "processor 'adapt 256': adapt takes no number"),
        ("adapt-pca many", "processor 'adapt-pca many': 'many' is not a whole number above 0"),
        ("adapt-pca 0", "processor 'adapt-pca 0': '0' is not a whole number above 0"),
        ("adapt-pca -1", "processor 'adapt-pca -1': '-1' is not a whole number above 0"),
        ("adapt-pca 2.5", "processor 'adapt-pca 2.5': '2.5' is not a whole number above 0"),
    ],
)
def test_words_that_do_not_go_together_are_told_with_those_that_do(words: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_processor(words.split())
    assert str(caught.value) == f"{message}; allowed: save, pca N, adapt, or adapt-pca N"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("adapt_pca", "; did you mean 'adapt-pca'?"), ("safe", "; did you mean 'save'?"), ("xyz", ";"), ("", ";")],
)
def test_unknown_word_is_told_with_the_nearest_one(word: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_processor([word])
    assert str(caught.value) == f"unknown processor '{word}'{hint} allowed: save, pca N, adapt, or adapt-pca N"


LAYERS = {"layer1": 4, "trunk.norm": 1, "attnpool": 7}


def test_backbones_outputs_go_to_one_file_or_to_one_a_layer() -> None:
    assert Processor("save").outputs(list(LAYERS)) == ["save_layer1", "save_trunk.norm", "save_attnpool"]
    assert Processor("pca", 3).outputs(list(LAYERS)) == ["pooled"]
    assert Processor("adapt").outputs(list(LAYERS)) == ["features"]
    assert Processor("adapt-pca", 3).outputs(list(LAYERS)) == ["features"]


def test_layers_are_left_as_they_are_or_pooled_or_normalised_too() -> None:
    kinds = {name: Processor(name).kind for name in ("save", "pca", "adapt", "adapt-pca")}
    activations = {name: kind.activation for name, kind in kinds.items()}
    assert activations == {"save": "raw", "pca": "pooled", "adapt": "normalised", "adapt-pca": "normalised"}


def test_pca_of_each_layer_has_the_columns_of_that_layer() -> None:
    assert Processor("pca", 3).reductions(LAYERS) == [
        Reduction("pooled", 0, 4, "pca3_layer1", "pca3_layer1", "layer1"),
        Reduction("pooled", 4, 5, "pca3_trunk.norm", "pca3_trunk.norm", "trunk.norm"),
        Reduction("pooled", 5, 12, "pca3_attnpool", "pca3_attnpool", "attnpool"),
    ]
    assert [part.columns for part in Processor("pca", 3).reductions(LAYERS)] == [slice(0, 4), slice(4, 5), slice(5, 12)]


def test_pca_of_all_layers_has_all_columns() -> None:
    assert Processor("adapt-pca", 9).reductions(LAYERS) == [Reduction("features", 0, 12, "features_pca9", "pca9")]


@pytest.mark.parametrize("name", ["save", "adapt"])
def test_without_a_number_nothing_is_reduced(name: str) -> None:
    assert Processor(name).reductions(LAYERS) == []


@pytest.mark.parametrize("name", ["pca", "adapt-pca"])
def test_every_file_of_a_reduction_is_known_as_made_from_its_source(name: str) -> None:
    for part in Processor(name, 12).reductions(LAYERS):
        for file in (f"{part.target}.npy", f"{part.target}.json", f"{part.pca}.skops"):
            made = [source for source in ("features", "pooled", "save_layer1") if made_from(source, file)]
            assert made == [part.source]


@pytest.mark.parametrize(
    "file",
    [
        *(
            f"{stem}.{kind}"
            for stem in ("features", "pooled", "save_layer1", "pca", "pca3")
            for kind in ("npy", "json")
        ),
        *("features_pca.npy", "features_pcax.npy", "features_pca_mine.npy", "pca_notes.skops", "xpca3.skops"),
        *("features_pca3.npy.old", "pca3_.npy", "pca3_layer1.txt", "my_pca3_layer1.npy", "features_pca3.skops"),
    ],
)
def test_other_files_are_not_taken_for_made_from_features(file: str) -> None:
    assert not any(made_from(source, file) for source in ("features", "pooled", "save_layer1"))


def write(path: Path, count: int, width: int, sides: tuple[str, ...]) -> None:
    """A features file of `count` items in two views."""
    generator = np.random.default_rng(0)
    row = row_type(sides, width, 12)
    names = [[f"{number}.{side}" for side in sides] for number in range(count)]
    with FeaturesWriter(path, row, count, views=2) as writer:
        values = [generator.normal(size=(count, len(sides), width)).astype(np.float32) for _ in range(2)]
        writer.put(0, [make_rows(row, names, value, view) for view, value in enumerate(values)])


def reduce_file(source: Path, target: Path, pca_file: Path, components: int, columns: slice = slice(None)) -> PCA:
    """Reduces a features file into another one."""
    rows = open_features(source)
    with FeaturesWriter(target, row_type(rows.sides, components, rows.name_length), rows.count) as writer:
        pca = reduce_features(rows, columns, writer, pca_file, components, CPU)
    return pca


@pytest.mark.parametrize("sides", [("left", "right"), ("features",)])
def test_reduction_is_a_pca_fitted_on_all_sides_and_views(
    sides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, pca_file = (tmp_path / name for name in ("f.npy", "f_pca3.npy", "pca3.skops"))
    write(source, 30, 7, sides)
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", 500)
    pca = reduce_file(source, target, pca_file, 3)
    before, after = np.load(source), np.load(target)
    stacked = np.concatenate([before[side] for side in sides]).astype(np.float64)
    reference = PCA(3, svd_solver="full").fit(stacked)
    assert pca.n_samples_ == len(stacked) == 60 * len(sides)
    for side in sides:
        assert after[side].shape == (60, 3)
        assert np.allclose(after[side], reference.transform(before[side].astype(np.float64)), atol=1e-5)
    for name in set(before.dtype.names) - set(sides):
        assert np.array_equal(after[name], before[name])
        assert after.dtype[name] == before.dtype[name]
    assert np.array_equal(load_pca(pca_file).components_, pca.components_)


def test_reduction_of_some_columns_is_that_of_a_file_of_those_alone(tmp_path: Path) -> None:
    write(tmp_path / "f.npy", 20, 7, ("left", "right"))
    whole = np.load(tmp_path / "f.npy")
    row = row_type(("left", "right"), 3, 12)
    part = np.zeros(len(whole), row)
    for name in row.names or ():
        part[name] = whole[name][:, 2:5] if name in ("left", "right") else whole[name]
    np.save(tmp_path / "part.npy", part)
    for source, columns in (("f", slice(2, 5)), ("part", slice(None))):
        reduce_file(tmp_path / f"{source}.npy", tmp_path / f"{source}_r.npy", tmp_path / "p.skops", 2, columns)
    assert np.array_equal(np.load(tmp_path / "f_r.npy"), np.load(tmp_path / "part_r.npy"))
    assert load_pca(tmp_path / "p.skops").n_features_in_ == 3


def test_chunks_do_not_matter_to_the_reduction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f.npy", 30, 7, ("left", "right"))
    reduced = []
    for chunk_bytes in (1, 1000, 2**26):
        monkeypatch.setattr(embeddings, "CHUNK_BYTES", chunk_bytes)
        reduce_file(tmp_path / "f.npy", tmp_path / "r.npy", tmp_path / "p.skops", 3)
        reduced.append(np.load(tmp_path / "r.npy")["left"])
    assert np.allclose(reduced[0], reduced[1], atol=1e-6)
    assert np.allclose(reduced[0], reduced[2], atol=1e-6)


def peak_of_reduction(folder: Path, count: int) -> int:
    """The most bytes that numpy and Python hold at once while a file of `count` pairs is reduced."""
    write(folder / "f.npy", count, 64, ("left", "right"))
    tracemalloc.start()
    reduce_file(folder / "f.npy", folder / "r.npy", folder / "p.skops", 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK_BYTES", 200_000)
    peak_of_reduction(tmp_path, 500)  # imports
    small, large = (peak_of_reduction(tmp_path, count) for count in (500, 5000))
    assert (tmp_path / "f.npy").stat().st_size > 5_000_000
    assert large - small < 200_000
