"""Ctrl-C and SIGTERM: the first ends the program in order, a second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The program was asked to end, by a signal of this `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, as shells count."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[None]:
    """Makes the signals raise `Stopped` in here. Only a program's main thread can say what signals do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup asks
    before = {number: signal.signal(number, _stop) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for each in SIGNALS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, _leave)
    raise Stopped(number)


def _leave(number: int, _frame: FrameType | None) -> None:
    """Whoever asks twice does not want to wait: files are such that nothing is lost by it."""
    os._exit(128 + number)
