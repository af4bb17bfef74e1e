"""Signals, sent to real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common import stopping
from common.stopping import SIGNALS, Stopped, stoppable

ROOT = Path(stopping.__file__).parents[1]
WAIT = """
import sys, time
from common import console

def work():
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("in order", flush=True)
    return 0

sys.exit(console.guarded("x.py", work, "call it again"))
"""
CLEANS_UP_FOR_EVER = WAIT.replace('print("in order", flush=True)', 'print("in order", flush=True); time.sleep(60)')
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def started(program: str) -> subprocess.Popen[str]:
    """The program, at work."""
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_the_first_signal_ends_in_order_and_in_one_line(number: signal.Signals, code: int) -> None:
    with started(WAIT) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, "in order\n", "\nx.py: interrupted; call it again\n")


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize(("number", "code"), CODES.items())
def test_the_second_signal_ends_at_once(first: signal.Signals, number: signal.Signals, code: int) -> None:
    with started(CLEANS_UP_FOR_EVER) as process:
        assert process.stdout is not None
        process.send_signal(first)
        assert process.stdout.readline() == "in order\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (code, "")


@pytest.mark.parametrize("number", SIGNALS)
def test_what_signals_did_before_they_do_again(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Stopped) as raised, stoppable():
        signal.raise_signal(number)
    assert (raised.value.number, raised.value.exit_code) == (number, CODES[number])
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_what_is_to_be_ignored_is_ignored() -> None:
    """As `nohup`, and shells for what runs in the background, ask."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_stopped_is_what_ctrl_c_is_to_others() -> None:
    assert issubclass(Stopped, KeyboardInterrupt)  # which `except Exception` lets through


def test_another_thread_than_the_main_one_leaves_signals_alone() -> None:
    actual: list[object] = []

    def work() -> None:
        with stoppable():
            actual.extend(signal.getsignal(each) for each in SIGNALS)

    before = [signal.getsignal(each) for each in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert actual == before
