"""`train.py` with several features files, and with a PCA of each run's own, as a user runs it."""

from __future__ import annotations

import csv
import gc
import json
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

import train
from adaptation import memory, trainer
from adaptation import plan as planning
from adaptation.data.pairs import Survey
from adaptation.reporting import plots
from adaptation.reporting import run_folder as results
from common.storage.files import sha256
from common.storage.lock import held
from common.storage.staging import Staging
from featuresExtractor.features.features_file import FeaturesWriter, make_rows, row_type
from featuresExtractor.pca import load_pca

PAIRS, NUMBERS, RUNS = 40, 12, 3
NAMES = [(f"{number:02d}.jpg", f"{number:02d}.png") for number in range(PAIRS)]
MODELS = {"clip_rn50x4": 0.6, "timm/vit_b.lvd142m": 0.3, "weak": 2.0}
FILES = {f"comparison.{kind}" for kind in ("txt", "csv", "tex", "json", "png", "svg")}
FOLDERS = {"clip_rn50x4", "timm-vit_b.lvd142m", "weak"}


def numbers(noise: float, seed: int) -> NDArray[np.float32]:
    """(views, pairs, sides, numbers): what partners share, and noise; four numbers are noise alone."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((1, PAIRS, 1, NUMBERS)) + noise * generator.standard_normal(
        (2, PAIRS, 2, NUMBERS)
    )
    values[..., -4:] = 2 * generator.standard_normal((2, PAIRS, 2, 4))
    return values.astype(np.float32)


def write_features(
    path: Path,
    features: NDArray[np.float32],
    facts: dict[str, Any] | None = None,
    names: Sequence[tuple[str, str]] = NAMES,
) -> Path:
    row = row_type(("left", "right"), features.shape[-1], 8)
    with FeaturesWriter(path, row, len(names), len(features)) as writer:
        writer.put(0, [make_rows(row, names, block, view) for view, block in enumerate(features)])
    if facts is not None:
        path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over so few numbers take ten times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three models, as `extract.py -s` makes it; one of them has reduced features too."""
    folder = tmp_path_factory.mktemp("features")
    for seed, (model, noise) in enumerate(MODELS.items()):
        values, facts = numbers(noise, seed), {"settings": {"model": model}}
        write_features(folder / f"m{seed}" / "features.npy", values, facts)
    (folder / "m0" / "pooled.npy").write_bytes(b"none of ours")
    reduced = {"settings": {"model": "clip_rn50x4"}, "pca": {"components": 6}}
    write_features(folder / "m0" / "features_pca6.npy", numbers(0.6, 0)[..., :6], reduced)
    return folder


def call(folder: Path, *given: Path | str) -> list[str]:
    return ["-d", *map(str, given), "-s", str(folder), "-t", "15", "-e", "8", "--cpu"]


