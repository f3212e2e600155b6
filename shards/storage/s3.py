"""``s3://bucket/prefix`` as a storage.

A large object is uploaded in parts while it is written, and appears when its multipart upload is completed. Work is
committed by a small object put under a condition (``If-None-Match``, ``If-Match``), which AWS, Ceph and MinIO support;
they do not support a condition on the completion of a multipart upload.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import urllib3

from shards.errors import StorageError
from shards.storage import s3_client
from shards.storage.local import CONFLICT
from shards.storage.s3_client import CONNECTIONS, S3Bucket, error_code
from shards.storage.s3_ranges import RangeReader
from shards.storage.s3_upload import Upload

READ_BYTES = 8 << 20  # of a file that is read as a stream


class S3Storage(S3Bucket):
    """A prefix of a bucket as a :class:`shards.storage.interface.Storage`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._reader: tuple[int, RangeReader] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_reader": None}

    @property
    def _ranges(self) -> RangeReader:
        """The range reader of this process."""
        with s3_client.CLIENT_LOCK:
            if self._reader is None or self._reader[0] != os.getpid():
                timeout = urllib3.Timeout(connect=s3_client.CONNECT_TIMEOUT_S, read=s3_client.READ_TIMEOUT_S)
                self._reader = os.getpid(), RangeReader(self.sign, CONNECTIONS, timeout)
            return self._reader[1]

    def read(self, path: str) -> bytes:
        return self.get(path, None)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        data = self._ranges.read(self.key(path), offset, length)
        return self.get(path, (offset, length)) if data is None else data

    def will_read(self, path: str, offset: int, length: int) -> None:
        """Do nothing: what is read ahead from a server is read on threads."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            try:
                for offset, length in ranges:
                    waiting.append(pool.submit(self.read_range, path, offset, length))
                    if len(waiting) >= 2 * CONNECTIONS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        size = self.size(path)
        with _local_temporary() as file:
            for data in self.read_ranges(path, [(i, READ_BYTES) for i in range(0, size, READ_BYTES)]):
                file.write(data)
            file.seek(0)
            yield file

    @contextmanager
    def create(self, path: str, *, wait: bool = False) -> Iterator[BinaryIO]:
        upload = Upload(self, path)
        try:
            yield cast(BinaryIO, upload)
            upload.finish()
        except BaseException:
            upload.abort()
            raise
        self._end_uploads(self.key(path), exactly=True)

    def version(self, path: str) -> str | None:
        head = self.head(path)
        return None if head is None else str(head["ETag"])

    def commit(self, path: str, data: bytes, version: str | None) -> None:
        # Ceph 16 compares the ETag without its quotes, others with them. Both are tried: each is a condition.
        forms = [{"IfNoneMatch": "*"}] if version is None else [{"IfMatch": version}, {"IfMatch": version.strip('"')}]
        with self.errors(path):
            if any(self._put_if(path, data, condition) for condition in forms):
                return
            if not self.exists(path) or self.read(path) != data:  # the same bytes: the first response was lost
                raise StorageError(f"{self.url}/{path}: {CONFLICT}")

    def _put_if(self, path: str, data: bytes, condition: dict[str, str]) -> bool:
        """Put an object under a condition; return whether the condition held."""
        try:
            self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data, **condition)
        except self.client.exceptions.ClientError as error:
            if error_code(error) == "NoSuchBucket":
                raise
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return False
            raise
        return True

    def clean(self, prefix: str) -> builtins.list[str]:
        return self._end_uploads(self.key(prefix))

    def list(self, prefix: str = "") -> Iterator[str]:
        cut = len(self.key(""))
        with self.errors(prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.key(prefix)
            ):
                yield from (entry["Key"][cut:] for entry in page.get("Contents", ()))

    def delete(self, path: str) -> None:
        with self.errors(path):
            self.client.delete_object(Bucket=self.bucket, Key=self.key(path))

    def local_path(self, path: str) -> Path | None:
        return None

    def _end_uploads(self, prefix: str, *, exactly: bool = False) -> builtins.list[str]:
        """Abort the open uploads of keys that begin with `prefix`; none without permission to list them."""
        ended = []
        with contextlib.suppress(_Denied), self.errors(prefix), self._denied():
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    if not exactly or upload["Key"] == prefix:
                        self.abort_upload(upload["Key"], upload["UploadId"])
                        ended.append(str(upload["Key"])[len(self.key("")) :])
        return ended

    @contextmanager
    def _denied(self) -> Iterator[None]:
        try:
            yield
        except self.client.exceptions.ClientError as error:
            if error_code(error) in ("AccessDenied", "NotImplemented"):
                raise _Denied from error
            raise


class _Denied(Exception):
    """No permission to list multipart uploads."""


@contextmanager
def _local_temporary() -> Iterator[BinaryIO]:
    try:
        with tempfile.NamedTemporaryFile(prefix="speakerlm-") as file:
            yield cast(BinaryIO, file)
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR to a larger disk"
        ) from error
