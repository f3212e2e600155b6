"""Local folders as a storage: atomic writes, locks, and retries on network filesystems."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO, TypeVar

from shards.errors import StorageError

T = TypeVar("T")

CONFLICT = "another process wrote different content meanwhile; run one pack per dataset at a time, and run again"
_TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EAGAIN)  # of network filesystems: retried
OPEN_FILES = 32  # of a dataset: shards whose samples two plans mix at a time
RETRY_PAUSES = (0.5, 2.0, 8.0)  # seconds between attempts
_HINTS = {  # what to do about an error of the operating system
    errno.ENOSPC: "free some space or name another output, and run again: finished files are kept",
    errno.EDQUOT: "free some of the quota or name another output, and run again: finished files are kept",
    errno.EROFS: "the filesystem is read-only; name another output",
    errno.EACCES: "no permission; change it or name another output",
    errno.EPERM: "no permission; change it or name another output",
    errno.ENOTDIR: "a part of the path is a file; name another output",
}


@contextmanager
def atomic_file(path: Path, *, wait: bool = False) -> Iterator[BinaryIO]:
    """Open a local binary file that is synced to disk and renamed into place at the end of the block.

    The temporary file has a fixed name, so that a rerun reuses the file of a killed process. It is locked while it is
    written: another writer gets a StorageError, or waits for the lock with `wait`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(temporary, wait)
    try:
        with storage_errors(path):
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.rename(path)
            sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        with contextlib.suppress(OSError):  # the buffer cannot be flushed to a full disk; that error is already raised
            file.close()


class LocalStorage:
    """A local folder as a :class:`shards.storage.interface.Storage`."""

    def __init__(self, root: str | Path, *, retry_pauses: Sequence[float] | None = None) -> None:
        self.root, self._pauses = Path(root), retry_pauses
        self.url = str(root)
        self._open: OrderedDict[str, _OpenFile] = OrderedDict()  # files that ranges were read from last

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def read(self, path: str) -> bytes:
        with storage_errors(self.root / path):
            return retried((self.root / path).read_bytes, self._pauses)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        try:  # called for every sample: no Path, no open, no context manager
            return _pread(self._opened(path).descriptor, offset, length)
        except OSError:
            self._open.pop(path, None)
        with storage_errors(self.root / path):
            return retried(lambda: self._read_again(path, offset, length), self._pauses)

    def will_read(self, path: str, offset: int, length: int) -> None:
        with contextlib.suppress(OSError):  # that reading will raise
            os.posix_fadvise(self._opened(path).descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def _read_again(self, path: str, offset: int, length: int) -> bytes:
        """Read from the file as it is opened now: a stale handle stays stale."""
        self._open.pop(path, None)
        return _pread(self._opened(path).descriptor, offset, length)

    def _opened(self, path: str) -> _OpenFile:
        """Return an open file. It stays open until OPEN_FILES others are, or this process writes or deletes it."""
        file = self._open.get(path)
        if file is None:
            file = self._open[path] = _OpenFile(f"{self.url}/{path}")
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return file

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with storage_errors(self.root / path), (self.root / path).open("rb", buffering=0) as file:
            for offset, length in ranges:
                yield _pread(file.fileno(), offset, length)

    @contextmanager
    def stream(self, path: str) -> Iterator[BinaryIO]:
        with storage_errors(self.root / path), (self.root / path).open("rb") as file:
            yield file

    def create(self, path: str, *, wait: bool = False) -> AbstractContextManager[BinaryIO]:
        self._open.pop(path, None)
        return atomic_file(self.root / path, wait=wait)

    def write_atomic(self, path: str, data: bytes) -> None:
        self._open.pop(path, None)
        with atomic_file(self.root / path, wait=True) as file:
            file.write(data)

    def version(self, path: str) -> str | None:
        try:
            stat = (self.root / path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"

    def commit(self, path: str, data: bytes, version: str | None) -> None:
        self._open.pop(path, None)
        with atomic_file(self.root / path, wait=True) as file:
            if self.version(path) != version and self.read(path) != data:
                raise StorageError(f"{self.root / path}: {CONFLICT}")
            file.write(data)

    def clean(self, prefix: str) -> list[str]:
        folder, _, name = prefix.rpartition("/")
        removed = []
        for path in sorted((self.root / folder).glob(f".{glob.escape(name)}*.tmp")):
            with storage_errors(path), path.open("rb") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # locked by a running writer
                path.unlink(missing_ok=True)
                removed.append(path.relative_to(self.root).as_posix())
        return removed

    def exists(self, path: str) -> bool:
        with storage_errors(self.root / path):  # Path.is_file returns False on I/O errors
            try:
                return S_ISREG(retried((self.root / path).stat, self._pauses).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def size(self, path: str) -> int:
        with storage_errors(self.root / path):
            return retried((self.root / path).stat, self._pauses).st_size

    def list(self, prefix: str = "") -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        with storage_errors(folder):
            paths = sorted(p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
        yield from (p for p in paths if p.startswith(prefix) and not p.rpartition("/")[2].startswith("."))

    def delete(self, path: str) -> None:
        self._open.pop(path, None)
        with storage_errors(self.root / path):
            (self.root / path).unlink(missing_ok=True)

    def local_path(self, path: str) -> Path | None:
        return self.root / path


def retried(work: Callable[[], T], pauses: Sequence[float] | None = None) -> T:
    """Call `work`; retry it on transient errors of a network filesystem.

    Args:
        pauses: seconds between attempts; None: :data:`RETRY_PAUSES`.

    Raises:
        OSError: the last attempt failed, or the error is not transient.
    """
    for pause in RETRY_PAUSES if pauses is None else pauses:
        try:
            return work()
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
        time.sleep(pause)
    return work()


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
        file.close()  # its writer renamed it between our open and our lock


class _OpenFile:
    """A descriptor for reading, closed with its last reference: another thread may read when it leaves the cache."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # it was never opened
            os.close(self.descriptor)


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    """Read like os.pread, which may return fewer bytes than requested before the end of the file."""
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk: a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise a StorageError in place of an OSError, which names a file only if it cannot be opened.

    Args:
        path: file that the block reads or writes.
    """
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        raise StorageError(
            f"{error.filename or path}: {error.strerror or error}{f'; {hint}' if hint else ''}"
        ) from error