@pytest.fixture(scope="module")
def finished(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "compared"
    assert train.main([*call(folder, features), "-r", str(RUNS)]) == 0
    return folder


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    return report


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return summary


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_run(one: Path, other: Path) -> bool:
    files = ("train.csv", "val.csv", "split.csv")
    heads = [torch.load(folder / "checkpoint.pt", weights_only=True)["head"] for folder in (one, other)]
    (weight,), (other_weight,) = (head.values() for head in heads)
    logs = all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    return logs and torch.equal(weight, other_weight)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the one line on stderr says."""
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ")
    assert error.count("\n") == 1
    return error.removeprefix("train.py: error: ").removesuffix("\n")


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    capsys.readouterr()
    assert train.main(arguments) == 2
    return one_line(capsys)


# ---- what is written


def test_each_model_has_an_ordinary_run_folder(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == FOLDERS | FILES
    for name in FOLDERS:
        found = {path.name for path in (finished / name).iterdir()}
        assert found == {"run1", "run2", "run3", "avg", "frozen", "summary.json", "curves.png"}


def test_every_model_has_the_same_splits(finished: Path) -> None:
    for run in range(1, RUNS + 1):
        assert len({(finished / name / f"run{run}" / "split.csv").read_bytes() for name in FOLDERS}) == 1


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_a_model_has_the_numbers_it_has_alone(features: Path, finished: Path, tmp_path: Path, name: str) -> None:
    (source,) = (one for one in report_of(finished)["models"] if one["folder"] == name)
    assert train.main([*call(tmp_path, source["file"]), "-r", str(RUNS), "-k", "1", "3", "5"]) == 0
    for run in range(1, RUNS + 1):
        assert same_run(tmp_path / f"run{run}", finished / name / f"run{run}")
    alone, compared = summary_of(tmp_path), summary_of(finished / name)
    (features_alone,), features_compared = (found["plan"].pop("features") for found in (alone, compared))
    assert features_alone in features_compared
    assert alone | {"flags": {}} == compared | {"flags": {}}


def test_the_order_of_the_files_means_nothing(features: Path, finished: Path, tmp_path: Path) -> None:
    given = [Path(one["file"]) for one in report_of(finished)["models"]][::-1]
    assert train.main([*call(tmp_path, *given), "-r", str(RUNS)]) == 0
    for name in FILES:
        assert lasting(tmp_path)[name] == lasting(finished)[name], name


def test_the_records_are_those_of_the_summaries(finished: Path) -> None:
    records = report_of(finished)["records"]
    means = {folder: summary_of(finished / folder)["metrics"]["top 1"]["last_epoch"]["mean"] for folder in FOLDERS}
    ranked = sorted(means, key=means.__getitem__, reverse=True)
    assert len(set(means.values())) == 3
    assert [record["folder"] for record in records[::3]] == ranked
    assert [record["k"] for record in records] == [1, 3, 5] * 3
    for record in records:
        last, best = (
            summary_of(finished / folder)["metrics"][f"top {record['k']}"]["last_epoch"]
            for folder in (record["folder"], ranked[0])
        )
        frozen = summary_of(finished / record["folder"])["metrics"][f"top {record['k']}"]["frozen"]
        assert [record["adapted"], record["sd"], record["low"], record["high"]] == [
            *(last["mean"], last["sd"]),
            *last["interval95"],
        ]
        assert record["factor"] == pytest.approx(last["mean"] / frozen["mean"])
        if record["rank"] > 1 and np.ptp(np.subtract(last["runs"], best["runs"])) > 1e-6:
            interval = stats.ttest_rel(last["runs"], best["runs"]).confidence_interval(0.95)
            assert [record["difference_low"], record["difference_high"]] == pytest.approx([interval.low, interval.high])


def test_table_csv_and_json_hold_the_same_numbers(finished: Path) -> None:
    records = report_of(finished)["records"]
    with (finished / "comparison.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert list(row) == list(record)
        for name, value in record.items():
            assert row[name] == "" if value is None else type(value)(row[name]) == value
    lines = (finished / "comparison.txt").read_text(encoding="utf-8").splitlines()[3:-1]
    for line, record in zip(lines, records, strict=True):
        assert f"{record['frozen']:.3f}" in line.split()
        assert f"{record['adapted']:.3f}" in line.split()
        assert line.startswith(record["model"] if record["k"] == 1 else " ")
    assert (finished / "comparison.tex").read_text(encoding="utf-8").count(r"clip\_rn50x4") == 1


def test_the_json_tells_where_the_numbers_come_from(finished: Path, features: Path) -> None:
    report = report_of(finished)
    assert report["pairs"] == {"train": 30, "test": 10}
    assert (report["settings"]["runs"], report["settings"]["ks"]) == (RUNS, [1, 3, 5])
    assert {one["model"]: (one["width"], one["folder"]) for one in report["models"]} == {
        "clip_rn50x4": (6, "clip_rn50x4"),
        "timm/vit_b.lvd142m": (12, "timm-vit_b.lvd142m"),
        "weak": (12, "weak"),
    }
    assert {record["model"]: (record["width"], record["pca"]) for record in report["records"]} == {
        "clip_rn50x4": (6, "all images"),
        "timm/vit_b.lvd142m": (12, "none"),
        "weak": (12, "none"),
    }


def test_the_plot_is_a_png_and_an_svg(finished: Path) -> None:
    with Image.open(finished / "comparison.png") as image:
        image.load()
        assert image.format == "PNG"
    assert (finished / "comparison.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_terminal_shows_the_table_and_where_things_are(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*call(tmp_path, features), "-r", "2"]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "comparison.txt").read_text(encoding="utf-8") in out
    assert "40 pairs, 10 of them to test on, mean of 2 runs; head original, 8 epochs, t = 15" in out
    for name in ("comparison.txt", "comparison.png"):
        assert str(tmp_path / name) in out
    assert f"tensorboard --logdir {tmp_path}" in out
    assert "48/48" in err  # one bar: models x runs x epochs
    assert "weak, run 2/2" in err


def test_runs_side_by_side_give_the_same_comparison(
    features: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "lay_out", lambda *given: replace(memory.lay_out(*given), runs=2))
    assert train.main([*call(tmp_path, features), "-r", str(RUNS)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FOLDERS | FILES
    for name in FOLDERS:
        for metric, found in summary_of(tmp_path / name)["metrics"].items():
            expected = summary_of(finished / name)["metrics"][metric]["last_epoch"]["runs"]
            assert found["last_epoch"]["runs"] == pytest.approx(expected, rel=1e-5)
    assert (tmp_path / "comparison.txt").read_bytes() == (finished / "comparison.txt").read_bytes()
    err = capsys.readouterr().err
    assert "72/72" in err  # one bar: models x runs x epochs
    assert "weak, run 3/3" in err


@pytest.mark.parametrize("small", ["1e-6", "0.0008"])
def test_too_little_memory_for_one_model_is_told_before_any_is_trained(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None, small: str
) -> None:
    # peterson's embeddings are as wide as the features: the one of 4,000 numbers alone is too much for the second
    values = np.random.default_rng(0).standard_normal((2, PAIRS, 2, 4000)).astype(np.float32)
    wide = write_features(tmp_path / "wide" / "features.npy", values)
    given = [*call(tmp_path / "runs", features / "m1", wide), "--model", "peterson"]
    told = refused(capsys, [*given, "--memory", small])
    assert told.startswith("training on 30 pairs takes some ")
    assert not (tmp_path / "runs").exists()


def test_frozen_features_are_compared_too(features: Path, tmp_path: Path) -> None:
    assert train.main([*call(tmp_path, features), "-r", "2", "--model", "dummy"]) == 0
    for record in report_of(tmp_path)["records"]:
        assert record["adapted"] == record["frozen"]
        assert record["factor"] == 1.0


def test_one_run_has_no_intervals(features: Path, tmp_path: Path) -> None:
    assert train.main(call(tmp_path, features)) == 0
    for record in report_of(tmp_path)["records"]:
        assert record["low"] is record["difference_low"] is record["sd"] is None


def test_a_folder_of_one_model_is_a_run_as_ever(features: Path, tmp_path: Path) -> None:
    assert train.main([*call(tmp_path / "folder", features / "m0"), "-r", "2"]) == 0
    assert train.main([*call(tmp_path / "file", features / "m0" / "features_pca6.npy"), "-r", "2"]) == 0
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        *("run1", "run2", "avg", "frozen", "summary.json", "curves.png")
    }
    assert same_run(tmp_path / "folder" / "run2", tmp_path / "file" / "run2")
    assert summary_of(tmp_path / "folder")["settings"]["ks"] == [1, 3]


@pytest.mark.parametrize(("share", "ks"), [("0.1", [1, 3]), ("0.05", [1])])
def test_default_ks_that_the_test_pairs_do_not_admit_are_left_out(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: str, ks: list[int]
) -> None:
    arguments = [*call(tmp_path / "runs", features), "--test-split", share]
    assert refused(capsys, [*arguments, "-k", "1", "5"]).startswith("-k 5: the ")
    assert train.main(arguments) == 0
    assert report_of(tmp_path / "runs")["settings"]["ks"] == ks


def test_one_model_is_in_memory_at_a_time(features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    load = Survey.load

    def loaded(survey: Survey) -> Any:
        gc.collect()
        assert not any(tensor() is not None for tensor in seen)
        pairs = load(survey)
        seen.append(weakref.ref(pairs.left))
        return pairs

    monkeypatch.setattr(Survey, "load", loaded)
    assert train.main(call(tmp_path, features)) == 0
    assert len(seen) == 3


# ---- checked before the first epoch


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(*_: object, **__: object) -> None:
        pytest.fail("an epoch was run")

    monkeypatch.setattr(trainer, "train_runs", trained)


def test_files_of_different_pairs_are_refused(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    names = [*NAMES[1:], ("zeb.jpg", "zeb.png")]
    other = write_features(tmp_path / "z" / "features.npy", numbers(0.5, 9), names=names)
    told = refused(capsys, call(tmp_path / "runs", features, other))
    assert f"only {other} has zeb.jpg / zeb.png" in told
    assert "has 00.jpg / 00.png" in told
    assert not (tmp_path / "runs").exists()


def test_a_subset_that_all_have_makes_them_comparable(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_features(tmp_path / "z" / "features.npy", numbers(0.5, 9)[:, 8:], names=NAMES[8:])
    subset = tmp_path / "some.csv"
    subset.write_text("name\n" + "\n".join(left for left, _ in NAMES[10:]) + "\n", encoding="utf-8")
    assert "00.jpg / 00.png, 01.jpg / 01.png" in refused(capsys, call(tmp_path / "no", features / "m1", other))
    assert train.main([*call(tmp_path / "runs", features / "m1", other), "--subset", str(subset)]) == 0
    assert report_of(tmp_path / "runs")["pairs"] == {"train": 23, "test": 7}
    assert summary_of(tmp_path / "runs" / "z")["settings"]["subset"] == str(subset)


def not_finite(path: Path) -> None:
    values = numbers(0.5, 9)
    values[1, 5, 1, 2] = np.nan
    write_features(path, values)


def cut(path: Path) -> None:
    write_features(path, numbers(0.5, 9))
    path.write_bytes(path.read_bytes()[:-100])


def flat(path: Path) -> None:
    np.save(path, np.zeros(3, row_type(("features",), 4, 5)))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (not_finite, "05.jpg / 05.png, right, view 1: nan at index 2, not a finite number"),
        (cut, "cut short"),
        (flat, "features of a flat folder"),
    ],
)
def test_a_file_that_is_no_features_file_stops_all(
    features: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_training: None,
    write: Callable[[Path], None],
    told: str,
) -> None:
    write(tmp_path / "zz.npy")
    assert refused(capsys, call(tmp_path / "runs", features, tmp_path / "zz.npy")).startswith(
        f"{tmp_path / 'zz.npy'}: {told}"
    )
    assert not (tmp_path / "runs").exists()


def test_an_error_shows_no_control_characters_of_a_folders_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    for name in ("a\x1b[2Jb", "c\nd"):
        (tmp_path / name).mkdir()
        cut(tmp_path / name / "features.npy")
        told = refused(capsys, call(tmp_path / "runs", tmp_path / name))
        assert told.isprintable()
        assert "cut short" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["-k", "11"], "-k 11: the 10 test pairs are the gallery"),
        (["--test-split", "1"], "--test-split 1: give a share between 0 and 1"),
        (["--components", "4"], "m0: no features_pca4.npy here; choose by --components 6, or give the file itself"),
        (["--pca-fit", "train"], "--components 256: "),
        (["--pca-fit", "train", "--components", "13"], "--components 13: "),
        (["--subset", "nowhere.csv"], "nowhere.csv: no CSV file"),
        (["--precision", "tf32"], "--precision tf32: is for a GPU"),
    ],
)
def test_wrong_flags(
    features: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_training: None,
    more: list[str],
    told: str,
) -> None:
    assert refused(capsys, [*call(tmp_path / "runs", features), *more]).removeprefix(f"{features}/").startswith(told)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("more", [["--components", "0"], ["--components", "all"], ["--pca-fit", "test"], ["-d"]])
def test_flags_that_have_no_meaning(features: Path, tmp_path: Path, more: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main([*call(tmp_path / "runs", features), *more])
    assert ended.value.code == 2


# ---- nothing is lost


def test_a_comparison_that_is_there_stays_as_it_is(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(call(tmp_path, features)) == 0
    before = contents(tmp_path)
    told = refused(capsys, [*call(tmp_path, features), "--seed", "1"])
    assert told == (
        f"{tmp_path}: already holds a comparison (comparison.txt); give another folder, or --overwrite to replace it"
    )
    assert refused(capsys, [*call(tmp_path, features / "m1"), "--overwrite"]).startswith(
        f"{tmp_path}: holds a comparison of models"
    )
    assert contents(tmp_path) == before


def test_a_model_that_was_run_stays_as_it_is(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train.main(call(tmp_path / "weak", features / "m2")) == 0
    before = contents(tmp_path)
    told = refused(capsys, call(tmp_path, features))
    assert told.startswith(
        f"{tmp_path / 'weak'}: already holds runs of other settings (ks: [1, 3] there, [1, 3, 5] asked;"
    )
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["weak"]  # and no folder of the others
    assert train.main([*call(tmp_path, features), "--overwrite"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FOLDERS | FILES


def test_overwriting_replaces_the_comparison_and_its_runs(features: Path, tmp_path: Path) -> None:
    assert train.main([*call(tmp_path, features), "-r", "2", "--pca-fit", "train", "--components", "4"]) == 0
    assert (tmp_path / "weak" / "run2" / "pca.skops").is_file()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "weak" / "notes.txt").write_text("mine too")
    assert train.main([*call(tmp_path, features), "--seed", "3", "--overwrite"]) == 0
    assert report_of(tmp_path)["settings"]["seed"] == summary_of(tmp_path / "weak")["settings"]["seed"] == 3
    assert {path.name for path in tmp_path.iterdir()} == FOLDERS | FILES | {"notes.txt"}
    own = {"run1", "avg", "frozen", "summary.json", "curves.png", "notes.txt"}
    assert {path.name for path in (tmp_path / "weak").iterdir()} == own
    assert not (tmp_path / "weak" / "run1" / "pca.skops").exists()


def test_what_was_there_stays_until_the_new_is_whole(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*call(tmp_path, features), "--overwrite"]
    assert train.main(arguments) == 0
    before = contents(tmp_path)

    def second(step: Callable[..., object]) -> Callable[..., object]:
        """`step`, interrupted when the second model comes to it."""
        calls = count()
        return lambda *given: step(*given) if next(calls) == 0 else interrupt()

    steps = (
        (trainer, "train_epoch", interrupt),
        (results, "write_summary", interrupt),
        (results, "write_summary", second(results.write_summary)),
    )
    for module, step, interrupted in steps:
        with monkeypatch.context() as patch:
            patch.setattr(module, step, interrupted)
            assert train.main([*arguments, "--seed", "1"]) == 130
        found = contents(tmp_path)
        assert {name: found[name] for name in found if ".unfinished/" not in name} == before
    with monkeypatch.context() as patch:
        patch.setattr(plots, "draw_bars", interrupt)
        assert train.main([*arguments, "--seed", "1"]) == 130
    assert all((tmp_path / name).read_bytes() == before[name] for name in FILES)
    assert train.main([*arguments, "--seed", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == FOLDERS | FILES


def lasting(folder: Path) -> dict[str, bytes]:
    """The files whose bytes the numbers alone make: all but what TensorBoard reads, which has times."""
    return {name: without_flags(body) for name, body in contents(folder).items() if "tfevents" not in name}


def without_flags(body: bytes) -> bytes:
    """A record without the command line, which has the folder in it."""
    return re.sub(rb'(?s)\n  "flags": \{.*?\n  \},', b"", body)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Receives the features files that are loaded to be trained on."""
    seen: list[Path] = []
    load = Survey.load

    def noted(survey: Survey) -> Any:
        seen.append(survey.path)
        return load(survey)

    monkeypatch.setattr(Survey, "load", noted)
    return seen


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_finished_models_of_a_comparison_are_not_trained_again(
    features: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loaded: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [*call(tmp_path, features), "-r", str(RUNS)]
    train_runs, trained = trainer.train_runs, list[list[int]]()

    def fifth(*given: Any, **named: Any) -> list[trainer.Run]:
        trained.append(list(given[2]))
        if len(trained) == 5:  # the second run of the second model
            raise KeyboardInterrupt
        return train_runs(*given, **named)

    monkeypatch.setattr(trainer, "train_runs", fifth)
    assert train.main(arguments) == 130
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished"]
    assert len(loaded) == 2
    first, second = loaded
    assert train.main(arguments) == 0
    assert loaded[2] == second
    assert len(loaded) == 4
    assert first not in loaded[2:]
    assert trained[5:] == [[2], [3], [1], [2], [3]]
    assert "72/72" in capsys.readouterr().err
    assert lasting(tmp_path) == lasting(finished)


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_comparison_that_only_lacks_its_table_is_ended_without_training(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[Path], more: list[str]
) -> None:
    assert train.main(call(tmp_path / "uncut", features)) == 0
    arguments = [*call(tmp_path / "cut", features), *more]
    if more:
        assert train.main([*arguments, "--seed", "5"]) == 0
    for module, step in ((plots, "draw_bars"), (Staging, "place")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, interrupt)
            assert train.main(arguments) == 130
    loaded.clear()
    assert train.main(arguments) == 0
    assert loaded == []
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")


@pytest.mark.parametrize("which", [0, 1, 7, 12, 17, 18])
def test_a_comparison_that_was_cut_short_while_it_was_placed_is_ended_without_training(
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    loaded: list[Path],
    capsys: pytest.CaptureFixture[str],
    which: int,
) -> None:
    assert train.main(call(tmp_path / "uncut", features)) == 0
    arguments = call(tmp_path / "cut", features)
    complete, rename, done = Staging.complete, Path.rename, list[Path]()

    def some(path: Path, target: Path) -> Path:
        if len(done) == which:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, target)

    def completed(staging: Staging) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", some)
            return complete(staging)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "complete", completed)
        assert train.main(arguments) == 130
    loaded.clear()
    capsys.readouterr()
    assert train.main(arguments) == 0
    assert loaded == []
    assert lasting(tmp_path / "cut") == lasting(tmp_path / "uncut")
    assert {path.name for path in (tmp_path / "cut").iterdir()} == FOLDERS | FILES
    assert (tmp_path / "uncut" / "comparison.txt").read_text(encoding="utf-8") in capsys.readouterr().out


