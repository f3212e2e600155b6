"""Tables as Parquet bytes, read in the caller's thread.

Arrow's reader threads may hold the last reference to a Python buffer while the interpreter exits; releasing it then
aborts the process ("terminate called without an active exception", apache/arrow#34314), after its work is done. These
tables are small, and read without threads.
"""

import pyarrow as pa
import pyarrow.parquet as pq


def to_bytes(table: pa.Table) -> bytes:
    """Serialise a table; the bytes are a function of the table and its metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(data: bytes) -> pa.Table:
    """Parse a table; the inverse of :func:`to_bytes`.

    Raises:
        pyarrow.ArrowException, OSError: not a whole Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)


def metadata(data: bytes) -> dict[bytes, bytes]:
    """Read a table's metadata without its rows. Raises as :func:`from_bytes`."""
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.schema_arrow.metadata or {}
