"""Make the API pages in this folder, and the table of modules in `design.md`, from the docstrings: `make docs`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pdoc
import pdoc.render

DOCS = Path(__file__).resolve().parent
MODULES = ("extract", "train", "similarity", "featuresExtractor", "adaptation", "common", "demo", "!demo.__main__")
PACKAGES = ("adaptation", "featuresExtractor", "common")
MARKS = ("<!-- modules -->", "<!-- end -->")
MADE_WITH = f"pdoc {version('pdoc')}, Python {sys.version_info.major}.{sys.version_info.minor}"


def make_pages(target: Path) -> None:
    """Writes the pages to `target`, and into `made-with.txt` what they were made with: another Python prints other
    signatures."""
    pdoc.render.configure(docformat="markdown", search=False, footer_text="")
    pdoc.pdoc(*MODULES, output_directory=target)
    (target / "made-with.txt").write_text(MADE_WITH + "\n", encoding="utf-8")


def modules() -> Iterator[str]:
    """Yield the table of modules: a row for each, with the first line of its docstring, and one for each folder."""
    yield "| module | what it is for |\n|---|---|"
    top = [DOCS.parent / f"{script}.py" for script in ("extract", "train", "similarity")]
    folders = [path for package in PACKAGES for path in sorted((DOCS.parent / package).rglob("*.py"))]
    for path in (*top, *sorted(folders, key=lambda path: (path.parent, path.name != "__init__.py", path.name))):
        name = path.relative_to(DOCS.parent).as_posix()
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        shown = f"**`{name.removesuffix('__init__.py')}`**" if path.name == "__init__.py" else f"`{name}`"
        yield f"| {shown} | {docstring.partition(chr(10) * 2)[0].replace(chr(10), ' ')} |"


def with_modules(text: str) -> str:
    """Return the text of `design.md` with the table between its marks made again."""
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    return "\n".join([before + MARKS[0], *modules(), MARKS[1] + after])


def remove_pages(target: Path) -> None:
    """Removes the pages that are there, so that none outlives its module."""
    for page in target.rglob("*.html"):
        page.unlink()


if __name__ == "__main__":
    remove_pages(DOCS)
    make_pages(DOCS)
    design = DOCS / "design.md"
    design.write_text(with_modules(design.read_text(encoding="utf-8")), encoding="utf-8")
