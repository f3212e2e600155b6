"""``s3://bucket/prefix``; the only file that imports boto3.

A large object is sent in parts while it is written, and is there when its upload is completed. What commits work is a
small object put under a condition (``If-None-Match``, ``If-Match``), which AWS, Ceph and MinIO keep; a condition on the
completion of an upload they do not. Requests are retried by boto3 with growing pauses, reads that break off by us.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import urllib3

from shards.errors import StorageError
from shards.storage.local import CONFLICT
from shards.storage.s3_ranges import RangeReader
from shards.storage.s3_upload import UPLOADS, Upload

REQUEST_ATTEMPTS = 8  # with pauses that double up to 20 s: two minutes of an unwell server
READ_ATTEMPTS = 5  # of a read whose stream breaks off or comes short
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60  # without a byte
CONNECTIONS = 16  # ranges read at once
_MAKING = threading.RLock()  # making a client takes a while, and is not safe in two threads at once
# A worker forked while another thread holds the lock would wait for ever: nobody in it gives it back.
os.register_at_fork(before=_MAKING.acquire, after_in_parent=_MAKING.release, after_in_child=_MAKING.release)
READ_BYTES = 8 << 20  # of a file that is read as a stream
_ADVICE = {  # error code: what it means and what to do
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL or AWS_ENDPOINT_URL",
    "NoSuchKey": "no such object",
    "404": "no such object",
    "NoSuchUpload": "the upload was ended by another process; run one packer per part",
    "InvalidAccessKeyId": "the server does not know the access key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "access denied; the credentials must allow to list, read, write and delete here",
    "403": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they allow",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
}


class S3Storage:
    """A prefix of a bucket. Endpoint, region and credentials come from the usual AWS_* variables and files."""

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"{url}: no bucket; write s3://bucket/prefix")
        self.url, self.bucket, self.prefix = url.rstrip("/"), bucket, prefix.strip("/")
        self._client: tuple[int, Any] | None = None
        self._reader: tuple[int, RangeReader] | None = None
        self._bucket_seen = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None, "_reader": None}  # each process opens its own connections

    @property
    def client(self) -> Any:
        """The boto3 client of this process."""
        with _MAKING:
            if self._client is None or self._client[0] != os.getpid():
                self._client = os.getpid(), _new_client()
            return self._client[1]

    @property
    def _ranges(self) -> RangeReader:
        """The reader of ranges of this process."""
        with _MAKING:
            if self._reader is None or self._reader[0] != os.getpid():
                timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
                self._reader = os.getpid(), RangeReader(self._sign, CONNECTIONS, timeout)
            return self._reader[1]

    def read(self, path: str) -> bytes:
        return self._get(path, None)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        data = self._ranges.read(self._key(path), offset, length)
        return self._get(path, (offset, length)) if data is None else data

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
        upload = Upload(self, path, self._key(path))
        try:
            yield cast(BinaryIO, upload)
            upload.finish()
        except BaseException:
            upload.abort()
            raise
        self._end_uploads(self._key(path), exactly=True)

    def write_atomic(self, path: str, data: bytes) -> None:
        with self.errors(path):
            self.client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data)

    def version(self, path: str) -> str | None:
        head = self._head(path)
        return None if head is None else str(head["ETag"])

    def commit(self, path: str, data: bytes, version: str | None) -> None:
        # Ceph 16 compares the tag without its quotes, others with them. Both are tried: each is a condition.
        forms = [{"IfNoneMatch": "*"}] if version is None else [{"IfMatch": version}, {"IfMatch": version.strip('"')}]
        with self.errors(path):
            if any(self._put_if(path, data, condition) for condition in forms):
                return
            if not self.exists(path) or self.read(path) != data:  # ours, if the first answer got lost on its way
                raise StorageError(f"{self.url}/{path}: {CONFLICT}")

    def _put_if(self, path: str, data: bytes, condition: dict[str, str]) -> bool:
        """Whether the condition held."""
        try:
            self.client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data, **condition)
        except self.client.exceptions.ClientError as error:
            if _code(error) == "NoSuchBucket":
                raise
            if error.response["ResponseMetadata"]["HTTPStatusCode"] in (404, 409, 412):
                return False
            raise
        return True

    def clean(self, prefix: str) -> builtins.list[str]:
        return self._end_uploads(self._key(prefix))

    def exists(self, path: str) -> bool:
        return self._head(path) is not None

    def size(self, path: str) -> int:
        head = self._head(path)
        if head is None:
            raise StorageError(f"{self.url}/{path}: no such object")
        return int(head["ContentLength"])

    def list(self, prefix: str = "") -> Iterator[str]:
        cut = len(self._key(""))
        with self.errors(prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix)
            ):
                yield from (entry["Key"][cut:] for entry in page.get("Contents", ()))

    def delete(self, path: str) -> None:
        with self.errors(path):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(path))

    def local_path(self, path: str) -> Path | None:
        return None

    @contextmanager
    def errors(self, path: str) -> Iterator[None]:
        """Errors of boto3 as StorageErrors that say what, where and what to do."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.url}/{path}"
        try:
            yield
        except ClientError as error:
            advice = _ADVICE.get(_code(error))
            raise StorageError(f"{where}: {advice} ({error})" if advice else f"{where}: {error}") from error
        except BotoCoreError as error:
            raise StorageError(f"{where}: {error}{_network_advice(error)}") from error

    def _sign(self, key: str, seconds: int) -> str:
        where = {"Bucket": self.bucket, "Key": key}
        with self.errors(key):
            return str(self.client.generate_presigned_url("get_object", Params=where, ExpiresIn=seconds))

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _head(self, path: str) -> dict[str, Any] | None:
        with self.errors(path):
            try:
                head: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self._key(path))
            except self.client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    self._require_bucket()
                    return None
                raise
        return head

    def _require_bucket(self) -> None:
        """The answer for a missing object does not say whether it is the bucket that is missing."""
        if self._bucket_seen:
            return
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except self.client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise StorageError(f"{self.url}: {_ADVICE['NoSuchBucket']}") from error
        self._bucket_seen = True

    def _get(self, path: str, span: tuple[int, int] | None) -> bytes:
        """An object, or (offset, length) of it; a stream that breaks off or comes short is asked for again."""
        from botocore import exceptions as e

        broken = (e.ReadTimeoutError, e.ResponseStreamingError, e.IncompleteReadError, e.ConnectionClosedError)
        extra = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
        for attempt in range(READ_ATTEMPTS):
            time.sleep(0.2 * 2**attempt if attempt else 0)
            with self.errors(path):
                try:
                    answer = self.client.get_object(Bucket=self.bucket, Key=self._key(path), **extra)
                    data: bytes = answer["Body"].read()
                except e.ClientError as error:
                    if _code(error) == "InvalidRange":
                        return b""
                    raise
                except broken:
                    if attempt == READ_ATTEMPTS - 1:
                        raise
                    continue
            if span is None or len(data) == _announced(answer, span):
                return data
        raise StorageError(f"{self.url}/{path}: the server keeps sending less than was asked for; check its proxies")

    def _end_uploads(self, prefix: str, *, exactly: bool = False) -> builtins.list[str]:
        """Abort the open uploads of keys that begin with `prefix`. Who may not list them leaves them."""
        ended = []
        with contextlib.suppress(_Denied), self.errors(prefix), self._denied():
            for page in self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    if not exactly or upload["Key"] == prefix:
                        self.abort_upload(upload["Key"], upload["UploadId"])
                        ended.append(str(upload["Key"])[len(self._key("")) :])
        return ended

    def abort_upload(self, key: str, upload: str) -> None:
        """Give back what an upload holds; one that is gone is no error."""
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)

    @contextmanager
    def _denied(self) -> Iterator[None]:
        try:
            yield
        except self.client.exceptions.ClientError as error:
            if _code(error) in ("AccessDenied", "NotImplemented"):
                raise _Denied from error
            raise


