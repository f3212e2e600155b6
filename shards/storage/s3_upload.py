"""Multipart upload of an S3 object while it is written; the object appears when it is finished."""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from shards.errors import StorageError
from shards.storage.s3_client import UPLOADS, S3Bucket

PART_BYTES = 16 << 20  # of an upload: 10,000 of them are 156 GiB


class Upload:
    """A writable file, uploaded in parts. An object that fits into one part is put in one request at the end."""

    def __init__(self, bucket: S3Bucket, path: str) -> None:
        self._bucket, self._path, self._key = bucket, path, bucket.key(path)
        self._buffer = bytearray()
        self._id: str | None = None
        self._size = 0
        self._etags: list[str] = []
        self._sent: deque[Future[str]] = deque()
        self._pool = ThreadPoolExecutor(UPLOADS)

    def write(self, data: bytes) -> int:
        """Append. Blocks while :data:`UPLOADS` parts are being sent."""
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) >= PART_BYTES:
            self._send(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def finish(self) -> None:
        """Complete the upload; the object appears."""
        if self._id is None:
            self._pool.shutdown()
            self._bucket.write_atomic(self._path, bytes(self._buffer))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        while self._sent:
            self._etags.append(self._sent.popleft().result())
        self._pool.shutdown()
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self._etags, 1)]
        client = self._bucket.client
        with self._bucket.errors(self._path):
            try:
                client.complete_multipart_upload(
                    Bucket=self._bucket.bucket, Key=self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
                )
            except client.exceptions.NoSuchUpload:
                # The response to the first of two requests was lost: the object exists.
                if not self._bucket.exists(self._path) or self._bucket.size(self._path) != self._size:
                    raise

    def abort(self) -> None:
        """Abort the upload. Errors are suppressed: the caller reports the one that led here."""
        self._pool.shutdown(cancel_futures=True)
        if self._id is not None:
            with contextlib.suppress(StorageError), self._bucket.errors(self._path):
                self._bucket.abort_upload(self._key, self._id)

    def _send(self, data: bytes) -> None:
        if self._id is None:
            with self._bucket.errors(self._path):
                made = self._bucket.client.create_multipart_upload(Bucket=self._bucket.bucket, Key=self._key)
            self._id = made["UploadId"]
        if len(self._sent) >= UPLOADS:
            self._etags.append(self._sent.popleft().result())
        self._sent.append(self._pool.submit(self._send_part, len(self._etags) + len(self._sent) + 1, data))

    def _send_part(self, number: int, data: bytes) -> str:
        with self._bucket.errors(self._path):
            answer = self._bucket.client.upload_part(
                Bucket=self._bucket.bucket, Key=self._key, UploadId=self._id, PartNumber=number, Body=data
            )
        return str(answer["ETag"])
