"""The committed API pages are those that the docstrings make."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import make as make_module

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"
REMAKE = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(DOCS)!r})
import make
if sys.argv[1] == "with":
    print(make.MADE_WITH)
else:
    make.make_pages(Path(sys.argv[1]))
"""


def make(argument: str) -> str:
    """Runs docs/make.py's functions in a process of their own, since pdoc imports every module anew."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "0"}  # or sets have another order
    command = [sys.executable, "-c", REMAKE, argument]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def pages(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.html")}


def test_pages_are_current(tmp_path: Path) -> None:
    made_with = (DOCS / "made-with.txt").read_text(encoding="utf-8").strip()
    if make("with") != made_with:
        pytest.skip(f"the pages were made with {made_with}, which prints signatures in its own way")
    make(str(tmp_path))
    committed, fresh = pages(DOCS), pages(tmp_path)
    stale = sorted(name for name in committed.keys() | fresh.keys() if committed.get(name) != fresh.get(name))
    assert not stale, f"make docs makes these again: {stale}"


@pytest.mark.parametrize("page", ["extract.html", "train.html", "similarity.html", "featuresExtractor/processor.html"])
def test_pages_that_readme_names_are_there(page: str) -> None:
    assert page in pages(DOCS)


def test_design_has_a_line_for_every_module() -> None:
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    assert make_module.with_modules(text) == text, "make docs writes the table again"
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    sources = [path for package in make_module.PACKAGES for path in (PROJECT / package).rglob("*.py")]
    assert len(rows) == len([path for path in sources if path.name != "__init__.py"]) + 3
    assert all(len(row.split(" | ")[1]) > 15 for row in rows)


def test_pages_tell_nothing_of_the_machine_they_were_made_on() -> None:
    told = [name for name, page in pages(DOCS).items() if str(PROJECT) in page]
    assert told == []


PROMISE = re.compile(r"`((?:\w+/)*test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)")


def test_every_promise_names_tests_that_are_there() -> None:
    table = (DOCS / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 25
    for row in rows:
        named = PROMISE.findall(row)
        assert named, row
        for file, tests in named:
            source = (PROJECT / "tests" / file).read_text(encoding="utf-8")
            for test in re.findall(r"`(\w+)`", tests):
                assert f"def {test}(" in source, (file, test)
            assert ("*slow*" in row) == ("pytest.mark.slow" in source), row
