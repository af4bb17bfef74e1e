"""Embeddings as a Parquet file, for table tools: a row an image, with its name and its embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptation.similarity.folders.embedded import TABLE, Embedded
from common.errors import InputError
from common.storage.files import written_whole
from common.storage.lock import held
from featuresExtractor.features.features_file import Rows, name_field


def check_pyarrow() -> Any:
    """Return pyarrow.parquet; InputError where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("--format parquet: needs pyarrow: pip install -r requirements-parquet.txt") from error
    return pyarrow.parquet


def write_parquet(embedded: Embedded, folder: Path) -> Path:
    """Write `embeddings.parquet` beside the embeddings, chunk by chunk, and return its path. For each side a column of
    its name holds lists of E float32, and `name` (`left_name`, `right_name`) the names. A file name that is not UTF-8
    is written with escapes, as in a CSV."""
    parquet = check_pyarrow()
    import pyarrow as pa

    rows: Rows = embedded.embeddings
    columns = [(name_field(side), pa.string()) for side in rows.sides]
    columns += [(side, pa.list_(pa.float32(), rows.width)) for side in rows.sides]
    schema = pa.schema(columns)
    with held(folder), written_whole(folder / TABLE) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for chunk in rows.chunks():
            names = [pa.array(map(_as_utf8, chunk[name_field(side)].tolist()), pa.string()) for side in rows.sides]
            vectors = [
                pa.FixedSizeListArray.from_arrays(pa.array(chunk[side].ravel()), rows.width) for side in rows.sides
            ]
            writer.write_table(pa.table([*names, *vectors], schema=schema))
    return folder / TABLE


def _as_utf8(name: str) -> bytes:
    return name.encode("utf-8", "backslashreplace")
