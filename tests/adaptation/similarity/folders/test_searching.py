"""What a search finds is what numpy finds in the embeddings; an image does not find itself."""

from __future__ import annotations

import csv
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from adaptation import Similarity
from adaptation.similarity import index

Run = Callable[..., int]
Image = Callable[..., Path]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def one_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def order_of(queries: Any, gallery: Any) -> Any:
    """For each query the rows of the gallery, best first."""
    return np.argsort(-(queries @ gallery.T), axis=1, kind="stable")


def test_results_are_those_of_numpy(tmp_path: Path, run: Run, loaded: Similarity) -> None:
    left, right, out = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right", tmp_path / "out"
    assert run("search", "-q", left, "-g", right, "-k", 5, "-s", out) == 0
    (frozen, adapted), (others_frozen, others) = loaded.embed_both(left), loaded.embed_both(right)
    names = sorted(path.name for path in right.iterdir())
    order, by_frozen = order_of(adapted, others)[:, :5], order_of(frozen, others_frozen)
    percentages = loaded.percentiles((adapted @ others.T).astype(np.float32))
    rows = table(out / "results.csv")
    assert len(rows) == 16 * 5
    for number, row in enumerate(rows):
        query, place = divmod(number, 5)
        index = order[query, place]
        assert row["query"] == sorted(path.name for path in left.iterdir())[query]
        assert (row["rank"], row["name"]) == (str(place + 1), names[index])
        assert abs(float(row["cosine"]) - adapted[query] @ others[index]) < 2e-6
        assert abs(float(row["frozen_cosine"]) - frozen[query] @ others_frozen[index]) < 2e-6
        assert int(row["frozen_rank"]) == 1 + by_frozen[query].tolist().index(index)
        for kind in ("partners", "strangers"):
            assert abs(float(row[f"percentile_{kind}"]) - percentages[kind][query, index]) < 0.2


def test_an_image_does_not_find_itself_and_ranks_do_not_count_it(tmp_path: Path, run: Run, loaded: Similarity) -> None:
    left, out = tmp_path / "pairs" / "left", tmp_path / "out"
    assert run("search", "-q", left, "-g", left, "-k", 15, "-s", out) == 0
    frozen, adapted = loaded.embed_both(left)
    names = sorted(path.name for path in left.iterdir())
    rows = table(out / "results.csv")
    assert all(row["query"] != row["name"] for row in rows)
    assert [row["rank"] for row in rows[:15]] == [str(rank) for rank in range(1, 16)]
    for query in range(16):
        others = [index for index in range(16) if index != query]
        ranked = sorted(others, key=lambda index: (-float(frozen[query] @ frozen[index]), index))
        expected = {names[index]: 1 + ranked.index(index) for index in others}
        assert {row["name"]: int(row["frozen_rank"]) for row in rows[15 * query : 15 * query + 15]} == expected
    assert adapted.shape == (16, 1024)


def test_one_image_in_a_gallery_that_is_embedded_once(tmp_path: Path, run: Run, seen: list[int]) -> None:
    left, right, out = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right", tmp_path / "out"
    assert run("search", "-q", left / "a3.png", "-g", right, "-k", 3, "-s", out) == 0
    assert len(table(out / "results.csv")) == 3
    assert sum(seen) == 17
    seen.clear()
    assert run("search", "-q", left / "a4.png", "-g", right, "-k", 3, "-s", out, "--overwrite") == 0
    assert [row["query"] for row in table(out / "results.csv")] == ["a4.png"] * 3
    assert sum(seen) == 1


def test_a_link_to_a_query_is_itself(tmp_path: Path, run: Run) -> None:
    left, out = tmp_path / "pairs" / "left", tmp_path / "out"
    (tmp_path / "query").mkdir()
    (tmp_path / "query" / "q.png").symlink_to(left / "a3.png")
    words = ("-g", left, "-k", 2, "-s", out, "--follow-links")
    assert run("search", "-q", tmp_path / "query", *words) == 0
    assert "a3.png" not in [row["name"] for row in table(out / "results.csv")]


