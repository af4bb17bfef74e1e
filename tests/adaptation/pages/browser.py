"""A real browser for the tests of pages: Debian's chromium without a window. It ends by itself after each page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), "")
MISSING = "no chromium on this machine: apt-get install chromium"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000", "--window-size=1280,1000"),
)
DRIVER = """<!doctype html><iframe style="width:{width}px;height:900px;border:0" {attributes}></iframe>
<pre></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => setTimeout(() => {{
  const page = frame.contentDocument;
  const view = frame.contentWindow;
  document.querySelector("pre").textContent = JSON.stringify((() => {{ {script} }})());
}}, 500);
frame.src = {address};
</script>"""


@dataclass
class Article:
    """A query of the page: its attributes, the text of its heading, and the alt texts of images that have a source."""

    attributes: dict[str, str | None]
    heading: str = ""
    images: list[str | None] = field(default_factory=list)

    @property
    def shown(self) -> bool:
        return "hidden" not in self.attributes


class Document(HTMLParser):
    """The document that the browser made of a page: its title, queries, texts and the attributes of all elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.title, self.articles = "", list[Article]()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag == "article":
            self.articles.append(Article(attributes))
        if tag == "img" and self.articles and attributes.get("src"):
            self.articles[-1].images.append(attributes["alt"])
        self._within = tag if tag in ("title", "h2") else self._within

    def handle_endtag(self, tag: str) -> None:
        self._within = "" if tag == self._within else self._within

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._within == "title":
            self.title += data
        if self._within == "h2":
            self.articles[-1].heading += data

    def named(self, name: str) -> dict[str, str | None]:
        """The attributes of the element with this id."""
        (found,) = (attributes for _, attributes in self.elements if attributes.get("id") == name)
        return found


def run(address: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Return the document that is made of an address, and what is written to the console, errors and warnings too."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    log = done.stderr.decode("utf-8", "replace")
    return done.stdout.decode("utf-8"), re.findall(r"^.*:CONSOLE.*$", log, re.MULTILINE)


def opened(page: Path, profile: Path, state: str = "", *flags: str) -> tuple[Document, list[str]]:
    """Return the document of a page, opened with `state` after the # of its address, and the console's lines."""
    html, console = run(f"{page.as_uri()}#{state}", profile, *flags)
    return Document(html), console


def driven(page: Path, profile: Path, script: str, *flags: str, width: int = 1200, attributes: str = "") -> Any:
    """Return what a script returns that acts on the page in a frame of `width` pixels, as `page` (its document) and
    `view` (its window). The page's own policy admits no script, so it stands around the page."""
    driver = profile.with_suffix(".html")
    filled = DRIVER.format(width=width, attributes=attributes, script=script, address=json.dumps(page.as_uri()))
    driver.write_text(filled, encoding="utf-8")
    html, _ = run(driver.as_uri(), profile, "--allow-file-access-from-files", *flags)
    (returned,) = re.findall(r"<pre>(.*?)</pre>", html, re.DOTALL)
    return json.loads(unescape(returned))
