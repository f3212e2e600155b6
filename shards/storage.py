"""Local folders and ``s3://bucket/prefix`` behind one small interface; the only file that imports boto3.

A storage is a root; all paths are relative to it, with forward slashes. A file appears under its name whole or not at
all, and a write that is cut off leaves at most a hidden temporary file (local) that the next attempt takes over.
Whatever fails after retries is a :class:`StorageError`: it is never the fault of one sample.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from shards.errors import StorageError

ATTEMPTS = 5  # of a download whose stream breaks; requests themselves are retried inside boto3
CONNECTIONS = 16


class Storage(Protocol):
    """What the rest of the code knows about a place for files."""

    url: str

    def read(self, path: str) -> bytes:
        """The whole file."""
        ...

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer where the file ends before, none where it ends before `offset`."""
        ...

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """:meth:`read_range` for many (offset, length) of one file, in order."""
        ...

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """The whole file as a stream, for reading front to back."""
        ...

    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file to write; it appears under its name when the block ends without an error, otherwise never."""
        ...

    def write_atomic(self, path: str, data: bytes) -> None:
        """Put `data` in place whole; a second writer waits for the first."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        ...

    def size(self, path: str) -> int:
        """Bytes of the file."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Paths that begin with `prefix`, sorted; temporary files are left out."""
        ...

    def delete(self, path: str) -> None:
        """Remove the file; a missing one is no error."""
        ...

    def local_path(self, path: str) -> Path | None:
        """Where the file lies on this machine, for memory-mapping; None where it does not."""
        ...


def open_storage(url: str | Path) -> Storage:
    """The storage at a local folder or at ``s3://bucket/prefix``."""
    text = str(url)
    if text.startswith("s3://"):
        return S3Storage(text)
    if "://" in text:
        raise StorageError(f"{text}: only local folders and s3:// are known")
    return LocalStorage(text)


@contextmanager
def atomic_file(path: Path, *, wait: bool = False) -> Iterator[BinaryIO]:
    """A local binary file that is synced to disk and renamed into place at the end of the block.

    The temporary file has a fixed name, so that a rerun takes over what a killed process left. It is locked while it
    is written: another writer gets a StorageError, or waits its turn with `wait`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(temporary, wait)
    try:
        with _storage_errors(path):
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):  # what is left in the buffer after a full disk; the error is already raised
            file.close()


class LocalStorage:
    """A folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = str(root)

    def read(self, path: str) -> bytes:
        with _storage_errors(self.root / path):
            return (self.root / path).read_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return next(self.read_ranges(path, [(offset, length)]))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with _storage_errors(self.root / path), (self.root / path).open("rb", buffering=0) as file:
            for offset, length in ranges:
                yield _pread(file.fileno(), offset, length)

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with _storage_errors(self.root / path), (self.root / path).open("rb") as file:
            yield file

    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        return atomic_file(self.root / path)

    def write_atomic(self, path: str, data: bytes) -> None:
        with atomic_file(self.root / path, wait=True) as file:
            file.write(data)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def size(self, path: str) -> int:
        with _storage_errors(self.root / path):
            return (self.root / path).stat().st_size

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        with _storage_errors(folder):
            paths = sorted(p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
        yield from (p for p in paths if p.startswith(prefix) and not p.rpartition("/")[2].startswith("."))

    def delete(self, path: str) -> None:
        with _storage_errors(self.root / path):
            (self.root / path).unlink(missing_ok=True)

    def local_path(self, path: str) -> Path | None:
        return self.root / path


class S3Storage:
    """A prefix of a bucket. Endpoint, region and credentials come from the usual AWS_* variables and files."""

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not bucket:
            raise StorageError(f"{url}: no bucket; write s3://bucket/prefix")
        self.url, self.bucket, self.prefix = url.rstrip("/"), bucket, prefix.strip("/")
        self._client: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}  # each process opens its own connections

    @property
    def client(self) -> Any:
        """The boto3 client of this process."""
        if self._client is None or self._client[0] != os.getpid():
            import boto3
            from botocore.config import Config

            config = Config(
                retries={"max_attempts": 8, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=CONNECTIONS,
                request_checksum_calculation="when_required",  # S3-compatible servers know no trailing checksums
                response_checksum_validation="when_required",
            )
            self._client = (os.getpid(), boto3.session.Session().client("s3", config=config))
        return self._client[1]

    def read(self, path: str) -> bytes:
        return self._get(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self._get(path, f"bytes={offset}-{offset + length - 1}") if length else b""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for first in range(0, len(ranges), 8 * CONNECTIONS):
                batch = ranges[first : first + 8 * CONNECTIONS]
                yield from pool.map(lambda r: self.read_range(path, *r), batch)

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with _local_temporary() as file:
            with _s3_errors(self.url, path):
                self.client.download_fileobj(self.bucket, self._key(path), file)
            file.seek(0)
            yield file

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        with _local_temporary() as file:
            yield file
            file.flush()
            with _s3_errors(self.url, path):
                self.client.upload_file(file.name, self.bucket, self._key(path))

    def write_atomic(self, path: str, data: bytes) -> None:
        with _s3_errors(self.url, path):
            self.client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data)

    def exists(self, path: str) -> bool:
        return self._head(path) is not None

    def size(self, path: str) -> int:
        head = self._head(path)
        if head is None:
            raise StorageError(f"{self.url}/{path}: no such object")
        return int(head["ContentLength"])

    def list(self, prefix: str = "") -> Iterator[str]:
        cut = len(self._key(""))
        with _s3_errors(self.url, prefix):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._key(prefix)
            ):
                yield from (entry["Key"][cut:] for entry in page.get("Contents", ()))

    def delete(self, path: str) -> None:
        with _s3_errors(self.url, path):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(path))

    def local_path(self, path: str) -> Path | None:
        return None

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _head(self, path: str) -> dict[str, Any] | None:
        with _s3_errors(self.url, path):
            try:
                head: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=self._key(path))
            except self.client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
        return head

    def _get(self, path: str, byte_range: str | None = None) -> bytes:
        """One object or a range of it; a stream that breaks is asked for again, from the start of the range."""
        from botocore import exceptions

        broken = (exceptions.ReadTimeoutError, exceptions.ResponseStreamingError, exceptions.IncompleteReadError)
        extra = {"Range": byte_range} if byte_range else {}
        with _s3_errors(self.url, path):
            for attempt in range(ATTEMPTS):
                try:
                    data: bytes = self.client.get_object(Bucket=self.bucket, Key=self._key(path), **extra)[
                        "Body"
                    ].read()
                    return data
                except exceptions.ClientError as error:
                    if error.response.get("Error", {}).get("Code") == "InvalidRange":
                        return b""
                    raise
                except broken:
                    if attempt == ATTEMPTS - 1:
                        raise
                    time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


def _open_locked(path: Path, wait: bool) -> BinaryIO:
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb", buffering=1 << 20)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.close()
            raise StorageError(f"{path}: another process is writing it; run one packer per part") from error
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):  # a filesystem without locks
                file.close()
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                file.truncate()
                return file
        file.close()  # the former holder renamed it between our open and our lock


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    """Like os.pread, which may return less than asked for before the end of the file."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _local_temporary() -> Iterator[BinaryIO]:
    with _storage_errors(Path(tempfile.gettempdir())), tempfile.NamedTemporaryFile(prefix="speakerlm-") as file:
        yield file  # type: ignore[misc]


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error


@contextmanager
def _s3_errors(url: str, path: str) -> Iterator[None]:
    import boto3.exceptions
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
        raise StorageError(f"{url}/{path}: {error}") from error
