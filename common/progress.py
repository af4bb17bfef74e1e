"""Show the progress of long work as a bar: what is done, how fast, and the time left."""

from __future__ import annotations

import sys
from typing import TypeAlias

from tqdm import tqdm

Bar: TypeAlias = tqdm


def progress(total: int, what: str, unit: str, done: int = 0, disable: bool = False) -> Bar:
    """Return a bar on stderr of `total` units, of which `done` were finished before. Where stderr is no terminal (a log
    file), it writes a line now and then instead of ten a second. With `disable` nothing is shown."""
    every = 0.1 if sys.stderr.isatty() else 20.0
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=f" {unit}",
        smoothing=0.05,
        mininterval=every,
        maxinterval=2 * every,
        **({"disable": True} if disable else {}),  # the environment may say so too: TQDM_DISABLE
    )
