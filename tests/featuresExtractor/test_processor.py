"""The words behind `-p`, and the table of what they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import InputError
from featuresExtractor.processor import (
    PROCESSORS,
    PcaPlan,
    Processor,
    Recipe,
    allowed,
    listing,
    made_from,
    mean,
    parse_processor,
)


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


def test_record_names_the_pooling_as_older_files_do() -> None:
    unit = "mean over space, then unit L2 length, each layer"
    expected = {"save": "none: each layer as it is", "pca": "mean over space", "adapt": unit, "adapt-pca": unit}
    assert {name: recipe.pooling for name, recipe in PROCESSORS.items()} == expected


def test_mean_is_over_space() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    assert mean(torch.from_numpy(maps)).numpy() == pytest.approx(maps.reshape(2, 3, 20).mean(2))


def test_listing_has_a_line_for_each_row_with_the_files_that_it_makes() -> None:
    lines = [line.split(maxsplit=2)[1:] for line in listing().splitlines()]
    assert [first for first, _ in lines] == ["save", "pca", "adapt", "adapt-pca"]
    files = [rest.rpartition(": ")[2] for _, rest in lines]
    assert files == [
        "save_<layer>.npy",
        "pooled.npy, pcaN_<layer>.npy, pcaN_<layer>.skops",
        "features.npy",
        "features.npy, features_pcaN.npy, pcaN.skops",
    ]


def test_row_that_is_added_is_allowed_listed_and_known_by_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Recipe(help="x", pooling="y", output="a.b", reduced="a.b_{n}", pca="c{n}")
    monkeypatch.setitem(PROCESSORS, "mine", row)
    assert allowed() == "save, pca N, adapt, adapt-pca N, or mine N"
    assert listing().splitlines()[-1].split() == ["-p", "mine", "N", "x:", "a.b.npy,", "a.b_N.npy,", "cN.skops"]
    assert parse_processor(["mine", "2"]).pcas({"one": 3, "two": 4}) == [PcaPlan("a.b", 0, 7, "a.b_2", "c2")]
    assert made_from("a.b", "a.b_12.npy")
    assert not made_from("a.b", "axb_12.npy")


def test_pca_of_each_layer_has_the_columns_of_that_layer() -> None:
    assert Processor("pca", 3).pcas(LAYERS) == [
        PcaPlan("pooled", 0, 4, "pca3_layer1", "pca3_layer1", "layer1"),
        PcaPlan("pooled", 4, 5, "pca3_trunk.norm", "pca3_trunk.norm", "trunk.norm"),
        PcaPlan("pooled", 5, 12, "pca3_attnpool", "pca3_attnpool", "attnpool"),
    ]
    assert [part.columns for part in Processor("pca", 3).pcas(LAYERS)] == [slice(0, 4), slice(4, 5), slice(5, 12)]


def test_pca_of_all_layers_has_all_columns() -> None:
    assert Processor("adapt-pca", 9).pcas(LAYERS) == [PcaPlan("features", 0, 12, "features_pca9", "pca9")]


@pytest.mark.parametrize("name", ["save", "adapt"])
def test_without_a_number_nothing_is_reduced(name: str) -> None:
    assert Processor(name).pcas(LAYERS) == []


@pytest.mark.parametrize("name", ["pca", "adapt-pca"])
def test_every_file_of_a_reduction_is_known_as_made_from_its_source(name: str) -> None:
    for part in Processor(name, 12).pcas(LAYERS):
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
