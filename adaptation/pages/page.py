"""Write a page of results: one static HTML file that needs no network and opens from disk."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from adaptation.pages.content import Image, Page, Query
from adaptation.pages.selection import chosen, count, gain, never_found
from adaptation.pages.thumbnails import thumbnails
from common.errors import printable
from common.storage.files import written_whole

_FOLDER = Path(__file__).parent  # private, for the API pages would show it
MOST_QUERIES = 1000


def write_page(path: Path, page: Page, most: int = MOST_QUERIES) -> None:
    """Write the page to `path`, whole or not at all: names, numbers and thumbnails, styles and script in one file.

    At most `most` queries are shown; where there are more, each filter keeps those that it shows first, and the page
    says how many of how many are shown. An image that cannot be read is shown as a box with its name. Names are
    untrusted: they are escaped, and characters that would not be seen are written as `\\u202e`. OSError where the file
    cannot be written.
    """
    html = render(page, most)
    with written_whole(path) as partial:
        partial.write_text(html, encoding="utf-8", newline="\n")


def render(page: Page, most: int = MOST_QUERIES) -> str:
    """Return the page of `write_page` as HTML."""
    shown = chosen(page.queries, most)
    made = thumbnails(file for image in _images(shown) if (file := image.path) is not None)
    numbers = {file: number for number, file in enumerate(made)}
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            shown=shown,
            counts=count(page),
            directions=sorted({query.direction for query in shown if query.direction}),
            thumbnail=lambda image: numbers.get(image.path),
            thumbnails=list(made.values()),
            style=style,
            script=script,
            hashes={"style": _hash(style), "script": _hash(script)},
        )
    )


def _images(queries: Sequence[Query]) -> list[Image]:
    """Return every image that the queries show, in the order in which they show it."""
    return [
        image
        for query in queries
        for image in (query.image, query.partner, *(hit.image for hit in chain(query.frozen, query.adapted)))
        if image is not None
    ]


def _hash(text: str) -> str:
    """Return the hash by which a content security policy admits an inline style or script."""
    return "sha256-" + b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")


def _environment() -> Environment:
    """Return jinja2 as the template needs it: everything is escaped, and every text is printable."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters |= {"parts": _parts, "cosine": _cosine, "slug": _slug, "share": _share}
    environment.globals |= {"gain": gain, "never_found": never_found}
    return environment


def _finalized(value: Any) -> Any:
    """Return what the template prints: text without characters that would not be seen, or that turn its direction."""
    return printable(value) if type(value) is str else value  # what is marked as safe is of this folder


def _parts(name: str) -> list[str]:
    """Return a name in parts between which a line may be broken: after each folder and word."""
    return re.split(r"(?<=[/_])", name)


def _cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _slug(direction: str) -> str:
    return direction.replace(" ", "-")


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%"
