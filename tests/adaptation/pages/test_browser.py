"""The page in a real browser: nothing goes wrong in its console, filters work, and hostile names run nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from adaptation.pages.content import Image, Page, Query
from adaptation.pages.page import write_page
from common.errors import printable
from tests.adaptation.pages.browser import CHROMIUM, MISSING, Document, driven, opened

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=MISSING)
PRESSED = "[...page.querySelectorAll('[aria-pressed=true]')].map((button) => button.firstChild.textContent.trim())"
SHOWN = "[...page.querySelectorAll('article:not([hidden]) h2')].map((heading) => heading.textContent)"


@pytest.fixture(scope="module")
def page(sample: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, sample)
    return path


def change(query: Query) -> int:
    assert query.frozen_rank is not None
    assert query.adapted_rank is not None
    return query.frozen_rank - query.adapted_rank


def test_page_opens_without_a_word_in_the_console(page: Path, sample: Page, tmp_path: Path) -> None:
    document, console = opened(page, tmp_path / "profile")
    assert console == []
    assert document.title == "Twelve pairs"
    assert [article.heading for article in document.articles] == [query.image.name for query in sample.queries]
    assert all(article.shown for article in document.articles)
    assert "24 of 24 queries" in document.texts


def drawn(page: Path, folder: Path, state: str = "", *flags: str) -> tuple[Document, list[str]]:
    """A page as `opened` returns it, once images are shown: on a busy machine the browser may end before it has drawn
    once."""
    for attempt in range(5):
        document, console = opened(page, folder / f"profile{attempt}", state, *flags)
        if document.articles[0].images:
            break
    return document, console


def test_images_are_shown_when_their_query_is_near_the_window(page: Path, sample: Page, tmp_path: Path) -> None:
    document, _ = drawn(page, tmp_path)
    first, last = document.articles[0], document.articles[-1]
    query = sample.queries[0]
    assert query.partner is not None
    names = [hit.image.name for hit in (*query.frozen, *query.adapted)]
    expected = [f"query {query.image.name}", f"partner {query.partner.name}", *names]
    assert first.images == [name for name in expected if "/05_" not in name]
    assert last.images == []


FILTERS: dict[str, Callable[[list[Query]], list[Query]]] = {
    "": lambda queries: queries,
    "show=all&direction=both": lambda queries: queries,
    "show=improved": lambda queries: sorted((q for q in queries if change(q) > 0), key=lambda q: -change(q)),
    "show=worse": lambda queries: sorted((q for q in queries if change(q) < 0), key=change),
    "show=never": lambda queries: [q for q in queries if min(q.frozen_rank or 0, q.adapted_rank or 0) > 3],
    "direction=left-to-right": lambda queries: [q for q in queries if q.direction == "left to right"],
    "show=worse&direction=right-to-left": lambda queries: sorted(
        (q for q in queries if change(q) < 0 and q.direction == "right to left"), key=change
    ),
    "find=LEFT/03_a": lambda queries: [q for q in queries if q.image.name.split("/")[1].startswith("03_")],
    "show=nonsense&direction=%3Cb%3E&unknown": lambda queries: queries,
    "find=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E": lambda queries: [],
}


@pytest.mark.parametrize("state", FILTERS)
def test_address_says_which_queries_are_shown_and_in_which_order(
    page: Path, sample: Page, tmp_path: Path, state: str
) -> None:
    document, console = opened(page, tmp_path / "profile", state)
    expected = FILTERS[state](list(sample.queries))
    shown = [article for article in document.articles if article.shown]
    ways = [article.attributes["data-direction"] for article in shown]
    assert [article.heading for article in shown] == [query.image.name for query in expected]
    assert ways == [query.direction.replace(" ", "-") for query in expected]
    assert f"{len(expected)} of 24 queries" in document.texts
    assert ("hidden" in document.named("nothing")) == bool(expected)
    assert console == []


def test_every_filter_of_the_sample_shows_some_and_hides_some(sample: Page) -> None:
    numbers = [len(keep(list(sample.queries))) for keep in FILTERS.values()]
    assert all(0 < number < 24 for number in numbers[2:8])


def test_buttons_filter_count_and_keep_their_state_in_the_address(page: Path, sample: Page, tmp_path: Path) -> None:
    script = f"""
    const press = (name) => page.querySelector(name).click();
    const counts = () => Object.fromEntries([...page.querySelectorAll("#controls button")].map((button) =>
      [Object.values(button.dataset)[0], Number(button.querySelector(".count").textContent)]));
    const seen = () => ({{shown: {SHOWN}, pressed: {PRESSED}, counts: counts(), hash: view.location.hash}});
    const states = [seen()];
    press("[data-show=improved]"), states.push(seen());
    press("[data-direction=left-to-right]"), states.push(seen());
    page.getElementById("find").value = "no such name";
    page.getElementById("find").dispatchEvent(new view.Event("input")), states.push(seen());
    press("#reset"), states.push(seen());
    return states;"""
    start, improved, left, none, reset = driven(page, tmp_path / "profile", script)
    queries = list(sample.queries)
    better = FILTERS["show=improved"](queries)
    assert start["counts"] == {
        **{"all": 24, "improved": len(better)},
        **{"worse": len(FILTERS["show=worse"](queries)), "never": len(FILTERS["show=never"](queries))},
        **{"both": 24, "left-to-right": 12, "right-to-left": 12},
    }
    assert (start["pressed"], start["hash"]) == (["All", "Both"], "")
    assert improved["pressed"] == ["Most improved", "Both"]
    assert improved["shown"] == [query.image.name for query in better]
    assert improved["counts"]["both"] == len(better)
    assert improved["hash"] == "#show=improved"
    assert left["shown"] == [query.image.name for query in better if query.direction == "left to right"]
    assert left["counts"]["left-to-right"] == len(left["shown"])
    assert left["counts"]["all"] == 12
    assert left["hash"] == "#show=improved&direction=left-to-right"
    assert none["shown"] == []
    assert parse_qs(none["hash"][1:])["find"] == ["no such name"]
    assert reset["shown"] == [query.image.name for query in queries]
    assert (reset["pressed"], reset["hash"]) == (["All", "Both"], "")


def test_query_far_below_gets_its_images_when_it_is_scrolled_to_or_printed(page: Path, tmp_path: Path) -> None:
    script = """
    const last = page.querySelector("article:last-child");
    const before = last.querySelectorAll("img[src]").length;
    view.dispatchEvent(new view.Event("beforeprint"));
    return [before, last.querySelectorAll("img[src]").length, page.querySelectorAll("noscript").length];"""
    before, after, closed = driven(page, tmp_path / "profile", script)
    assert before == 0
    assert after > 4
    assert closed == 1  # what is said to those without JavaScript


RUNS = "document.title='it ran'"
HOSTILE = [
    f"<script>{RUNS}</script>.png",
    f'"><img src=x onerror="{RUNS}">.png',
    f"' onmouseover='{RUNS}' x='.png",
    f"</noscript><script>{RUNS}</script>.png",
    f"</script><script>{RUNS}</script>.png",
    f"<!--<script>{RUNS}//.png",
    f"</title><svg onload={RUNS}>.png",
    f"&lt;script&gt;{RUNS}&#60;/script&#62;.png",
    "{{7*7}}{% raw %}{{ config }}.png",
    "gepj\u202egnp.exe",
    "\u2066a\nb\x00\x1b[31m\udcff.png",
    "javascript:alert(1)",
]


def test_hostile_names_run_nothing_and_break_nothing(sample: Page, tmp_path: Path) -> None:
    def renamed(image: Image) -> Image:
        return replace(image, name=HOSTILE[int(re.findall(r"\d+", image.name)[0])])

    queries = [
        replace(
            query,
            image=renamed(query.image),
            partner=renamed(query.partner) if query.partner else None,
            frozen=[replace(hit, image=renamed(hit.image)) for hit in query.frozen],
            adapted=[replace(hit, image=renamed(hit.image)) for hit in query.adapted],
        )
        for query in sample.queries
    ]
    title = "".join(HOSTILE[:5])
    write_page(tmp_path / "page.html", replace(sample, title=title, queries=queries, notes=HOSTILE))
    document, console = drawn(tmp_path / "page.html", tmp_path, "show=all", "--window-size=1280,20000")
    assert console == []  # neither an error nor what the policy keeps from running
    assert document.title == title
    assert [article.heading for article in document.articles] == [printable(query.image.name) for query in queries]
    tags = [tag for tag, _ in document.elements]
    assert [tag for tag in tags if tag in ("script", "svg", "iframe", "link")] == ["link", "script", "script"]
    handlers = [name for _, attributes in document.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    assert not any("\u202e" in text or "\u2066" in text for text in document.texts)
    assert any("gepj\\u202egnp.exe" in text for text in document.texts)
    assert not any("49" in text for text in document.texts if "raw" in text)
    alts = {alt for article in document.articles for alt in article.images}
    assert alts <= {f"{kind}{printable(name)}" for kind in ("", "query ", "partner ") for name in HOSTILE}
    assert len(alts) > len(HOSTILE)


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_page_is_dark_where_the_system_is(page: Path, tmp_path: Path, scheme: int, dark: bool) -> None:
    script = """
    const style = view.getComputedStyle(page.body);
    return [style.backgroundColor, style.color].map((color) => color.match(/\\d+/g).map(Number));"""
    ground, text = driven(page, tmp_path / "profile", script, f"--blink-settings=preferredColorScheme={scheme}")
    assert (max(ground) < 64) == (min(text) > 192) == dark
    assert (min(ground) > 192) == (max(text) < 64) == (not dark)


@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
def test_page_does_not_scroll_sideways(page: Path, tmp_path: Path, width: int) -> None:
    script = """
    const wide = [...page.querySelectorAll("body, header *, search, button, input, article, .rows, .row")];
    return [page.documentElement.scrollWidth, Math.max(...wide.map((part) => part.getBoundingClientRect().right))];"""
    whole, part = driven(page, tmp_path / "profile", script, width=width)
    assert max(whole, part) <= width


def test_names_and_numbers_can_be_read_without_javascript(page: Path, sample: Page, tmp_path: Path) -> None:
    script = """
    const images = [...page.images].filter((image) => image.getBoundingClientRect().width > 0).length;
    const text = page.querySelector("main").textContent;
    return [page.body.innerText, text, page.querySelectorAll("article li").length, images];"""
    seen, text, hits, images = driven(page, tmp_path / "profile", script, attributes='sandbox="allow-same-origin"')
    assert hits == 24 * 2 * 3
    assert images == 0
    assert "need JavaScript" in seen
    assert "Most improved" not in seen
    assert all(hit.image.name in text for query in sample.queries for hit in query.frozen)
    first = sample.queries[0].frozen[0]
    assert all(part in seen for part in (first.image.name, f"{first.score:.3f}", f"{first.rank} → {first.other_rank}"))


def test_everything_that_can_be_pressed_has_a_name_and_every_image_says_what_it_is(page: Path, tmp_path: Path) -> None:
    script = """
    const buttons = [...page.querySelectorAll("button")].filter((button) => button.checkVisibility());
    const headings = [...page.querySelectorAll("h1, h2, h3")].map((heading) => Number(heading.tagName[1]));
    const field = page.getElementById("find");
    field.focus();
    return {
      unnamed: buttons.filter((button) => !button.innerText.trim() || button.type !== "button").length,
      pressed: buttons.every((button) => ["true", "false"].includes(button.getAttribute("aria-pressed"))),
      label: field.labels[0].innerText.trim(),
      alts: [...page.images].every((image) => image.alt !== ""),
      landmarks: [page.querySelectorAll("main").length, page.querySelectorAll("search").length],
      jumps: headings.some((level, place) => place > 0 && level > headings[place - 1] + 1),
      h1: headings.filter((level) => level === 1).length,
      lang: page.documentElement.lang,
      ids: new Set([...page.querySelectorAll("[id]")].map((part) => part.id)).size
        === page.querySelectorAll("[id]").length,
      labelled: [...page.querySelectorAll("article")].every((article) =>
        page.getElementById(article.getAttribute("aria-labelledby")) === article.querySelector("h2")),
      outline: parseFloat(view.getComputedStyle(field).outlineWidth),
    };"""
    assert driven(page, tmp_path / "profile", script) == {
        **{"unnamed": 0, "pressed": True, "label": "Find a name", "alts": True, "landmarks": [1, 1]},
        **{"jumps": False, "h1": 1, "lang": "en", "ids": True, "labelled": True, "outline": 3},
    }


def test_ordinary_search_has_a_search_by_name_and_no_filters(sample: Page, tmp_path: Path) -> None:
    queries = [
        replace(query, direction="", partner=None, frozen_rank=None, adapted_rank=None) for query in sample.queries[:4]
    ]
    write_page(tmp_path / "page.html", replace(sample, queries=queries))
    name = queries[2].image.name
    document, console = opened(tmp_path / "page.html", tmp_path / "profile", f"show=worse&find={name}")
    assert console == []
    assert [tag for tag, attributes in document.elements if tag == "button" and "data-show" in attributes] == []
    assert [article.heading for article in document.articles if article.shown] == [name]


def test_page_without_queries_opens(sample: Page, tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", replace(sample, queries=[]))
    document, console = opened(tmp_path / "page.html", tmp_path / "profile")
    assert console == []
    assert document.articles == []
    assert "hidden" not in document.named("nothing")


def test_harness_would_see_an_error_and_a_script_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<title>a</title><script>{RUNS}; nothing.here</script><h2></h2>", encoding="utf-8")
    document, console = opened(path, tmp_path / "profile")
    assert isinstance(document, Document)
    assert document.title == "it ran"
    assert len(console) == 1
    assert "ReferenceError" in console[0]
