"""The three renderings of the same records, read back by other means."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import asdict, replace

import pytest

from adaptation.reporting.comparison import Record
from adaptation.reporting.tables import Conditions, as_csv, as_latex, as_text, escaped

BEST = Record(
    rank=1,
    model="clip_rn50x4",
    folder="clip_rn50x4",
    width=1792,
    pca="all images",
    k=1,
    runs=5,
    frozen=0.3181,
    frozen_sd=0.0201,
    frozen_low=0.29,
    frozen_high=0.34,
    adapted=0.6492,
    sd=0.0184,
    low=0.6263,
    high=0.6721,
    factor=2.0408,
    difference=None,
    difference_low=None,
    difference_high=None,
)
SECOND = replace(
    BEST,
    rank=2,
    model="timm/vit_b",
    folder="timm-vit_b",
    width=256,
    pca="none",
    factor=None,
    difference=-0.1234,
    difference_low=-0.2004,
    difference_high=0.0456,
)
RECORDS = [BEST, replace(BEST, k=3, adapted=0.7834), SECOND, replace(SECOND, k=3, difference=0.00004)]
CONDITIONS = Conditions(pairs=1377, tested=344, runs=5, head="original", epochs=150, temperature=15.0)
HOSTILE = r"a_b%c&d#e$f{g}h~i^j\k"
ESCAPED = (
    r"a\_b\%c\&d\#e\$f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k"  # each as a book of LaTeX has it
)


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_text_is_a_line_a_model_and_k_below_what_was_run() -> None:
    first, header, rule, *rows, note = as_text(RECORDS, CONDITIONS).splitlines()
    assert first == "1,377 pairs, 344 of them to test on, mean of 5 runs; head original, 150 epochs, t = 15"
    assert cells(header)[:8] == ["model", "numbers", "PCA", "k", "frozen", "adapted", "sd", "95 % interval"]
    assert cells(header)[8:] == ["factor", "- best", "its interval"]
    assert set(rule) == {"-", " "}
    numbers = ["0.318", "0.649", "0.018", "0.626 .. 0.672", "2.04", "-", "-"]
    assert cells(rows[0]) == ["clip_rn50x4", "1,792", "all images", "1", *numbers]
    assert cells(rows[1]) == ["3", "0.318", "0.783", *numbers[2:]]
    assert cells(rows[2])[:4] == ["timm/vit_b", "256", "none", "1"]
    assert cells(rows[2])[-3:] == ["-", "-0.123", "-0.200 .. +0.046"]
    assert cells(rows[3])[-2] == "+0.000"
    assert "overlap" in note
    assert "Student's t" in note


def test_the_columns_stand_under_their_heads_within_120_characters() -> None:
    ordinary = [replace(record, model="efficientnet_lite0") for record in RECORDS]
    _, header, rule, *rows, _ = as_text(ordinary, CONDITIONS).splitlines()
    ends = [match.end() for match in re.finditer(r"-+", rule)]
    for row in (header, *rows):
        assert len(row) <= ends[-1] <= 120
        assert all(row.ljust(ends[-1])[end : end + 2].strip() == "" for end in ends)
    for place in (1, *range(3, 11)):  # numbers end where their column ends
        assert all(row[ends[place] - 1] != " " for row in (header, rows[0]))


def test_one_run_is_told_as_one() -> None:
    alone = replace(CONDITIONS, runs=1, epochs=1, temperature=0.5)
    assert str(alone) == "1,377 pairs, 344 of them to test on, 1 run; head original, 1 epoch, t = 0.5"
    single = [replace(record, sd=None, low=None, high=None) for record in RECORDS]
    assert cells(as_text(single, alone).splitlines()[3])[6:8] == ["-", "-"]


def test_the_csv_is_the_records_in_full_precision() -> None:
    third = [replace(record, frozen=1 / 3, model='a,"b"') for record in RECORDS]
    rows = list(csv.DictReader(io.StringIO(as_csv(third), newline="")))
    assert len(rows) == 4
    for row, record in zip(rows, third, strict=True):
        expected = {name: "" if value is None else value for name, value in asdict(record).items()}
        assert {name: type(expected[name])(value) for name, value in row.items()} == expected


@pytest.mark.parametrize("char", list(r"_%&#${}~^\<>|[*"))
def test_what_latex_reads_as_commands_is_escaped(char: str) -> None:
    assert escaped(f"a{char}b") != f"a{char}b"
    assert escaped(HOSTILE) == ESCAPED
    assert escaped("a--b---c-d") == "a-{}-b-{}-{}-c-d"


def test_the_latex_is_a_whole_table() -> None:
    text = as_latex([replace(record, model=HOSTILE) for record in RECORDS], CONDITIONS)
    lines = text.splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert (lines[1], lines[-1]) == (r"\begin{table*}", r"\end{table*}")
    for word in (r"\caption{", r"\label{tab:comparison}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"):
        assert text.count(word) == 1
    (columns,) = re.findall(r"\\begin{tabular}{(\w+)}", text)
    table = lines[lines.index(r"    \toprule") + 1 : lines.index(r"    \bottomrule")]
    rows = [line for line in table if line != r"    \midrule"]
    assert len(rows) == 1 + len(RECORDS)
    for row in rows:
        assert row.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 == 10
    assert rows[1].split(" & ")[0].strip() == ESCAPED
    assert rows[2].split(" & ")[0].strip() == ""
    assert "$-0.123$ & $-0.200$ to $+0.046$" in rows[3]


def test_braces_and_dollars_of_the_latex_are_paired() -> None:
    text = as_latex([replace(record, model="}{$[*" + HOSTILE) for record in RECORDS], CONDITIONS)
    bare = re.sub(r"\\\\|\\[%&_#${}]", "", text)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not re.search(r"(?m)^\s*[\[*]", bare)  # behind a line's end these would be its arguments


def test_the_caption_tells_what_was_run() -> None:
    (caption,) = re.findall(r"(?m)^  \\caption{(.*)}$", as_latex(RECORDS, CONDITIONS))
    for words in ("5 runs", "344 of them to test on", "head original", "150 epochs", "t = 15", r"95\,\%", "overlap"):
        assert words in caption
    assert "all images: PCA fitted on all images, test images included; none: no PCA." in caption
    alike = [replace(record, pca="training pairs") for record in RECORDS]
    (caption,) = re.findall(r"(?m)^  \\caption{(.*)}$", as_latex(alike, CONDITIONS))
    assert caption.endswith("Features: PCA fitted on the training pairs of each run.")
