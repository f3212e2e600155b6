"""Speaker vectors on disk, shared by all processes and datasets of a user.

An entry is one small file, named by the hash of all that its vector depends on, and begins with a checksum over name
and content: an entry that is cut, damaged or misplaced counts as missing. Writers need no lock, as they would write the
same bytes: each renames a file of its own into place, and one that is killed leaves only that file. Nothing here
raises an error of the disk; without the cache, packing is only slower.

The number of entries is bounded: when one of the :data:`FOLDERS` is over its share, its least recently used quarter is
removed, leftovers of killed writers among them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import numpy as np

ENTRIES = 1 << 18  # about 1 GiB in blocks of 4 KiB
FOLDERS = 256
CHECK_EVERY = 16  # of how many writes one counts the folder's entries
_DIGEST = 16  # bytes


class VectorCache:
    """Vectors (n,) float32 by the hex digest of what they depend on.

    Args:
        entries: about the largest number of vectors.
    """

    def __init__(self, folder: Path, entries: int = ENTRIES) -> None:
        self.folder, self._per_folder = folder, max(1, entries // FOLDERS)

    def get(self, key: str) -> np.ndarray | None:
        """Return a vector, or None."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)  # used now
        except OSError:
            return None
        content = data[_DIGEST:]
        return np.frombuffer(content, "<f4") if data[:_DIGEST] == _checksum(key, content) else None

    def put(self, key: str, vector: np.ndarray) -> None:
        """Keep a vector, if the disk allows it."""
        path = self._path(key)
        content = np.ascontiguousarray(vector, "<f4").tobytes()
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(_checksum(key, content) + content)
                temporary.replace(path)
            except OSError:
                temporary.unlink(missing_ok=True)
                return
            if int(key, 16) % CHECK_EVERY == 0:
                self._shrink(path.parent)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.vector"

    def _shrink(self, folder: Path) -> None:
        with os.scandir(folder) as files:
            ages = [(file.stat().st_mtime_ns, file.path) for file in files]
        if len(ages) > self._per_folder:
            for _, path in sorted(ages)[: len(ages) - self._per_folder * 3 // 4]:
                Path(path).unlink(missing_ok=True)  # another process may shrink it too


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + content, digest_size=_DIGEST).digest()
