"""Makes the API pages in this folder from the docstrings: `make docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pdoc
import pdoc.render

DOCS = Path(__file__).resolve().parent
MODULES = ("extract", "train", "featuresExtractor", "adaptation", "common", "demo", "!demo.__main__")
MADE_WITH = f"pdoc {version('pdoc')}, Python {sys.version_info.major}.{sys.version_info.minor}"


def make_pages(target: Path) -> None:
    """Writes the pages to `target`, and into `made-with.txt` what they were made with: another Python prints other
    signatures."""
    pdoc.render.configure(docformat="markdown", search=False, footer_text="")
    pdoc.pdoc(*MODULES, output_directory=target)
    (target / "made-with.txt").write_text(MADE_WITH + "\n", encoding="utf-8")


def remove_pages(target: Path) -> None:
    """Removes the pages that are there, so that none outlives its module."""
    for page in target.rglob("*.html"):
        page.unlink()


if __name__ == "__main__":
    remove_pages(DOCS)
    make_pages(DOCS)
