"""An S3 bucket through boto3: requests with retries, and errors that say what to do. The only file that imports boto3.

boto3 retries requests with growing pauses; reads that break off are retried here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from shards.errors import StorageError

REQUEST_ATTEMPTS = 8  # with pauses that double up to 20 s: two minutes of an unavailable server
READ_ATTEMPTS = 5  # of a read whose stream breaks off or is too short
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 60  # without a byte
CONNECTIONS = 16  # ranges read at once
UPLOADS = 4  # parts sent at once; each is in memory
CLIENT_LOCK = threading.RLock()  # making a client takes a while, and is not thread-safe
# A worker forked while another thread holds the lock would wait for it forever.
os.register_at_fork(before=CLIENT_LOCK.acquire, after_in_parent=CLIENT_LOCK.release, after_in_child=CLIENT_LOCK.release)
_ADVICE = {  # error code: what it means and what to do
    "NoSuchBucket": "no such bucket; create it, or correct the URL or AWS_ENDPOINT_URL",
    "NoSuchKey": "no such object",
    "404": "no such object",
    "NoSuchUpload": "the upload was ended by another process; run one packer per part",
    "InvalidAccessKeyId": "unknown access key; check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "access denied; the credentials must allow to list, read, write and delete here",
    "403": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they allow",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it",
    "ExpiredToken": "the session token has expired; get new credentials and set AWS_SESSION_TOKEN, or log in again",
    "InvalidToken": "the session token is not valid for these keys; set AWS_SESSION_TOKEN with them, or remove it",
    "TokenRefreshRequired": "the session token must be renewed; get new credentials",
    "AuthorizationHeaderMalformed": "requests are signed for the wrong region; set AWS_DEFAULT_REGION",
    "AuthorizationQueryParametersError": "requests are signed for the wrong region; set AWS_DEFAULT_REGION",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION, or correct AWS_ENDPOINT_URL",
    "301": "the bucket is in another region; set AWS_DEFAULT_REGION, or correct AWS_ENDPOINT_URL",
}


class S3Bucket:
    """A prefix of a bucket. Endpoint, region and credentials come from the usual AWS_* variables and files."""

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"{url}: no bucket; write s3://bucket/prefix")
        self.url, self.bucket, self.prefix = url.rstrip("/"), bucket, prefix.strip("/")
        self._client: tuple[int, Any] | None = None
        self._bucket_seen = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}  # each process opens its own connections

    @property
    def client(self) -> Any:
        """The boto3 client of this process."""
        with CLIENT_LOCK:
            if self._client is None or self._client[0] != os.getpid():
                self._client = os.getpid(), new_client()
            return self._client[1]

    def key(self, path: str) -> str:
        """Return the object key of a path."""
        return f"{self.prefix}/{path}" if self.prefix else path

    def write_atomic(self, path: str, data: bytes) -> None:
        """Put an object."""
        with self.errors(path):
            self.client.put_object(Bucket=self.bucket, Key=self.key(path), Body=data)

    def exists(self, path: str) -> bool:
        """Return whether the object exists."""
        return self.head(path) is not None

    def size(self, path: str) -> int:
        """Return the size of an object in bytes."""
        head = self.head(path)
        if head is None:
            raise StorageError(f"{self.url}/{path}: no such object")
        return int(head["ContentLength"])

    def get(self, path: str, span: tuple[int, int] | None) -> bytes:
        """Read an object, or (offset, length) of it; retry if the stream breaks off or is too short."""
        from botocore import exceptions as e

        broken = (e.ReadTimeoutError, e.ResponseStreamingError, e.IncompleteReadError, e.ConnectionClosedError)
        extra = {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"} if span else {}
        for attempt in range(READ_ATTEMPTS):
            time.sleep(0.2 * 2**attempt if attempt else 0)
            with self.errors(path):
                try:
                    answer = self.client.get_object(Bucket=self.bucket, Key=self.key(path), **extra)
                    data: bytes = answer["Body"].read()
                except e.ClientError as error:
                    if error_code(error) == "InvalidRange":
                        return b""
                    raise
                except broken:
                    if attempt == READ_ATTEMPTS - 1:
                        raise
                    continue
            if span is None or len(data) == _announced(answer, span):
                return data
        raise StorageError(f"{self.url}/{path}: the server sends fewer bytes than requested; check its proxies")

    def head(self, path: str) -> dict[str, Any] | None:
        """Return an object's metadata; None if it does not exist."""
        with self.errors(path):
            try:
                head: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self.key(path))
            except self.client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    self._require_bucket()
                    return None
                raise
        return head

    def _cause(self, path: str, error: Any) -> Any:
        """Return the error that names the cause: the response to a HEAD has no body, so that of a GET is read."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not error_code(error).isdigit() or error_code(error) == "404":
            return error
        try:
            self.client.get_object(Bucket=self.bucket, Key=self.key(path), Range="bytes=0-0")
        except ClientError as named:
            return error if error_code(named) in ("NoSuchKey", "InvalidRange") else named
        except BotoCoreError:
            pass
        return error

    def _require_bucket(self) -> None:
        """Raise :class:`StorageError` for a missing bucket, which the response for a missing object does not reveal."""
        if self._bucket_seen:
            return
        try:
            self.client.head_bucket(Bucket=self.bucket)
        except self.client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise StorageError(f"{self.url}: {_ADVICE['NoSuchBucket']}") from error
        self._bucket_seen = True

    def abort_upload(self, key: str, upload: str) -> None:
        """Abort a multipart upload; one that no longer exists is ignored."""
        with contextlib.suppress(self.client.exceptions.NoSuchUpload):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)

    def sign(self, key: str, seconds: int) -> str:
        """Return a presigned URL of an object, valid for so many seconds."""
        where = {"Bucket": self.bucket, "Key": key}
        with self.errors(key):
            return str(self.client.generate_presigned_url("get_object", Params=where, ExpiresIn=seconds))

    @contextmanager
    def errors(self, path: str) -> Iterator[None]:
        """Convert errors of boto3 to StorageErrors that say what, where and what to do."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.url}/{path}"
        try:
            yield
        except ClientError as error:
            cause = self._cause(path, error)
            raise StorageError(
                f"{where}: {advice} ({cause})" if (advice := _advice(cause)) else f"{where}: {cause}"
            ) from error
        except BotoCoreError as error:
            raise StorageError(f"{where}: {error}{_network_advice(error)}") from error


