"""The scores of pairs, from a folder or from a CSV, are those of numpy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from adaptation import Similarity
from adaptation.similarity.folders.images import images_of
from adaptation.similarity.folders.scoring import LEARNED, read_pairs_file
from adaptation.similarity.learned.from_run import pairs_digest
from common.errors import InputError

Run = Callable[..., int]
Image = Callable[..., Path]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def one_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_scores_of_a_folder_are_those_of_numpy(
    tmp_path: Path, run: Run, loaded: Similarity, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    assert run("score", "-d", pairs, "-s", out) == 0
    told = capsys.readouterr()
    assert "16 pairs: " in told.out
    assert "8 cosines of partners, 24 of strangers" in told.out
    assert LEARNED in told.err
    (frozen, adapted), (others_frozen, others) = (loaded.embed_both(pairs / side) for side in ("left", "right"))
    names = sorted(path.name for path in (pairs / "left").iterdir())
    cosines = (adapted * others).sum(axis=1)
    percentages = loaded.percentiles(cosines)
    for number, row in enumerate(table(out / "scores.csv")):
        assert (row["left"], row["right"]) == (names[number], names[number])
        assert abs(float(row["cosine"]) - cosines[number]) < 2e-6
        assert abs(float(row["frozen_cosine"]) - frozen[number] @ others_frozen[number]) < 2e-6
        assert abs(float(row["percentile_strangers"]) - percentages["strangers"][number]) < 0.2
        assert abs(float(row["percentile_partners"]) - percentages["partners"][number]) < 0.2


def test_new_pairs_are_not_said_to_be_learned_from(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ("left", "right"):
        (tmp_path / "pairs" / side / "a1.png").unlink()
    assert run("score", "-d", tmp_path / "pairs", "-s", tmp_path / "out", "--html") == 0
    assert LEARNED not in capsys.readouterr().err
    assert LEARNED not in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "left,right\nleft/a1.png,right/a2.png\nleft/a1.png,right/a3.png\n",
        "\ufeffLeft;note;Right\nleft/a1.png;x;right/a2.png\n\nleft/a1.png;;right/a3.png\n",
        'right\tleft\r\n"right/a2.png"\tleft/a1.png\r\n right/a3.png\tleft/a1.png \r\n',
    ],
)
def test_pairs_of_a_csv_each_image_embedded_once(
    tmp_path: Path, run: Run, loaded: Similarity, seen: list[int], text: str
) -> None:
    listed, out = tmp_path / "pairs" / "pairs.csv", tmp_path / "out"
    listed.write_text(text, encoding="utf-8", newline="")
    assert run("score", "--pairs", listed, "-s", out) == 0
    assert sum(seen) == 3
    rows = table(out / "scores.csv")
    assert [(row["left"], row["right"]) for row in rows] == [
        ("left/a1.png", "right/a2.png"),
        ("left/a1.png", "right/a3.png"),
    ]
    expected = loaded(
        tmp_path / "pairs" / "left" / "a1.png", [tmp_path / "pairs" / "right" / f"a{n}.png" for n in (2, 3)]
    )
    assert np.allclose([float(row["cosine"]) for row in rows], expected[0], atol=2e-6)


def test_absolute_paths_and_paths_that_lead_up(tmp_path: Path, run: Run) -> None:
    listed = tmp_path / "lists" / "pairs.csv"
    listed.parent.mkdir()
    absolute = tmp_path / "pairs" / "left" / "a1.png"
    listed.write_text(f"left,right\n{absolute},../pairs/right/a1.png\n")
    assert run("score", "--pairs", listed, "-s", tmp_path / "out") == 0
    assert [row["left"] for row in table(tmp_path / "out" / "scores.csv")] == [str(absolute)]


def test_pairs_whose_images_are_skipped_are_left_out_with_a_count(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    listed = tmp_path / "pairs" / "pairs.csv"
    listed.write_text("left,right\nleft/a1.png,bad.png\nleft/a1.png,right/a1.png\n")
    assert run("score", "--pairs", listed, "-s", tmp_path / "out") == 2
    capsys.readouterr()
    assert run("score", "--pairs", listed, "-s", tmp_path / "out", "--on-error", "skip") == 0
    assert "1 of 2 pairs left out: an image was skipped" in capsys.readouterr().err
    assert [row["right"] for row in table(tmp_path / "out" / "scores.csv")] == ["right/a1.png"]


WRONG = {
    "": "a header with the columns left and right is expected",
    "left\na.png\n": "a header with the columns left and right is expected",
    "left,right,left\na,b,c\n": "a header with the columns left and right is expected, once each",
    "left,right\n": "lists no pairs below its header",
    "left,right\na1.png\n": "row 1 below the header has fewer cells than the header",
    "left,right\nnone.png,left/a1.png\n": "1 of its images do not exist: none.png",
    "left,right\n,left/a1.png\n": "1 of its images do not exist: (empty)",
    "left,right\n.,left/a1.png\n": "1 of its images do not exist: .",
    "left,right\na\0b,left/a1.png\n": "1 of its images do not exist: a\\x00b",
    f"left,right\n{'n' * 5000},left/a1.png\n": "1 of its images do not exist: nnnn",
    f'left,right\n"{"n" * 200_000},left/a1.png\n': "not a CSV file (field larger than field limit (131072))",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text[:40]))
def test_what_is_no_list_of_pairs_is_refused(tmp_path: Path, image: Callable[..., Path], text: str) -> None:
    image(tmp_path / "left" / "a1.png")
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_pairs_file(tmp_path / "pairs.csv")
    assert WRONG[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_list_in_another_encoding_or_missing_is_told(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes("left,right\né.png,a\n".encode("cp1252"))
    with pytest.raises(InputError, match="not UTF-8 text; save it as CSV"):
        read_pairs_file(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="no CSV file can be read here"):
        read_pairs_file(tmp_path / "none.csv")


def test_a_flat_folder_is_no_folder_of_pairs(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score", "-d", tmp_path / "pairs" / "left", "-s", tmp_path / "out") == 2
    assert "holds no left/ and right/; --pairs takes a CSV" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_a_list_may_grow_by_images_from_elsewhere(tmp_path: Path, run: Run, image: Image, seen: list[int]) -> None:
    listed, out = tmp_path / "lists" / "pairs.csv", tmp_path / "out"
    listed.parent.mkdir()
    listed.write_text("left,right\n../pairs/left/a1.png,../pairs/right/a2.png\n")
    assert run("score", "--pairs", listed, "-s", out) == 0
    seen.clear()
    image(tmp_path / "an other place" / "b, c.png", (40, 30), 3)
    with listed.open("a") as file:
        file.write('../pairs/left/a1.png,"../an other place/b, c.png"\n')
    assert run("score", "--pairs", listed, "-s", out, "--overwrite", "--html") == 0
    assert sum(seen) == 1
    assert [row["right"] for row in table(out / "scores.csv")] == [
        "../pairs/right/a2.png",
        "../an other place/b, c.png",
    ]
    assert "b, c.png" in (out / "page.html").read_text(encoding="utf-8")


def test_pairs_of_the_names_that_it_has_learned_from_are_reported(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in (tmp_path / "pairs" / "left").iterdir())
    listed = tmp_path / "pairs.csv"
    for chosen, reported in ((names, True), (names[1:], False)):
        listed.write_text("left,right\n" + "".join(f"pairs/left/{name},pairs/right/{name}\n" for name in chosen))
        assert run("score", "--pairs", listed, "-s", tmp_path / "out", "--overwrite") == 0
        assert (LEARNED in capsys.readouterr().err) == reported


def test_the_page_has_each_image_once_in_a_gallery(tmp_path: Path, run: Run) -> None:
    """Pairs (a, b), (b, a), (c, b), (c, d), (d, d)."""
    pairs = [(1, 2), (2, 1), (3, 2), (3, 4), (4, 4)]
    listed = tmp_path / "pairs" / "left" / "pairs.csv"
    listed.write_text("left,right\n" + "".join(f"a{one}.png,a{other}.png\n" for one, other in pairs))
    assert run("score", "--pairs", listed, "-s", tmp_path / "out", "--html") == 0
    html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert html.count("<article") == 10
    assert "4 images were searched for each query" in html


def test_pairs_are_recognised_in_any_order() -> None:
    names = [("b.png", "b.jpg"), ("a.png", "a.jpg"), ("a-b.png", "a-b.png")]
    assert pairs_digest(names) == pairs_digest(names[::-1]) != pairs_digest(names[1:])


def test_images_on_several_drives_are_refused() -> None:
    paths = [PureWindowsPath("C:/a.png"), PureWindowsPath("D:/a.png")]
    with pytest.raises(InputError, match="are on several drives"):
        images_of(paths, PureWindowsPath("C:/lists"))  # type: ignore[arg-type]


def test_pairs_that_are_all_skipped_are_told(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    listed = tmp_path / "pairs" / "pairs.csv"
    listed.write_text("left,right\nleft/a1.png,bad.png\n")
    assert run("score", "--pairs", listed, "-s", tmp_path / "out", "--on-error", "skip") == 2
    assert "pairs.csv: each of its pairs has an image that was skipped" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_pairs_of_a_folder_that_are_skipped_are_counted(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs" / "left" / "a1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    words = ("score", "-d", tmp_path / "pairs", "-s", tmp_path / "out")
    assert run(*words) == 2
    assert not (tmp_path / "out").exists()
    capsys.readouterr()
    assert run(*words, "--on-error", "skip") == 0
    assert "warning: 1 skipped; " in capsys.readouterr().err
    assert len(table(tmp_path / "out" / "scores.csv")) == 15


def test_the_page_shows_each_pair_in_both_directions(tmp_path: Path, run: Run) -> None:
    assert run("score", "-d", tmp_path / "pairs", "-s", tmp_path / "out", "--html") == 0
    html = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert html.count("<article") == 32
    assert html.count('class="image missing"') == 0


def test_scores_are_the_same_for_a_folder_and_for_a_list_of_it(tmp_path: Path, run: Run) -> None:
    names = [f"a{number}.png" for number in range(16)]
    listed = tmp_path / "pairs" / "pairs.csv"
    listed.write_text("".join(["left,right\n", *(f"left/{name},right/{name}\n" for name in names)]))
    assert run("score", "--pairs", listed, "-s", tmp_path / "one") == 0
    assert run("score", "-d", tmp_path / "pairs", "-s", tmp_path / "two") == 0
    one, two = table(tmp_path / "one" / "scores.csv"), table(tmp_path / "two" / "scores.csv")
    by_name = {row["left"]: row for row in two}
    for row in one:
        assert abs(float(row["cosine"]) - float(by_name[Path(row["left"]).name]["cosine"])) < 2e-6
