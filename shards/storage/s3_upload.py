"""An S3 object that is sent in parts while it is written, and appears when it is finished."""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from shards.errors import StorageError

if TYPE_CHECKING:
    from shards.storage.s3 import S3Storage

UPLOADS = 4  # parts sent at once; each is in memory
PART_BYTES = 16 << 20  # of an upload: 10,000 of them are 156 GiB


class Upload:
    """A file to write that goes out in parts. What fits into one part goes out in one request at the end."""

    def __init__(self, storage: S3Storage, path: str, key: str) -> None:
        self._storage, self._path, self._key = storage, path, key
        self._buffer = bytearray()
        self._id: str | None = None
        self._size = 0
        self._etags: list[str] = []
        self._sent: deque[Future[str]] = deque()
        self._pool = ThreadPoolExecutor(UPLOADS)

    def write(self, data: bytes) -> int:
        """Append. Waits while :data:`UPLOADS` parts are on their way."""
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) >= PART_BYTES:
            self._send(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Make the object appear."""
        if self._id is None:
            self._pool.shutdown()
            self._storage.write_atomic(self._path, bytes(self._buffer))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        while self._sent:
            self._etags.append(self._sent.popleft().result())
        self._pool.shutdown()
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self._etags, 1)]
        client = self._storage.client
        with self._storage.errors(self._path):
            try:
                client.complete_multipart_upload(
                    Bucket=self._storage.bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
                )
            except client.exceptions.NoSuchUpload:
                # The answer to the first of two requests was lost: the object is there.
                if not self._storage.exists(self._path) or self._storage.size(self._path) != self._size:
                    raise

    def abort(self) -> None:
        """Leave nothing. The error that led here is the one to report."""
        self._pool.shutdown(cancel_futures=True)
        if self._id is not None:
            with contextlib.suppress(StorageError), self._storage.errors(self._path):
                self._storage.abort_upload(self._key, self._id)

    def _send(self, data: bytes) -> None:
        if self._id is None:
            with self._storage.errors(self._path):
                made = self._storage.client.create_multipart_upload(Bucket=self._storage.bucket, Key=self._key)
            self._id = made["UploadId"]
        if len(self._sent) >= UPLOADS:
            self._etags.append(self._sent.popleft().result())
        self._sent.append(self._pool.submit(self._send_part, len(self._etags) + len(self._sent) + 1, data))

    def _send_part(self, number: int, data: bytes) -> str:
        with self._storage.errors(self._path):
            answer = self._storage.client.upload_part(
                Bucket=self._storage.bucket, Key=self._key, UploadId=self._id, PartNumber=number, Body=data
            )
        return str(answer["ETag"])
