"""The records of a comparison as text, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from adaptation.data.sources import ALL_IMAGES, GIVEN, NONE, TRAINING_PAIRS, UNKNOWN
from adaptation.reporting.comparison import Record
from common.console import table

HEADER = (
    "model",
    "numbers",
    "PCA",
    "k",
    "frozen",
    "adapted",
    "sd",
    "95 % interval",
    "factor",
    "- best",
    "its interval",
)
NOTE = (
    "95 % intervals: Student's t over the runs, whose test sets overlap (of few runs they can leave 0..1); "
    "- best: less the first model, paired by split"
)
FITTED = {
    ALL_IMAGES: "PCA fitted on all images, test images included",
    GIVEN: "PCA given to extract.py, fitted elsewhere",
    TRAINING_PAIRS: "PCA fitted on the training pairs of each run",
    NONE: "no PCA",
    UNKNOWN: "not recorded whether there was a PCA",
}
"""The protocols of the PCA, in words."""
LATEX_HEADER = (
    *("Model", "Numbers", "PCA", "$k$", "Frozen", "Adapted", "sd", r"95\,\% interval", "Factor"),
    *("$-$ best", "its interval"),
)


@dataclass(frozen=True)
class Conditions:
    """What all models of a comparison share."""

    pairs: int
    tested: int
    runs: int
    head: str
    epochs: int
    temperature: float

    def __str__(self) -> str:
        runs = "1 run" if self.runs == 1 else f"mean of {self.runs:,} runs"
        epochs = f"{self.epochs:,} epoch{'s' * (self.epochs > 1)}"
        return (
            f"{self.pairs:,} pairs, {self.tested:,} of them to test on, {runs}; "
            f"head {self.head}, {epochs}, t = {self.temperature:g}"
        )


def as_text(records: Sequence[Record], conditions: Conditions) -> str:
    """The table for a terminal, with a line above that says what was run and one below that says what is shown."""
    rows = [_cells(record, first) for record, first in _with_first(records)]
    return f"{conditions}\n{table(HEADER, rows)}\n{NOTE}\n"


def _with_first(records: Sequence[Record]) -> list[tuple[Record, bool]]:
    """Each record, and whether it is the first of its model."""
    return [(record, record.k == records[0].k) for record in records]


def _cells(record: Record, first: bool, dots: str = " .. ") -> list[str]:
    """A record as it is shown; the model's name, width and protocol on its first line only."""
    model = [record.model, f"{record.width:,}", record.pca] if first else ["", "", ""]
    return [
        *model,
        str(record.k),
        _number(record.frozen),
        _number(record.adapted),
        _number(record.sd),
        _interval(record.low, record.high, dots),
        _number(record.factor, ".2f"),
        _number(record.difference, "+z.3f"),
        _interval(record.difference_low, record.difference_high, dots, "+z.3f"),
    ]


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _interval(low: float | None, high: float | None, dots: str, form: str = ".3f") -> str:
    return "-" if low is None or high is None else f"{low:{form}}{dots}{high:{form}}"


def as_csv(records: Sequence[Record]) -> str:
    """A line for each model and k under the names of a record's fields, in full precision; what is None is empty."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, [field.name for field in fields(Record)])
    writer.writeheader()
    writer.writerows(asdict(record) for record in records)
    return file.getvalue()


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}
"""What stands for the characters that LaTeX reads as commands (`[` and `*` where a row begins), or sets as others."""


def escaped(text: str) -> str:
    """`text` as LaTeX sets it letter by letter."""
    return re.sub("-(?=-)", "-{}", "".join(LATEX.get(char, char) for char in text))


def as_latex(records: Sequence[Record], conditions: Conditions) -> str:
    """A whole `table*` with caption and label; it needs the package booktabs."""
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table*}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{_caption(records, conditions)}}}",
        r"  \label{tab:comparison}",
        r"  \begin{tabular}{lrlrrrrrrrr}",
        r"    \toprule",
        rf"    {' & '.join(LATEX_HEADER)} \\",
        r"    \midrule",
        *(rf"    {' & '.join(_latex_cells(record, first))} \\" for record, first in _with_first(records)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cells(record: Record, first: bool) -> list[str]:
    """The cells of a row; a difference is set as mathematics, for the sake of its minus."""
    *cells, difference, bounds = _cells(record, first, dots=" to ")
    signed = [re.sub(r"[+-][\d.]+", r"$\g<0>$", cell) for cell in (difference, bounds)]
    return [*map(escaped, cells), *signed]


def _caption(records: Sequence[Record], conditions: Conditions) -> str:
    """What was run, what the intervals are, and what each PCA was fitted on."""
    used = sorted({record.pca for record in records})
    fitted = "; ".join(f"{protocol}: {FITTED[protocol]}" if len(used) > 1 else FITTED[protocol] for protocol in used)
    return (
        f"Asymmetric recall aR@$k$ of frozen and adapted features: {escaped(str(conditions))}. "
        "Intervals: 95\\,\\%, Student's $t$ over the runs, whose test sets overlap; "
        "$-$ best: paired difference from the first row, split by split. "
        f"Features: {fitted}."
    )
