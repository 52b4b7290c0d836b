"""Small parquet files of texts, as a server of data has them."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parquet(texts: Sequence[str | None], column: str = "text", row_group: int = 1000) -> bytes:
    buffer = io.BytesIO()
    # Uncompressed and plain, so that the file is about as large as its text.
    table = pa.table({column: pa.array(texts, pa.string())})
    pq.write_table(table, buffer, row_group_size=row_group, compression="none", use_dictionary=False)
    return buffer.getvalue()


def stories(shard: int, count: int = 400) -> list[str]:
    return [f"Document {index} of shard {shard}. " + "lorem ipsum " * 100 for index in range(count)]
