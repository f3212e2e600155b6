"""Byte ranges of S3 objects by presigned URL: 1.1 ms of CPU time for 60 kB, against 2.8 ms with boto3.

A data loader reads millions of small ranges of a few thousand objects. One signature serves all ranges of an object for
most of an hour. Errors, redirects and short responses fall back to boto3, which retries and explains them.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable

import urllib3

from shards.errors import StorageError

VALID_S = 3600
RENEW_S = 3000
URLS_KEPT = 10_000  # of objects; each takes half a kilobyte
GIVE_UP = 8  # failures in a row after which only boto3 is used


class RangeReader:
    """Range reader of one process; thread-safe."""

    def __init__(self, sign: Callable[[str, int], str], connections: int, timeout: urllib3.Timeout) -> None:
        """Make a reader.

        Args:
            sign: (key, seconds) → presigned URL; may raise a StorageError.
        """
        self._sign = sign
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False, timeout=timeout)
        self._urls: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._failures = GIVE_UP if urllib.request.getproxies() else 0  # boto3 handles proxies

    def read(self, key: str, offset: int, length: int) -> bytes | None:
        """Return the range; None: use boto3."""
        if self._failures >= GIVE_UP:
            return None
        data = self._ask(key, offset, length)
        self._failures = self._failures + 1 if data is None else 0
        return data

    def _ask(self, key: str, offset: int, length: int) -> bytes | None:
        try:
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            answer = self._pool.request("GET", self._url(key), headers=headers, redirect=False)
        except (urllib3.exceptions.HTTPError, StorageError):
            return None
        where = answer.headers.get("Content-Range", "")
        whole = answer.status == 206 and where.startswith(f"bytes {offset}-{offset + length - 1}/")
        return answer.data if whole and len(answer.data) == length else None

    def _url(self, key: str) -> str:
        with self._lock:
            url, made = self._urls.get(key, ("", 0.0))
            if not url or time.monotonic() - made > RENEW_S:
                if len(self._urls) >= URLS_KEPT:
                    self._urls.clear()
                url = self._sign(key, VALID_S)
                self._urls[key] = url, time.monotonic()
            return url
