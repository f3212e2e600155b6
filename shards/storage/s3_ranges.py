"""Byte ranges of S3 objects by presigned URL: 1.1 ms of processor time for 60 kB, where boto3 spends 2.8 ms.

A loader reads millions of small ranges of a few thousand objects. One signature serves all ranges of an object for
most of an hour. Whatever is unusual, an error, a redirect, a short answer, is left to boto3, who retries and explains.
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
GIVE_UP = 8  # unusual answers in a row: a server or a network that only boto3 understands


class RangeReader:
    """Of one process; may be used by several threads."""

    def __init__(self, sign: Callable[[str, int], str], connections: int, timeout: urllib3.Timeout) -> None:
        """Args: ``sign`` makes a URL for an object that holds for so many seconds, or raises a StorageError."""
        self._sign = sign
        self._pool = urllib3.PoolManager(maxsize=connections, retries=False, timeout=timeout)
        self._urls: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._unusual = GIVE_UP if urllib.request.getproxies() else 0  # boto3 knows which proxy is for whom

    def read(self, key: str, offset: int, length: int) -> bytes | None:
        """The range, or None: ask boto3."""
        if self._unusual >= GIVE_UP:
            return None
        data = self._ask(key, offset, length)
        self._unusual = self._unusual + 1 if data is None else 0
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
                url = self._sign(key, VALID_S)
                self._urls[key] = url, time.monotonic()
            return url