def test_the_gallery_may_be_what_embed_wrote(tmp_path: Path, run: Run, seen: list[int]) -> None:
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    assert run("embed", "-d", right, "-s", tmp_path / "gallery") == 0
    seen.clear()
    assert run("search", "-q", left, "-g", tmp_path / "gallery", "-k", 4, "-s", tmp_path / "one") == 0
    assert sum(seen) == 16
    assert run("search", "-q", left, "-g", right, "-k", 4, "-s", tmp_path / "two") == 0
    assert table(tmp_path / "one" / "results.csv") == table(tmp_path / "two" / "results.csv")


def test_an_image_does_not_find_itself_in_what_embed_wrote_either(tmp_path: Path, run: Run) -> None:
    left = tmp_path / "pairs" / "left"
    assert run("embed", "-d", left, "-s", tmp_path / "gallery") == 0
    for gallery in (tmp_path / "gallery", tmp_path / "gallery" / "embeddings.npy"):
        words = ("-q", left, "-g", gallery, "-k", 15, "-s", tmp_path / "one", "--overwrite")
        assert run("search", *words) == 0
        assert all(row["query"] != row["name"] for row in table(tmp_path / "one" / "results.csv"))
    assert run("search", "-q", left, "-g", left, "-k", 15, "-s", tmp_path / "two") == 0
    assert table(tmp_path / "one" / "results.csv") == table(tmp_path / "two" / "results.csv")


def test_a_folder_that_is_searched_in_itself_is_embedded_once(tmp_path: Path, run: Run, seen: list[int]) -> None:
    left, out = tmp_path / "pairs" / "left", tmp_path / "out"
    assert run("search", "-q", left, "-g", left, "-k", 3, "-s", out) == 0
    assert sum(seen) == 16
    assert not (out / "queries").exists()


def test_copies_are_found(tmp_path: Path, run: Run) -> None:
    """Another file with the name, the size, the time and the contents of a query is another image."""
    left, copies = tmp_path / "pairs" / "left", tmp_path / "copies"
    shutil.copytree(left, copies)
    assert run("search", "-q", left, "-g", copies, "-k", 1, "-s", tmp_path / "out") == 0
    rows = table(tmp_path / "out" / "results.csv")
    assert [row["name"] for row in rows] == [row["query"] for row in rows]
    assert {row["cosine"] for row in rows} == {"1.000000"}


def test_two_links_to_an_image_of_the_gallery_do_not_find_it(tmp_path: Path, run: Run) -> None:
    left = tmp_path / "pairs" / "left"
    (tmp_path / "queries").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "queries" / name).symlink_to(left / "a3.png")
    words = ("-g", left, "-k", 15, "-s", tmp_path / "out", "--follow-links")
    assert run("search", "-q", tmp_path / "queries", *words) == 0
    rows = table(tmp_path / "out" / "results.csv")
    assert [row["name"] for row in rows].count("a3.png") == 0
    assert [row["name"] for row in rows[:15]] == [row["name"] for row in rows[15:]]


def test_a_query_of_another_folder_is_embedded_though_name_size_and_time_are_the_same(
    tmp_path: Path, run: Run, loaded: Similarity
) -> None:
    for folder, value in (("one", 0), ("two", 255)):
        (tmp_path / folder).mkdir()
        Pillow.new("RGB", (40, 30), (value, 90, 90)).save(tmp_path / folder / "a.bmp")
        os.utime(tmp_path / folder / "a.bmp", ns=(10**18, 10**18))
    out, right = tmp_path / "out", tmp_path / "pairs" / "right"
    for folder in ("one", "two"):
        query = tmp_path / folder / "a.bmp"
        assert run("search", "-q", query, "-g", right, "-k", 1, "-s", out, "--overwrite") == 0
        cosines = loaded(query, right)[0]
        assert abs(float(table(out / "results.csv")[0]["cosine"]) - cosines.max()) < 2e-6


def test_galleries_with_subfolders_tell_images_of_one_name_apart(tmp_path: Path, run: Run) -> None:
    """The path of an image within the folder is its name."""
    words = ("-q", tmp_path / "pairs" / "left" / "a3.png", "-g", tmp_path / "all", "-k", 31, "-s", tmp_path / "out")
    (tmp_path / "all").mkdir()
    (tmp_path / "pairs" / "left").rename(tmp_path / "all" / "one")
    (tmp_path / "pairs" / "right").rename(tmp_path / "all" / "two")
    words = ("-q", tmp_path / "all" / "one" / "a3.png", *words[2:])
    assert run("search", *words, "--recursive", "--html") == 0
    names = {row["name"] for row in table(tmp_path / "out" / "results.csv")}
    assert names == {f"{side}/a{n}.png" for side in ("one", "two") for n in range(16)} - {"one/a3.png"}
    assert 'class="image missing"' not in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