def new_client() -> Any:
    """Return a boto3 client."""
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
    """Return a boto3 session. The service description, which takes half a second to read, is read once per process."""
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
    """Return the expected length of a range, by the object size in the response; -1 for another range."""
    where, _, total = answer.get("ContentRange", "").removeprefix("bytes ").partition("/")
    if not where.startswith(f"{span[0]}-") or not total.isdigit():
        return -1
    return min(span[1], int(total) - span[0])


def error_code(error: Any) -> str:
    """Return the S3 error code of a ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _advice(error: Any) -> str | None:
    """Return what an error means and what to do, with what the server says about region and time."""
    about, code = error.response.get("Error", {}), error_code(error)
    advice = _ADVICE.get(code)
    if advice and about.get("Region"):
        advice += f" to {about['Region']}" if advice.endswith("AWS_DEFAULT_REGION") else f" (region {about['Region']})"
    if code == "RequestTimeTooSkewed" and about.get("ServerTime"):
        advice = f"{advice}: the server's time is {about['ServerTime']}, requests say {about.get('RequestTime')}"
    return advice


def _network_advice(error: Exception) -> str:
    from botocore import exceptions as e

    if isinstance(error, e.NoCredentialsError | e.PartialCredentialsError):
        return "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
    if isinstance(error, e.HTTPClientError | e.ConnectionError):
        return "; check AWS_ENDPOINT_URL and the network, and run again: finished files are kept"
    return ""