def test_the_very_same_comparison_is_not_made_again(
    features: Path, tmp_path: Path, loaded: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(call(tmp_path, features)) == 0
    before = contents(tmp_path)
    loaded.clear()
    capsys.readouterr()
    assert train.main(call(tmp_path, features)) == 0
    assert loaded == []
    assert contents(tmp_path) == before
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path}: these very runs are here already; --overwrite makes them again\n")
    assert (tmp_path / "comparison.txt").read_text(encoding="utf-8") in out
    (tmp_path / "comparison.txt").unlink()
    told = refused(capsys, call(tmp_path, features))
    assert told == f"{tmp_path / 'comparison.txt'}: gone or damaged; --overwrite makes it again"


def test_a_changed_byte_of_one_file_stops_all(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    path = write_features(tmp_path / "z" / "features.npy", numbers(0.5, 9))
    facts = {"settings": {"model": "z"}, "sha256": sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    told = refused(capsys, call(tmp_path / "runs", features, path))
    assert told.startswith(f"{path}: was changed or damaged since it was written (its SHA-256 begins with ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_comparison_is_not_put_among_the_runs_of_one_model(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None, more: list[str]
) -> None:
    (tmp_path / "run1").mkdir()
    told = refused(capsys, [*call(tmp_path, features), *more])
    assert told == f"{tmp_path}: holds a run of one model (run1); give another folder for the comparison"


def test_a_folder_with_the_name_of_a_file_is_left_alone(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    (tmp_path / "comparison.svg").mkdir()
    told = refused(capsys, [*call(tmp_path, features), "--overwrite"])
    assert told.startswith(f"{tmp_path / 'comparison.svg'}: has the name of a file of a comparison and is none")


def test_a_second_command_on_the_same_folder_is_refused(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    with held(tmp_path):
        assert refused(capsys, call(tmp_path, features)).startswith(f"{tmp_path}: another process is writing here")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a\nb", "\x1b[2J", "run1", "avg", "comparison.json", ".."])
def test_a_hostile_name_leads_nowhere(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    facts = {"settings": {"model": name}}
    hostile = write_features(tmp_path / "in" / "features.npy", numbers(0.5, 9), facts)
    outside = set(tmp_path.iterdir()) | {tmp_path / "out"}
    assert train.main([*call(tmp_path / "out" / "runs", features / "m2", hostile), "-k", "1"]) == 0
    assert set(tmp_path.iterdir()) == outside
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runs"]
    for source in report_of(tmp_path / "out" / "runs")["models"]:
        assert source["model"].isprintable()
        assert os.sep not in source["folder"]
        assert (tmp_path / "out" / "runs" / source["folder"] / "summary.json").is_file()
    printed = capsys.readouterr()
    assert all(char.isprintable() or char in "\n\r" for char in printed.out + printed.err)


# ---- a PCA of each run's own


def test_each_run_has_the_pca_of_its_training_pairs(features: Path, tmp_path: Path) -> None:
    from sklearn.decomposition import PCA

    arguments = [*call(tmp_path, features / "m0"), "-r", "2", "--pca-fit", "train", "--components", "4"]
    assert train.main(arguments) == 0
    table = np.load(features / "m0" / "features.npy")
    for run in ("run1", "run2"):
        with (tmp_path / run / "split.csv").open(newline="", encoding="utf-8") as file:
            trained = [row["left_name"] for row in csv.DictReader(file) if row["set"] == "train"]
        rows = table[np.isin(table["left_name"], trained)]
        oracle = PCA(4, svd_solver="full").fit(np.concatenate([rows["left"], rows["right"]]).astype(float))
        found = load_pca(tmp_path / run / "pca.skops")
        assert found.n_samples_ == 2 * 2 * 30
        np.testing.assert_allclose(np.abs((found.components_ * oracle.components_).sum(1)), 1, atol=1e-6)
        (weight,) = torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["head"].values()
        assert weight.shape == (1024, 4)
    assert summary_of(tmp_path)["features"]["pca"] == {"fitted_on": "training pairs", "components": 4}
    assert summary_of(tmp_path)["features"]["width"] == NUMBERS


def test_the_protocol_is_told(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--pca-fit", "train", "--components", "4"]
    assert train.main([*call(tmp_path / "one", features / "m0"), *more]) == 0
    out = capsys.readouterr().out
    assert "12 dimensions; PCA to 4 on each run's training pairs" in out
    assert "after the last epoch; PCA fitted on each run's training pairs" in out
    assert train.main([*call(tmp_path / "all", features), *more]) == 0
    report = report_of(tmp_path / "all")
    assert {(record["width"], record["pca"]) for record in report["records"]} == {(4, "training pairs")}
    assert {Path(one["file"]).name for one in report["models"]} == {"features.npy"}
    assert "each run's training pairs" in capsys.readouterr().out


def test_features_that_were_reduced_are_refused(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_training: None
) -> None:
    file = features / "m0" / "features_pca6.npy"
    told = refused(capsys, [*call(tmp_path / "runs", file), "--pca-fit", "train", "--components", "4"])
    assert told.startswith(f"{file}: was reduced by extract.py; --pca-fit train takes the features.npy")
    assert not (tmp_path / "runs").exists()


def test_several_reduced_files_are_refused(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (6, 8):
        write_features(tmp_path / "m" / f"features_pca{number}.npy", numbers(0.5, 9)[..., :number])
    told = "several reduced files; choose by --components 6, --components 8, or give the file itself: features_pca6.npy"
    assert told in refused(capsys, call(tmp_path / "runs", features, tmp_path / "m"))
    assert "features_pca7.npy here; choose by" in refused(
        capsys, [*call(tmp_path / "runs", tmp_path / "m"), "--components", "7"]
    )
    assert train.main([*call(tmp_path / "one", tmp_path / "m"), "--components", "8"]) == 0
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["features"]["width"] == 8
    both = [tmp_path / "m" / f"features_pca{number}.npy" for number in (6, 8)]
    assert train.main(call(tmp_path / "runs", *both)) == 0
    assert {record["model"] for record in report_of(tmp_path / "runs")["records"]} == {
        *("m features_pca6", "m features_pca8")
    }
