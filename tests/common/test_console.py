"""What both scripts show and accept on the command line."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common import console
from common.errors import InputError
from common.stopping import Stopped

ROOT = Path(console.__file__).parents[1]


def raising(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def test_exit_code_of_a_command_is_passed_on() -> None:
    assert console.guarded("x.py", lambda: 7) == 7


def test_wrong_input_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(InputError("photos: no such folder"))) == 2
    assert capsys.readouterr() == ("", "x.py: error: photos: no such folder\n")


def test_interruption_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nx.py: interrupted; nothing is kept\n"


def test_an_interruption_tells_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(KeyboardInterrupt()), "call it again") == 130
    assert capsys.readouterr().err == "\nx.py: interrupted; call it again\n"


def test_exit_code_of_a_signal_is_that_of_shells() -> None:
    assert console.guarded("x.py", raising(Stopped(signal.SIGTERM))) == 143
    assert console.guarded("x.py", raising(Stopped(signal.SIGINT))) == 130


def test_an_error_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(InputError("a\x1b[2J\nb: no such folder"))) == 2
    assert capsys.readouterr().err == "x.py: error: a\\x1b[2J\\nb: no such folder\n"
    full = OSError(errno.ENOSPC, "No space left on device", "a\x1b[2J\nb.npy")
    assert console.guarded("x.py", raising(full)) == 2
    assert capsys.readouterr().err == "x.py: error: a\\x1b[2J\\nb.npy: No space left on device\n"


def test_faults_of_the_program_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        console.guarded("x.py", raising(ZeroDivisionError()))


def test_table_aligns_words_left_and_numbers_right() -> None:
    assert console.table(("name", "n", "what"), [["a", "1,000", "x y"], ["longer", "-", "z"]]).splitlines() == [
        "name        n  what",
        "------  -----  ----",
        "a       1,000  x y",
        "longer      -  z",
    ]


def test_a_full_disk_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "out/features.npy")
    assert console.guarded("x.py", raising(full)) == 2
    assert capsys.readouterr().err == "x.py: error: out/features.npy: No space left on device\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG, errno.ESTALE, errno.EMFILE, errno.EISDIR, errno.ENOENT])
def test_other_system_errors_are_told_in_one_line_too(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(OSError(number, os.strerror(number), "a\x1b.npy"))) == 2
    assert capsys.readouterr().err == f"x.py: error: a\\x1b.npy: {os.strerror(number)}\n"


def test_an_error_that_the_system_did_not_make_is_a_fault_of_the_program() -> None:
    with pytest.raises(OSError, match="odd"):
        console.guarded("x.py", raising(OSError("odd")))


def test_a_full_memory_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.guarded("x.py", raising(MemoryError())) == 2
    assert capsys.readouterr().err.startswith("x.py: error: the memory is full")


def test_a_terminal_that_lacks_a_character_is_no_reason_to_end() -> None:
    program = "from common import console; console.guarded('x.py', lambda: print('\\u00fc') or 0)"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout == b"\\xfc\n"


def test_a_reader_that_has_seen_enough_ends_it_without_a_word() -> None:
    lines = "print('line'); return 0"
    program = f"import sys\nfrom common import console\ndef f():\n    {lines}\nsys.exit(console.guarded('x.py', f))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, check=False, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (75.2, "1 min 15 s"),
        (3599.9, "1 h 0 min"),
        (7380, "2 h 3 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "", "one", "+1", " 1", "²", "٣"])
def test_counts_are_whole_numbers_above_0(text: str) -> None:
    assert console.positive("20") == 20
    with pytest.raises(
        argparse.ArgumentTypeError, match=f"'{text[:1]}.*' is not a whole number above 0".replace("+", r"\+")
    ):
        console.positive(text)


@pytest.mark.parametrize("text", ["-1", "1.0", "", "one", "٣", str(2**63), "9" * 5000])
def test_seeds_are_whole_numbers_from_0(text: str) -> None:
    assert console.natural("0") == 0
    assert console.natural(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a whole number from 0 to 2\^63 - 1"):
        console.natural(text)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "", "warm"])
def test_scales_are_finite_numbers_above_0(text: str) -> None:
    assert console.positive_float("1.5e1") == 15
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a number above 0"):
        console.positive_float(text)


@pytest.mark.parametrize(("words", "gpu"), [([], None), (["--gpu"], True), (["--cpu"], False)])
def test_device_is_asked_for_or_left_open(words: list[str], gpu: bool | None) -> None:
    parser = argparse.ArgumentParser()
    console.add_device(parser)
    assert parser.parse_args(words).gpu is gpu


def test_gpu_and_cpu_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    console.add_device(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--gpu", "--cpu"])
    assert ended.value.code == 2
    assert "not allowed with argument --gpu" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "precision"), [([], "fp32"), (["--precision", "bf16"], "bf16")])
def test_precision_is_fp32_when_nothing_is_said(words: list[str], precision: str) -> None:
    parser = argparse.ArgumentParser()
    console.add_precision(parser, ("fp32", "bf16"), "told")
    assert parser.parse_args(words).precision == precision


def test_a_precision_that_a_script_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    console.add_precision(parser, ("fp32", "bf16"), "what it rounds")
    assert "arithmetic (default fp32, as in the paper); what it rounds" in " ".join(parser.format_help().split())
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--precision", "fp16"])
    assert ended.value.code == 2
    assert "argument --precision: invalid choice: 'fp16'" in capsys.readouterr().err


def test_messages_are_printed_once_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        logging.getLogger("adaptation.any").info("plain %s")
        logging.getLogger("common.storage.any").warning("note: odd")
        logging.getLogger("another.library").info("nothing of ours")
        return 0

    assert console.guarded("test", command) == 0
    assert capsys.readouterr() == ("plain %s\n", "note: odd\n")


def test_outside_of_a_command_a_library_is_silent() -> None:
    program = "import logging; from common import console; logging.getLogger('common.any').info('x'); console.logged()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
