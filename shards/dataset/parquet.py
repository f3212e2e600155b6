"""Tables as Parquet bytes, read on the caller's thread.

Arrow's reader threads may hold the last reference to a Python buffer while the interpreter ends; letting go of it then
aborts the process ("terminate called without an active exception", apache/arrow#34314), after its work was done. These
tables are small: reading them needs no threads.
"""

import pyarrow as pa
import pyarrow.parquet as pq


def to_bytes(table: pa.Table) -> bytes:
    """The file of a table; bytes are a function of the table and its metadata."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def from_bytes(data: bytes) -> pa.Table:
    """Inverse of :func:`to_bytes`.

    Raises:
        pyarrow.ArrowException, OSError: not a whole Parquet file.
    """
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)


def metadata(data: bytes) -> dict[bytes, bytes]:
    """What :func:`to_bytes` wrote of the table's metadata, without reading its rows. Errors as :func:`from_bytes`."""
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.schema_arrow.metadata or {}
