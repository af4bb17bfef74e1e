"""Where results go: a CSV, and a page to look at. Both take their places together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adaptation.pages.content import Page
from adaptation.pages.page import write_page
from common.errors import InputError, listed, printable
from common.storage.files import write_csv
from common.storage.lock import held
from common.storage.staging import Staging

PAGE, PART = "page.html", "results"


@contextmanager
def results_in(folder: Path, name: str, overwrite: bool) -> Iterator[None]:
    """Keep a folder for the results of this process: the CSV `name`, and a page. InputError where results are there
    already, unless they may be replaced."""
    with held(folder):
        Staging(folder, PART).complete()
        if (existing := _existing(folder, name)) and not overwrite:
            raise InputError(
                f"{printable(str(folder))}: already holds {listed(existing)}; give another folder, or --overwrite to "
                "replace it"
            )
        yield


def _existing(folder: Path, name: str) -> list[str]:
    return [part for part in (name, PAGE) if (folder / part).exists()]


def write_results(folder: Path, name: str, rows: Iterable[Sequence[object]], page: Page | None) -> None:
    """Write the rows to the CSV `name`, and the page to page.html, in the place of earlier results; within
    `results_in`."""
    staging = Staging(folder, PART)
    staging.begin({"results": name}, overwrite=True)
    write_csv(staging.path / name, rows)
    if page is not None:
        write_page(staging.path / PAGE, page)
    new = [name, *[PAGE] * (page is not None)]
    staging.place({part: part for part in new}, _existing(folder, name))


def cosine(value: float) -> str:
    """Return a cosine as it is written to a CSV."""
    return f"{value:.6f}"


def percentage(value: float) -> str:
    """Return a percentage as it is written to a CSV: empty where nothing was counted."""
    return "" if math.isnan(value) else f"{value:.2f}"
