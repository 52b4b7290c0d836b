"""Write a table as CSV, as JSON Lines or as Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.export.table import Column, Table
from agent.journal.results import FORMULA

PART = 20_000  # rows that are held at a time


def as_csv(table: Table) -> Iterator[bytes]:
    """Yield parts of the file: UTF-8, a header, commas, quotes only where needed, empty cells for missing values.

    Text that a spreadsheet would take for a formula gets an apostrophe before it. Numbers never do.
    """
    yield _csv([[_cell(column.name, text=True) for column in table.columns]])
    kinds = [column.kind for column in table.columns]
    for rows in _parts(table):
        yield _csv([[_spelled(v, k) for v, k in zip(row, kinds, strict=True)] for row in rows])


def as_jsonl(table: Table) -> Iterator[bytes]:
    """Yield parts of the file: an object for each row, with every column. What is missing or not finite is null."""
    for rows in _parts(table):
        yield "".join(json.dumps(_object(table.columns, row), ensure_ascii=False) + "\n" for row in rows).encode()


def as_parquet(table: Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "text": pa.string(), "time": pa.timestamp("ms", tz="UTC"),
    }  # fmt: skip
    schema = pa.schema([(column.name, types[column.kind]) for column in table.columns])
    out = io.BytesIO()
    with pq.ParquetWriter(out, schema) as writer:
        for rows in _parts(table):
            columns = zip(table.columns, zip(*rows, strict=True), strict=True)
            arrays = [pa.array(_milliseconds(column, values), types[column.kind]) for column, values in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return out.getvalue()


def _parts(table: Table) -> Iterator[tuple[Sequence[Any], ...]]:
    rows = iter(table.rows)
    while part := tuple(itertools.islice(rows, PART)):
        yield part


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def _spelled(value: Any, kind: str) -> Any:
    if value is None:
        return ""
    if kind == "time":
        return _iso(value)
    if kind == "bool":
        return "true" if value else "false"
    return _cell(value, text=kind == "text")


def _cell(value: Any, *, text: bool) -> Any:
    return f"'{value}" if text and value.lstrip(" ").startswith(FORMULA) else value


def _object(columns: Sequence[Column], row: Sequence[Any]) -> dict[str, Any]:
    return {column.name: _plain(value, column.kind) for column, value in zip(columns, row, strict=True)}


def _plain(value: Any, kind: str) -> Any:
    if value is None or (kind == "float" and not math.isfinite(value)):
        return None
    return _iso(value) if kind == "time" else value


def _milliseconds(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    return [v if v is None else round(1000 * v) for v in values] if column.kind == "time" else values


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