class _Denied(Exception):
    """The server does not let us list uploads."""


def _new_client() -> Any:
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": REQUEST_ATTEMPTS, "mode": "standard"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS + UPLOADS,
        signature_version="s3v4",  # for presigned URLs too
        request_checksum_calculation="when_required",  # S3-compatible servers know no trailing checksums
        response_checksum_validation="when_required",
    )
    return _session().client("s3", config=config)


def _session() -> Any:
    """A session; the description of the service, half a second to read, is read once a process."""
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _loader())
    return boto3.session.Session(botocore_session=session)


@cache
def _loader() -> Any:
    import botocore.session

    return botocore.session.get_session().get_component("data_loader")


def _announced(answer: dict[str, Any], span: tuple[int, int]) -> int:
    """How many bytes a range must have, by the size that the server tells; -1 where it is another range."""
    where, _, total = answer.get("ContentRange", "").removeprefix("bytes ").partition("/")
    if not where.startswith(f"{span[0]}-") or not total.isdigit():
        return -1
    return min(span[1], int(total) - span[0])


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _network_advice(error: Exception) -> str:
    from botocore import exceptions as e

    if isinstance(error, e.NoCredentialsError | e.PartialCredentialsError):
        return "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, e.HTTPClientError | e.ConnectionError):
        return "; check AWS_ENDPOINT_URL and the network, and run again: what is whole is kept"
    return ""


@contextmanager
def _local_temporary() -> Iterator[BinaryIO]:
    try:
        with tempfile.NamedTemporaryFile(prefix="speakerlm-") as file:
            yield cast(BinaryIO, file)
    except OSError as error:
        raise StorageError(
            f"{tempfile.gettempdir()}: {error.strerror or error}; set TMPDIR to a larger disk"
        ) from error
