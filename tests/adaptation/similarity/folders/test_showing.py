"""The page of a search shows the images that were embedded, and names where these are no longer there."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from adaptation import Similarity
from adaptation.similarity.folders.embedded import open_embedded
from adaptation.similarity.folders.showing import Images, about

Run = Callable[..., int]


class Names(HTMLParser):
    """The title of each name that is shown, in order, and how many images are boxes with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.missing = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note what is shown."""
        values = dict(attributes)
        if values.get("class") == "name":
            self.names.append(values.get("title") or "")
        self.missing += values.get("class") == "image missing"


def page(folder: Path) -> Names:
    parser = Names()
    parser.feed((folder / "page.html").read_text(encoding="utf-8"))
    return parser


def test_the_page_shows_what_the_csv_lists(tmp_path: Path, run: Run) -> None:
    left, right, out = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right", tmp_path / "out"
    assert run("search", "-q", left / "a3.png", "-g", right, "-k", 4, "-s", out, "--html") == 0
    shown = page(out)
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        found = [row["name"] for row in csv.DictReader(file)]
    assert len(shown.names) == 8  # of the frozen features, and of the similarity
    assert shown.names[4:] == found
    assert shown.missing == 0


def test_the_images_of_embeddings_are_shown_while_they_are_unchanged(
    tmp_path: Path, run: Run, image: Callable[..., Path]
) -> None:
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    assert run("embed", "-d", right, "-s", tmp_path / "gallery") == 0
    words = ("-q", left / "a3.png", "-g", tmp_path / "gallery", "-k", 16, "--html", "-s")
    assert run("search", *words, tmp_path / "one") == 0
    assert page(tmp_path / "one").missing == 0
    image(right / "a1.png", (40, 31), 9)
    (right / "a2.png").unlink()
    assert run("search", *words, tmp_path / "two") == 0
    assert page(tmp_path / "two").missing == 4  # two images, found by either measure
    assert run("embed", "-d", tmp_path / "pairs", "-s", tmp_path / "none", "--on-error", "skip") == 0


def test_images_are_rows_of_the_gallery(tmp_path: Path, run: Run, loaded: Similarity) -> None:
    left = tmp_path / "pairs" / "left"
    assert run("embed", "-d", left, "-s", tmp_path / "out") == 0
    images, paths = Images(open_embedded(tmp_path / "out", loaded)), sorted(left.iterdir())
    assert len(images) == 16
    assert [image.path for image in images] == paths
    assert [image.name for image in images[2:4]] == [path.name for path in paths[2:4]]


def test_the_page_says_what_the_similarity_is(loaded: Similarity) -> None:
    assert about(loaded) == ["tiny, PCA to 8, head original trained on 16 pairs"]


@pytest.mark.skipif(os.name == "nt", reason="such names are not possible there")
def test_a_name_with_markup_is_text(tmp_path: Path, run: Run) -> None:
    left, name = tmp_path / "pairs" / "left", "<script>alert(1)<\\script>.png"
    (left / "a1.png").rename(left / name)
    assert run("search", "-q", left, "-g", left, "-k", 15, "-s", tmp_path / "out", "--html") == 0
    html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert len(re.findall("<script", html)) == html.count("</script>")
    assert name in page(tmp_path / "out").names