def test_partners_are_counted_and_marked(
    tmp_path: Path, run: Run, loaded: Similarity, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right, out = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right", tmp_path / "out"
    assert run("search", "-q", left, "-g", right, "-k", 3, "-s", out, "--partners", "--html") == 0
    order = order_of(loaded.embed(left), loaded.embed(right))[:, :3]
    found = int((order == np.arange(16)[:, None]).any(axis=1).sum())
    assert f"partners among the first 3: {found} of 16" in capsys.readouterr().out
    assert "partner" in (out / "page.html").read_text(encoding="utf-8")
    renamed = tmp_path / "renamed"
    shutil.copytree(right, renamed)
    for path in list(renamed.iterdir()):
        path.rename(renamed / f"other-{path.name}")
    assert run("search", "-q", left, "-g", renamed, "-k", 3, "-s", tmp_path / "none", "--partners") == 2
    assert "--partners: no other image of the gallery has the name of a query" in one_line(capsys.readouterr().err)
    assert run("search", "-q", left, "-g", left, "-k", 3, "-s", tmp_path / "none", "--partners") == 2  # but itself
    assert "--partners: no other image of the gallery has the name of a query" in one_line(capsys.readouterr().err)


def test_an_index_of_faiss_says_its_recall(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    assert run("search", "-q", left, "-g", right, "-k", 4, "-s", tmp_path / "one", "--index", "faiss") == 0
    assert "the gallery has 16 images, fewer than 10,000: searched exactly, with no index" in capsys.readouterr().out
    assert run("search", "-q", left, "-g", right, "-k", 4, "-s", tmp_path / "two") == 0
    assert table(tmp_path / "one" / "results.csv") == table(tmp_path / "two" / "results.csv")
    monkeypatch.setattr(index, "LEAST", 16)
    words = ("-q", left, "-g", right, "-k", 4, "-s", tmp_path / "one", "--index", "faiss", "--html", "--overwrite")
    assert run("search", *words) == 0
    share = re.search(r"IVF4,SQ8: recall@4 (.*) against exact search, measured on 16 queries", capsys.readouterr().out)
    assert share is not None
    found, exact = (table(tmp_path / name / "results.csv") for name in ("one", "two"))
    same = {(row["query"], row["name"]) for row in found} & {(row["query"], row["name"]) for row in exact}
    assert float(share[1]) == round(len(same) / 64, 4)


def test_the_recall_of_an_index_does_not_count_the_query_itself(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index, "LEAST", 16)
    left = tmp_path / "pairs" / "left"
    assert run("search", "-q", left, "-g", left, "-k", 4, "-s", tmp_path / "one", "--index", "faiss") == 0
    share = re.search(r"recall@4 (.*) against exact search, measured on 16 queries", capsys.readouterr().out)
    assert run("search", "-q", left, "-g", left, "-k", 4, "-s", tmp_path / "two") == 0
    found, exact = (
        {(row["query"], row["name"]) for row in table(tmp_path / name / "results.csv")} for name in ("one", "two")
    )
    assert share is not None
    assert float(share[1]) == round(len(found & exact) / 64, 4)


def test_images_that_changed_since_they_were_embedded_are_counted(
    tmp_path: Path, run: Run, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    assert run("embed", "-d", right, "-s", tmp_path / "gallery") == 0
    words = ("-q", left / "a3.png", "-g", tmp_path / "gallery", "-k", 16, "-s", tmp_path / "out", "--overwrite")
    assert run("search", *words) == 0
    assert "have changed or are gone" not in capsys.readouterr().err
    image(right / "a4.png", (44, 33), 97)
    (right / "a5.png").unlink()
    assert run("search", *words) == 0
    assert "warning: 2 of the 16 images found have changed or are gone since they were embedded; embed them into" in (
        capsys.readouterr().err
    )


def test_a_missing_faiss_is_named(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    pairs = tmp_path / "pairs"
    words = ("-q", pairs / "left", "-g", pairs / "right", "-k", 4, "-s", tmp_path / "out", "--index", "faiss")
    assert run("search", *words) == 2
    assert "pip install -r requirements-faiss.txt" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_results_that_are_there_are_replaced_only_when_asked(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    words = ("-q", pairs / "left", "-g", pairs / "right", "-s", out)
    assert run("search", *words, "-k", 2, "--html") == 0
    before = (out / "results.csv").read_bytes()
    assert run("search", *words, "-k", 3) == 2
    assert "already holds results.csv, page.html; give another folder, or --overwrite" in one_line(
        capsys.readouterr().err
    )
    assert (out / "results.csv").read_bytes() == before
    assert run("search", *words, "-k", 3, "--overwrite") == 0
    assert len(table(out / "results.csv")) == 48
    assert not (out / "page.html").exists()  # it would show other results


WRONG: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "k above the gallery": (
        lambda p: ["-q", p / "left", "-g", p / "right", "-k", 17],
        "-k 17: the gallery has 16 images; k from 1 to 16 is possible",
    ),
    "k of all others": (
        lambda p: ["-q", p / "left", "-g", p / "left", "-k", 16],
        "-k 16: the gallery has 15 images beside the query; k from 1 to 15 is possible",
    ),
    "no gallery": (lambda p: ["-q", p / "left", "-g", p / "none"], "none: no such image or folder"),
    "no query": (lambda p: ["-q", p / "none.png", "-g", p / "right"], "none.png: no such image or folder"),
    "pairs": (lambda p: ["-q", p / "left", "-g", p], "holds pairs; give its left/ or right/"),
    "an unreadable query": (lambda p: ["-q", p.parent / "bad.png", "-g", p / "right"], "cannot be read"),
    "an empty gallery": (lambda p: ["-q", p / "left", "-g", p.parent / "empty"], "empty: no images"),
    "no similarity": (
        lambda p: ["-q", p / "left", "-g", p / "right", "-m", p],
        "no similarity.safetensors here; train.py --final writes one",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], what: str) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "empty").mkdir()
    words, message = WRONG[what]
    assert run("search", *words(tmp_path / "pairs"), "-s", tmp_path / "out") == 2
    error = one_line(capsys.readouterr().err)
    assert error.startswith("similarity.py: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_gallery_of_embedded_pairs_is_refused(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", "-d", tmp_path / "pairs", "-s", tmp_path / "gallery") == 0
    words = ("-q", tmp_path / "pairs" / "left", "-g", tmp_path / "gallery", "-s", tmp_path / "out")
    assert run("search", *words) == 2
    assert "gallery: holds pairs; embed its left/ or right/ alone" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_k_above_what_embed_wrote_is_refused_before_queries_are_embedded(
    tmp_path: Path, run: Run, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("embed", "-d", tmp_path / "pairs" / "right", "-s", tmp_path / "gallery") == 0
    seen.clear()
    words = ("-q", tmp_path / "pairs" / "left", "-g", tmp_path / "gallery", "-k", 17, "-s", tmp_path / "out")
    assert run("search", *words) == 2
    assert "-k 17: the gallery has 16 images; k from 1 to 16 is possible" in one_line(capsys.readouterr().err)
    assert seen == []
    assert not (tmp_path / "out").exists()


def test_queries_that_are_skipped_are_counted(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    (left / "a1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    words = ("-q", left, "-g", right, "-k", 2, "-s", tmp_path / "out", "--on-error", "skip")
    assert run("search", *words) == 0
    assert "warning: 1 skipped; " in capsys.readouterr().err
    assert len(table(tmp_path / "out" / "results.csv")) == 30


def test_a_gallery_of_another_similarity_is_refused(
    tmp_path: Path, run: Run, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left, right = tmp_path / "pairs" / "left", tmp_path / "pairs" / "right"
    assert run("embed", "-d", right, "-s", tmp_path / "gallery", "-m", learned / "run1") == 0
    assert run("search", "-q", left, "-g", tmp_path / "gallery", "-s", tmp_path / "out") == 2
    assert "was embedded by another similarity" in one_line(capsys.readouterr().err)
