"""`similarity.py` as a user meets it: help, and wrong words."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pytest

import similarity

PROJECT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("words", [["-h"], ["embed", "-h"], ["search", "-h"], ["score", "-h"]])
def test_help_needs_no_torch(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, similarity\ntry:\n similarity.main(sys.argv[1:])\nfinally:\n print('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "usage: similarity.py" in done.stdout
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required"),
        (["embed"], "-d/--dataset"),
        (["search", "-m", "a", "-q", "b", "-s", "c"], "-g/--gallery"),
        (["score", "-m", "a", "-s", "c"], "one of the arguments -d/--dataset --pairs is required"),
        (["score", "-m", "a", "-s", "c", "-d", "x", "--pairs", "y"], "not allowed with argument"),
        (["search", "-m", "a", "-q", "b", "-g", "d", "-s", "c", "-k", "0"], "'0' is not a whole number above 0"),
        (["dance"], "invalid choice"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        similarity.main(words)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["embed", "search", "score"])
def test_a_similarity_that_is_not_there_is_told_before_images_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = {"embed": ["-d", "x"], "search": ["-q", "x", "-g", "y"], "score": ["-d", "x"]}[command]
    assert similarity.main([command, "-m", str(tmp_path / "none"), "-s", str(tmp_path / "out"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("similarity.py: error: ")
    assert "none: no such run folder or file; train.py --final writes similarity.safetensors" in line
    assert not (tmp_path / "out").exists()


def test_help_of_each_command_says_what_it_writes(capsys: pytest.CaptureFixture[str]) -> None:
    for command, file in (("embed", "OUT/embeddings.npy"), ("search", "OUT/results.csv"), ("score", "OUT/scores.csv")):
        with pytest.raises(SystemExit):
            similarity.main([command, "-h"])
        help_text = capsys.readouterr().out
        assert file in help_text
        assert "None" not in help_text


def test_every_option_of_the_help_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    parser = similarity.build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        assert command.description
        assert [action.dest for action in command._actions if not action.help] == []
