"""The page as a file: whole or not at all, nothing from elsewhere, each thumbnail once, legible in light and dark."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest

from adaptation.pages import page as page_module
from adaptation.pages.content import Hit, Image, Page, Query
from adaptation.pages.page import render, write_page
from adaptation.pages.thumbnails import thumbnail

STYLE = (Path(page_module.__file__).parent / "page.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(sample: Page) -> str:
    return render(sample)


def inside(html: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)


def test_policy_admits_the_styles_and_the_script_of_the_page_and_nothing_else(html: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    directives = dict(directive.split(" ", 1) for directive in policy.split("; "))
    (style,), (_, script) = inside(html, "style"), inside(html, "script")
    for text, directive in ((style, "style-src"), (script, "script-src")):
        kind, digest = directives[directive].strip("'").split("-", 1)
        assert kind == "sha256"
        assert hashlib.sha256(text.encode()).digest() == b64decode(digest)
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert directives["img-src"] == "data:"
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_page_asks_for_nothing_from_elsewhere(html: str) -> None:
    html = re.sub(r'"data:image/jpeg;base64,[\w+/=]*"', "", html)
    assert not re.search(r"https?:|ftp:|file:|[\"'(]//", html)
    assert re.findall(r"\b(?:src|href|action|style|on\w+)\s*=\s*[\"'](?!data:,)", html) == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|eval\(", html)


def test_each_thumbnail_is_there_once_and_images_point_to_their_own(html: str, sample: Page) -> None:
    thumbnails = json.loads(inside(html, "script")[0])
    assert len(thumbnails) == len(set(thumbnails)) == 22  # twelve pairs, of which one is missing
    assert html.count("data:image/jpeg") == 22
    paths = {query.image.name: query.image.path for query in sample.queries}
    shown = re.findall(r'data-thumbnail="(\d+)" alt="(?:query |partner )?([^"]*)"', html)
    assert {name for _, name in shown} == {name for name in paths if "/05_" not in name}
    assert all(thumbnails[int(number)] == thumbnail(path) for number, name in shown if (path := paths[name]))


def test_image_that_cannot_be_read_is_a_box_with_its_name(html: str) -> None:
    boxes = re.findall(r'<div class="image missing" aria-hidden="true"><bdi>(.*?)</bdi></div>', html)
    assert {box.replace("<wbr>", "") for box in boxes} == {"left/05_a.jpg", "right/05_b.jpg"}


def query_of(partner: bool = True) -> Query:
    hits = [Hit(Image("near.jpg"), 1, 0.98765, 1204, partner), Hit(Image("far.jpg"), 2, -0.25, 2)]
    other = [Hit(Image("other.jpg"), 1, 0.5, 3)]
    return Query(Image("asked.jpg"), hits, other, "", Image("near.jpg"), 1, 1204)


def test_numbers_read_as_they_are_meant() -> None:
    html = re.sub(r"\s+", " ", render(Page("A", [query_of()], 2, 5000, ["One.", "Two."])))
    assert "<p>One.</p> <p>Two.</p>" in html
    assert "5,000 images were searched" in html
    near, far, other = re.findall(r"<li.*?</li>", html)
    assert '<li class="partner">' in near
    assert "✓ partner" in near
    assert "partner" not in far + other
    assert '<span class="score">0.988</span>' in near
    assert '<span class="score">\N{MINUS SIGN}0.250</span>' in far
    assert '1 → 1,204 <span class="down" role="img" aria-label="down 1203">▼1,203</span>' in near
    assert '2 → 2 <span class="same" role="img" aria-label="unchanged">=</span>' in far
    assert '3 → 1 <span class="up" role="img" aria-label="up 2">▲2</span>' in other


def test_figures_are_over_all_queries_and_the_page_says_how_many_are_shown(sample: Page) -> None:
    html = re.sub(r"\s+", " ", render(sample, most=7))
    assert html.count("<article") == 7
    assert "<strong>7 of 24 queries are shown</strong>" in html
    queries = sample.queries
    shares = [
        100 * sum((getattr(query, measure) or 99) <= k for query in queries) / 24
        for k in (1, 3)
        for measure in ("frozen_rank", "adapted_rank")
    ]
    found = re.findall(r'<dd>([\d.]+)% <span class="arrow">→</span> <b>([\d.]+)%</b></dd>', html)
    assert [float(number) for pair in found for number in pair] == pytest.approx(shares, abs=0.05)
    better = sum((query.frozen_rank or 0) > (query.adapted_rank or 0) for query in queries)
    assert f"<dt>Partner moved up</dt><dd>{better} <small>of 24</small>" in html


def test_page_that_shows_all_says_nothing_of_it(html: str) -> None:
    assert "queries are shown" not in html


def test_same_page_is_made_again_to_the_byte(html: str, sample: Page) -> None:
    assert render(sample) == html


def test_page_is_written_whole_or_not_at_all(
    sample: Page, html: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new folder" / "page.html"
    write_page(path, sample)
    assert path.read_text(encoding="utf-8") == html

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        write_page(path, replace(sample, title="New"))
    assert path.read_bytes().decode("utf-8") == html
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]


# --- colours ---


def colours() -> dict[str, dict[str, str]]:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in re.findall(r":root \{(.*?)\}", STYLE, re.S)
    )
    return {"light": light, "dark": dark}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        *((text, ground) for text in ("text", "quiet", "accent", "up", "down") for ground in ("ground", "card")),
        ("quiet", "frame"),
        ("on-accent", "accent"),
    ],
)
def test_text_stands_out_from_its_ground(scheme: str, text: str, ground: str) -> None:
    palette = colours()[scheme]
    bright, dim = sorted((luminance(palette[text]), luminance(palette[ground])), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5  # WCAG 2, level AA
