"""The benchmark at small sizes: that both ways give the same, that it would say so if not, and what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adaptation.similarity import search as exact
from benchmarks import __main__ as benchmarks
from benchmarks import extraction, pca, plain, search, startup, training
from benchmarks.table import Apart, Row, median_seconds, shown
from common.machine import device as devices
from featuresExtractor.images.folders.dataset import find_images
from featuresExtractor.pca import fit_pca

CPU = torch.device("cpu")
SMALL = ["--repeats", "1", "--images", "4", "--batch-size", "4", "--model", "resnet18"]
SMALL += [
    "--vectors",
    "300",
    "--width",
    "60",
    "--components",
    "5",
    "--pairs",
    "60",
    "--epochs",
    "2",
    "--gallery",
    "500",
    "--cpu",
]


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The memory's library of this process is left alone; few numbers are fastest on one thread."""
    monkeypatch.setattr(benchmarks, "keep_freed_memory", lambda: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_losses_and_recalls_are_those_of_the_plain_way() -> None:
    training.check_same(CPU)


def test_another_loss_or_recall_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    recalls = plain._recalls
    monkeypatch.setattr(plain, "_recalls", lambda *given: [recall + 0.01 for recall in recalls(*given)])
    with pytest.raises(SystemExit, match=r"^train top 1 of the two ways differ after epoch 1: "):
        training.check_same(CPU)
    loss = plain._loss
    monkeypatch.setattr(plain, "_loss", lambda *given: loss(*given) * 1.0001)
    with pytest.raises(SystemExit, match=r"^train Loss of the two ways differ after epoch 1: "):
        training.check_same(CPU)


def test_features_are_those_of_the_plain_way(tmp_path: Path) -> None:
    extraction.draw_pairs(tmp_path, 2)
    extraction.check_same(*extraction._network("resnet18"), find_images(tmp_path), CPU)


def test_other_features_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extraction.draw_pairs(tmp_path, 2)
    image = plain._image
    monkeypatch.setattr(plain, "_image", lambda path, preprocessing, _: image(path, preprocessing, False))
    with pytest.raises(SystemExit, match=r"^the features of the two ways differ: cosine 0\."):
        extraction.check_same(*extraction._network("resnet18"), find_images(tmp_path), CPU)


def test_the_subspace_is_that_of_numpy() -> None:
    pca.check_same(CPU)


def test_another_subspace_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fit_pca
    monkeypatch.setattr(pca, "fit_pca", lambda chunks, *given: fit(chunks[:1], *given))
    with pytest.raises(SystemExit, match=r"^the subspace differs from numpy's: sine "):
        pca.check_same(CPU)


def test_neighbours_are_those_of_faiss() -> None:
    search.check_same(CPU)


def test_other_neighbours_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    find = exact.search
    monkeypatch.setattr(exact, "search", lambda queries, gallery, *given: find(queries, gallery[::-1], *given))
    with pytest.raises(SystemExit, match=r"^the neighbours differ from faiss': \d+\.\d+% of them$"):
        search.check_same(CPU)


def test_search_is_skipped_without_faiss(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda _: None)
    assert search.measure(search.Sizes(), CPU, 1) == []
    message = "skipped: search (faiss is missing: pip install -r requirements-faiss.txt)\n"
    assert capsys.readouterr().err == message


def test_all_stages_are_measured_shown_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main([*SMALL, "--save", str(tmp_path / "found.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{devices.device_name(CPU)}, median of 1; PCA once"
    assert lines[1].split() == ["stage", "unit", "plain", "ours", "limit", "x", "plain", "of", "limit", "wanted"]
    actual = json.loads((tmp_path / "found.json").read_text())
    assert [row["stage"] for row in actual["rows"]] == [
        "extract.py -h",
        "train.py -h",
        "train.py, first epoch",
        "an epoch, 60 pairs, fp32",
        "an epoch, 60 pairs, bf16",
        "extraction, resnet18, fp32",
        "extraction, resnet18, bf16",
        "PCA, 300 x 60 -> 5, beside the default (not exact)",
        "PCA, 300 x 60 -> 5, beside covariance_eigh",
        "PCA, of it reading",
        "PCA, of it reading and covariance",
        "eigenpairs, 60 -> 5",
        "projection, 300 x 60 -> 5",
        "PCA, memory over the imports",
        *(f"search, {count} in 500 x 1,024, beside IndexFlatIP" for count in ("1", "10", "100", "1,000")),
    ]
    assert len(lines) == 3 + len(actual["rows"])
    assert {"device", "versions", "sizes", "date", "cores"} < actual.keys()
    assert actual["versions"]["torch"] == version("torch")
    assert actual["sizes"]["training"]["pairs"] == 60
    for row in actual["rows"]:
        assert row["ours"] > 0 or row["unit"] == "GB"
        assert all(row[name] is None or row[name] > 0 for name in ("plain", "limit", "of_plain", "of_limit"))


def test_stages_can_be_chosen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "measure", lambda *_: pytest.fail("was measured"))
    assert benchmarks.main([*SMALL, "--stages", "training", "--precisions", "fp32", "--runs", "3"]) == 0
    assert "an epoch, 60 pairs, 3 runs at once, fp32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "of_plain", "of_limit", "expected"),
    [
        (Row("a", "s", 6.0, 2.0, 1.0, 2.5, 0.6), 3.0, 0.5, "2.5 x plain: met, 0.6 of limit: missed"),
        (Row("a", "images/s", 2.0, 6.0, 8.0, 4.0, 0.75), 3.0, 0.75, "4 x plain: missed, 0.75 of limit: met"),
        (Row("a", "s", None, 2.0, None, 2.5, 0.6), None, None, ""),
        (Row("a", "GB", None, 0.0, 1.5, None, 1.0), None, None, ""),
    ],
)
def test_ratios_say_how_much_faster_whatever_the_unit(
    row: Row, of_plain: float | None, of_limit: float | None, expected: str
) -> None:
    assert (row.of_plain, row.of_limit, row.wanted()) == (of_plain, of_limit, expected)


def test_the_table_has_a_dash_where_there_is_no_number() -> None:
    assert shown([Row("a stage", "s", None, 0.123456)]).splitlines()[-1].split() == [
        "a",
        "stage",
        "s",
        "-",
        "0.123",
        "-",
        "-",
        "-",
    ]


def test_ways_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    ticks = iter(np.cumsum([0, 5, 0, 1, 0, 1, 0, 1, 0, 9, 0, 1]).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    ways: dict[str, Any] = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert median_seconds(ways, 3) == {"a": 5, "b": 1}
    assert calls == list("ababab")


def test_the_plain_way_has_a_process_of_its_own() -> None:
    import os

    with Apart() as apart:
        assert apart.run(os.getpid) == apart.run(os.getpid) != os.getpid()


def test_wrong_input_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmarks.main(["--stages", "extraction", "--model", "resnet19", "--cpu"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("python -m benchmarks: error: unknown model 'resnet19'")
