"""The guide's examples of a head, a loss and a metric, run by the real command; and what is wrong with one's own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import train
from adaptation import heads, losses, metrics, plan, trainer
from featuresExtractor.features.writing import write_pairs

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
OUTSIDE = "A head or a loss of your own, outside the package"
Train = Callable[..., dict[str, Any]]


def example(heading: str) -> str:
    """The Python code below a heading of the guide."""
    section = GUIDE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return str(code)


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """Forty pairs with something in common."""
    generator = np.random.default_rng(0)
    common = generator.standard_normal((40, 16))
    left, right = (common + generator.standard_normal((40, 16)) for _ in range(2))
    write_pairs(tmp_path / "features.npy", left, right)
    return tmp_path / "features.npy"


@pytest.fixture
def run(features: Path, tmp_path: Path) -> Train:
    """`run(words)` trains and returns what `summary.json` holds."""

    def command(*words: str) -> dict[str, Any]:
        folder = tmp_path / "-".join(["runs", *words]).replace("/", "_").replace(":", "_")
        assert (
            train.main(["-d", str(features), "-s", str(folder), "-t", "5", "-e", "20", "-r", "2", "--cpu", *words]) == 0
        )
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return found | {"folder": folder}

    return command


def add(heading: str, module: ModuleType, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an example where the guide says, at the end of the module."""
    monkeypatch.setattr(module, table, dict(getattr(module, table)))
    before = vars(module).copy()
    exec(example(heading), vars(module))
    for name in vars(module).keys() - before.keys():
        value = vars(module).pop(name)
        monkeypatch.setattr(module, name, value, raising=False)


