"""Heads and losses in files of the user's own, beside what such a file says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptation.extensions import digest, find, tried
from common.errors import InputError

TABLE: dict[str, Any] = {"first": lambda: 1, "second": lambda: 2}
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(code)` puts it into a file and returns the address of the name `made` in it."""

    def write(code: str) -> str:
        (tmp_path / "mine.py").write_text(code, encoding="utf-8")
        return f"{tmp_path / 'mine.py'}:made"

    return write


def test_name_in_the_table_is_taken_from_there() -> None:
    assert find("second", TABLE, "head") is TABLE["second"]
    assert digest("second") is None


def test_address_leads_to_what_the_file_defines(write: Write) -> None:
    address = write("def made():\n    return 'mine'\n")
    assert find(address, TABLE, "head")() == "mine"
    path = address.rpartition(":")[0]
    assert digest(address) == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_file_is_run_once_for_all_that_is_asked_of_it(write: Write, tmp_path: Path) -> None:
    log = tmp_path / "log"
    address = write(f"with open({str(log)!r}, 'a') as log:\n    log.write('x')\nmade = other = dict\n")
    assert find(address, TABLE, "head") is find(address.removesuffix("made") + "other", TABLE, "loss")
    assert log.read_text(encoding="utf-8") == "x"


def test_folder_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a:b" / "mine.py"
    path.parent.mkdir()
    path.write_text("made = dict", encoding="utf-8")
    assert find(f"{path}:made", TABLE, "head") is dict


def test_file_may_hold_dataclasses_and_is_left_without_compiled_copies(write: Write, tmp_path: Path) -> None:
    address = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass made:\n    width: int = 3\n"
    )
    assert find(address, TABLE, "head")().width == 3
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_changed_file_is_read_again(write: Write) -> None:
    first = find(write("def made():\n    return 'old'\n"), TABLE, "head")
    second = find(write("def made():\n    return 'new'\n"), TABLE, "head")  # of the same size and second
    assert (first(), second()) == ("old", "new")


def test_what_is_run_is_what_the_digest_was_made_of(write: Write) -> None:
    address = write("def made():\n    return 'old'\n")
    recorded = digest(address)
    write("def made():\n    return 'new'\n")  # while runs are trained
    assert find(address, TABLE, "head")() == "old"
    assert digest(address) != recorded  # the next call
    assert find(address, TABLE, "head")() == "new"


@pytest.mark.parametrize("name", ["frist", "mine.py", "mine.txt:made", ":made", ""])
def test_name_that_is_nothing_is_refused_with_all_that_is_allowed(name: str) -> None:
    with pytest.raises(InputError, match=r"^unknown head '.*allowed are first, second, and one of your own: FILE.py:"):
        find(name, TABLE, "head")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "there is no class or function 'made' in this file"),
        ("made = 3", "there is no class or function 'made' in this file"),
        ("def made(:", "SyntaxError: invalid syntax"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("raise OSError", "OSError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_file_that_gives_nothing_is_refused_in_a_line(write: Write, code: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        find(write(code), TABLE, "head")
    assert message in str(raised.value)
    assert "mine.py" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ask", [digest, lambda name: find(name, TABLE, "head")])
@pytest.mark.parametrize(("name", "why"), [("no.py", "No such file or directory"), ("folder.py", "Is a directory")])
def test_file_that_cannot_be_read_is_refused(ask: Callable[[str], object], name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(InputError, match=rf"{name}: cannot be read \({why}\)"):
        ask(f"{tmp_path / name}:made")


def test_errors_of_the_users_code_are_a_line_and_those_of_the_package_are_not() -> None:
    empty: dict[str, int] = {}
    with pytest.raises(InputError, match=r"^mine\.py:made: KeyError: 'x'$"):
        tried("mine.py:made", lambda: empty["x"])
    with pytest.raises(KeyError):
        tried("original", lambda: empty["x"])
    assert tried("mine.py:made", lambda: 3) == 3
