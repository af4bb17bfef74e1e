"""The files of a comparison, beside the run folders of its models: table, numbers and bar plot.

comparison.txt .csv .tex   the same records, to read, to compute with, to publish
comparison.json            the records, and what they were made from
comparison.png .svg        bars of frozen and adapted aR@k
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptation.reporting import plots, tables
from adaptation.reporting.comparison import Record
from adaptation.reporting.run_folder import own_parts
from adaptation.reporting.tables import Conditions
from common.errors import InputError
from common.storage.files import written_whole

KINDS = ("txt", "csv", "tex", "json", "png", "svg")


def check_report(folder: Path, overwrite: bool) -> None:
    """InputError where a comparison may not be written: over another one without `overwrite`, or among single runs."""
    if single := own_parts(folder):
        raise InputError(
            f"{folder}: holds a run of one model ({single[0].name}); give another folder for the comparison"
        )
    existing = report_files(folder)
    if existing and not overwrite:
        raise InputError(
            f"{folder}: already holds a comparison ({existing[0].name}); give another folder, or --overwrite to "
            "replace it"
        )
    if strange := [path for path in existing if not path.is_file()]:
        raise InputError(f"{strange[0]}: has the name of a file of a comparison and is none; rename it")


def report_files(folder: Path) -> list[Path]:
    """The files of a comparison that are in `folder`."""
    return [path for kind in KINDS if (path := _file(folder, kind)).exists()]


def read_report(folder: Path) -> str:
    """The table for a terminal; InputError where it is gone."""
    path = _file(folder, "txt")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: gone or damaged; --overwrite makes it again") from error


def _file(folder: Path, kind: str) -> Path:
    return folder / f"comparison.{kind}"


def write_report(folder: Path, records: Sequence[Record], conditions: Conditions, shared: Mapping[str, Any]) -> None:
    """Writes the files, all of them made before the first is written."""
    numbers = {**shared, "records": [asdict(record) for record in records]}
    texts = {
        "txt": tables.as_text(records, conditions),
        "csv": tables.as_csv(records),
        "tex": tables.as_latex(records, conditions),
        "json": json.dumps(numbers, indent=2, allow_nan=False) + "\n",
    }
    contents = {kind: text.encode() for kind, text in texts.items()} | plots.draw_bars(records)
    for kind, content in contents.items():
        with written_whole(_file(folder, kind)) as partial:
            partial.write_bytes(content)