def test_head_with_dropout_and_batch_norm(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    add("A head", heads, "HEADS", monkeypatch)
    summary = run("--model", "two-layers")
    assert summary["settings"]["head"] == "two-layers"
    state = torch.load(summary["folder"] / "run2" / "checkpoint.pt", weights_only=True)["head"]
    assert state["4.weight"].shape == (256, 512)
    assert state["1.num_batches_tracked"] == 2 * 20  # both sides of each epoch
    again = run("--model", "two-layers", "--overwrite")
    assert again["metrics"] == summary["metrics"]


def test_loss(run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    add("A loss", losses, "LOSSES", monkeypatch)
    losses.find_loss.cache_clear()
    summary = run("--loss", "triplet")
    assert summary["settings"]["loss"] == "triplet"
    logged = (summary["folder"] / "run1" / "train.csv").read_text(encoding="utf-8").splitlines()
    values = [float(line.split(",")[1]) for line in logged[1:]]
    assert values[-1] < 0.7 * values[0]


def test_metric(run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    add("A metric", metrics, "METRICS", monkeypatch)
    summary = run("-k", "1", "5")
    values = {name: metric["last_epoch"]["mean"] for name, metric in summary["metrics"].items()}
    assert 0 < values["both 1"] < values["both 5"] <= values["recall 5 left-to-right"] <= values["top 5"]
    assert re.search(r"^both 5 +0\.\d{3}", capsys.readouterr().out, re.MULTILINE)


def test_change_of_the_package_is_noticed(
    run: Train, features: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by an editor: a copy of the sources that differs in a character."""
    summary = run()
    assert summary["plan"]["program"] == plan.program()
    copy = features.parent / "adaptation"
    shutil.copytree(Path(plan.__file__).parent, copy)
    words = ["-d", str(features), "-s", str(summary["folder"]), "-t", "5", "-e", "20", "-r", "2", "--cpu"]
    for name in ("heads", "losses", "metrics", "ranks", "tiled_loss", "trainer"):
        source = copy / f"{name}.py"
        original = source.read_text(encoding="utf-8")
        source.write_text(original + "#", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(plan, "__file__", str(copy / "plan.py"))
            assert train.main(words) == 2
        assert "already holds runs of other settings (program: " in capsys.readouterr().err
        source.write_text(original, encoding="utf-8")
    assert train.main(words) == 0


def test_metric_of_another_shape_is_refused_by_name(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mean = metrics.Metric(lambda left_to_right, right_to_left: left_to_right.mean())
    monkeypatch.setitem(metrics.METRICS, "mean rank", mean)
    assert train.main(["-d", str(features), "-s", str(tmp_path / "runs"), "--cpu"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "train.py: error: metric 'mean rank': gives (), not a number a run, (1,)"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The guide's example in a file of the user's."""
    (tmp_path / "mine.py").write_text(example(OUTSIDE), encoding="utf-8")
    return tmp_path / "mine.py"


def test_head_and_loss_of_a_file_of_ones_own(run: Train, mine: Path) -> None:
    summary = run("--model", f"{mine}:Scaled", "--loss", f"{mine}:softmax_of_rows")
    assert [name.rpartition(":")[2] for name, _ in summary["settings"]["code"]] == ["Scaled", "softmax_of_rows"]
    state = torch.load(summary["folder"] / "run1" / "checkpoint.pt", weights_only=True)["head"]
    assert state["weight"].shape == (16,)
    assert state["scale"] == 2


def test_file_that_changed_is_noticed(
    run: Train, features: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "-d",
        str(features),
        "-s",
        str(tmp_path / "cut"),
        "-e",
        "3",
        "-r",
        "2",
        "--cpu",
        "--model",
        f"{mine}:Scaled",
    ]
    original, calls = trainer.train_runs, list[object]()

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_runs", interrupted)
        assert train.main(words) == 130
    mine.write_text(mine.read_text(encoding="utf-8").replace("2.0", "3.0"), encoding="utf-8")
    assert train.main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "unfinished work of other settings is here (code: " in error
    assert train.main([*words, "--overwrite"]) == 0
    state = torch.load(tmp_path / "cut" / "run1" / "checkpoint.pt", weights_only=True)["head"]
    assert state["scale"] == 3


NUMBER = "one number () that autograd can differentiate is expected"
OWN = "and one of your own: FILE.py:NAME"
SUMS = """
import torch


class Head(torch.nn.Module):
    def __init__(self, features):
        super().__init__()

    def forward(self, x):
        return x.sum(1)
"""
WRONG = [
    ("--model", "no_such.py:Head", None, "no_such.py: cannot be read (No such file or directory)"),
    ("--model", "mine.py:Nothing", "x = 1", "mine.py:Nothing: there is no class or function 'Nothing' in this file"),
    ("--model", "mine.py:x", "x = 1", "mine.py:x: there is no class or function 'x' in this file"),
    ("--model", "mine.py:Head", "class Head(", "mine.py: SyntaxError: '(' was never closed (mine.py, line 1)"),
    ("--model", "mine.py:Head", "import no_such", "mine.py: ModuleNotFoundError: No module named 'no_such'"),
    ("--model", "mine.py:dict", "dict = dict", "mine.py:dict: TypeError: 'int' object is not iterable"),
    ("--model", "mine.py:Head", "Head = str", "mine.py:Head: gives str, not a torch.nn.Module"),
    ("--model", "mine.py:Head", SUMS, "mine.py:Head: makes (3,) of features (3, 16); embeddings (3, E) are expected"),
    (
        *("--model", "orignal", None),
        f"unknown head 'orignal'; did you mean 'original'? allowed are original, peterson, dummy, {OWN}",
    ),
    (
        *("--loss", "sigmoide", None),
        f"unknown loss 'sigmoide'; did you mean 'sigmoid'? allowed are contrastive, sigmoid, {OWN}",
    ),
    ("--loss", "mine.py:f", "def f(s, t): return s", f"mine.py:f: gives a tensor (4, 4); {NUMBER}"),
    ("--loss", "mine.py:f", "def f(s, t): return 1.0", f"mine.py:f: gives float; {NUMBER}"),
    ("--loss", "mine.py:f", "def f(s, t): return s.detach().sum()", f"mine.py:f: gives a tensor (); {NUMBER}"),
    (
        *("--loss", "mine.py:f", "def f(s): return s.sum()"),
        "mine.py:f: TypeError: f() takes 1 positional argument but 2 were given",
    ),
]


@pytest.mark.parametrize(("flag", "name", "code", "message"), WRONG)
def test_what_is_wrong_with_ones_own_is_said_in_a_line(
    flag: str,
    name: str,
    code: str | None,
    message: str,
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if code is not None:
        Path("mine.py").write_text(code, encoding="utf-8")
    assert train.main(["-d", str(features), "-s", "runs", "--cpu", flag, name]) == 2
    assert capsys.readouterr().err == f"train.py: error: {message}\n"
    assert not Path("runs").exists()
