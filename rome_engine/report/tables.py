"""Tidy tables as files: Parquet with its provenance inside, CSV with its provenance beside it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from rome_engine.errors import StorageError, TraceError
from rome_engine.files import finite, suffix_among, write_json, write_whole

TABLE_SUFFIXES = (".csv", ".parquet")
METADATA = b"rome_engine"
"""The key of a Parquet file's metadata that holds the provenance as JSON."""


def save_table(rows: Sequence[Mapping[str, Any]], path: Path, provenance: Mapping[str, Any]) -> None:
    """Save rows of like columns as .csv or .parquet, whole or not at all.

    A CSV file gets its provenance as JSON in a file of the same name with .json added; what is None or no finite
    number is an empty field there. A Parquet file has it in its metadata under METADATA.
    Raises TraceError for no rows; StorageError for another suffix, where the file cannot be written, and where pyarrow,
    which writes Parquet, is not installed.
    """
    suffix = suffix_among(path, TABLE_SUFFIXES)
    if not rows:
        raise TraceError("there is no row to save: the table is empty")
    if suffix == ".parquet":
        write_whole(path, _parquet(rows, json.dumps(finite(provenance), ensure_ascii=False, default=str)))
        return
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(finite(row) for row in rows)
    write_json(path.with_name(path.name + ".json"), provenance)
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _parquet(rows: Sequence[Mapping[str, Any]], described: str) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise StorageError("Parquet needs pyarrow: pip install 'rome-engine[report]', or write .csv") from error
    table = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]})
    content = BytesIO()
    parquet.write_table(table.replace_schema_metadata({METADATA: described.encode("utf-8")}), content)
    return content.getvalue()
