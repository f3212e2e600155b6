"""A few requests' worth of S3 in this process: objects in a dict, and faults on demand."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = 2  # keys a list response holds, so that paging is exercised


class FakeS3(ThreadingHTTPServer):
    """Bucket ``bucket`` at :attr:`endpoint`. `faults` is a list of "503" or "cut", used up one per GET or PUT."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """Serve until the end of the block."""
    server = FakeS3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeS3
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self._begin()
        if key is not None:
            self.server.objects[key] = body
            self._answer(200)

    def do_DELETE(self) -> None:
        key = self._begin()
        if key is not None:
            self.server.objects.pop(key, None)
            self._answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key = self._begin()
        if key is None:
            return
        if not key:
            self._list()
            return
        data = self.server.objects.get(key)
        if data is None:
            self._error(404, "NoSuchKey")
            return
        wanted = self.headers.get("Range")
        if not wanted:
            self._answer(200, data)
            return
        first, last = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
        if first >= len(data):
            self._error(416, "InvalidRange")
        else:
            self._answer(206, data[first : last + 1])

    def _begin(self) -> str | None:
        """The object's key, or None where a fault or a wrong bucket was answered."""
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        bucket, _, key = urllib.parse.unquote(self.path.partition("?")[0].lstrip("/")).partition("/")
        if self.command in ("GET", "PUT") and self.server.faults and self.server.faults[0] == "503":
            self.server.faults.pop(0)
            self._error(503, "SlowDown")
            return None
        if bucket != "bucket":
            self._error(404, "NoSuchBucket")
            return None
        return key

    def _list(self) -> None:
        query = urllib.parse.parse_qs(self.path.partition("?")[2])
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = [k for k in sorted(self.server.objects) if k.startswith(prefix) and k > after]
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = "".join(
            f"<Contents><Key>{k}</Key><Size>{len(self.server.objects[k])}</Size></Contents>" for k in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        self._answer(200, text.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"") -> None:
        cut = status in (200, 206) and self.command == "GET" and body and self.server.faults[:1] == ["cut"]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if cut:
            self.server.faults.pop(0)
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)
