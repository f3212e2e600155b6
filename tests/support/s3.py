"""A few requests' worth of S3 in this process: objects, multipart uploads, conditions, and faults on demand."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = 2  # keys a list response holds, so that paging is exercised
FAULTS = ("500", "503", "403", "reset", "lost", "cut", "short", "stall")
STALL_S = 30


class FakeS3(ThreadingHTTPServer):
    """Bucket ``bucket`` at :attr:`endpoint`, for the access key ``id``.

    `faults` is used up one per request that it fits: an error's status; "reset", the connection ends before the
    request is looked at; "lost", it is done but the answer never comes; and for a GET with a body "cut" (ends halfway),
    "short" (half of it, as if that were all) and "stall" (halts halfway). With :meth:`plague` they come at random.
    """

    daemon_threads = True
    request_queue_size = 128  # socketserver's 5 let the kernel drop connections that come together

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, tuple[str, dict[int, bytes]]] = {}  # id → key, parts
        self.faults: list[str] = []
        self.refusal: tuple[int, str] | None = None  # status and XML inside <Error> of the response to every request
        self.done: Counter[str] = Counter()  # faults that happened
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, range
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._plague: tuple[random.Random, float, Sequence[str]] | None = None

    def plague(self, rate: float, seed: int, kinds: Sequence[str] = FAULTS) -> None:
        """From now on a share of all requests meets a fault, at most three in a row."""
        self._plague = random.Random(seed), rate, kinds
        self._row = 0

    def fault(self, fits: Sequence[str]) -> str | None:
        """The fault that a request meets, of those that fit it."""
        with self.lock:
            kind = None
            if self.faults:
                kind = self.faults.pop(0) if self.faults[0] in fits else None
            elif self._plague:
                rng, rate, kinds = self._plague
                mine = [k for k in kinds if k in fits]
                if mine and self._row < 3 and rng.random() < rate:
                    kind = rng.choice(mine)
                self._row = self._row + 1 if kind else 0
            if kind:
                self.done[kind] += 1
            return kind


@contextmanager
def fake_s3() -> Iterator[FakeS3]:
    """Serve until the end of the block."""
    server = FakeS3()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(20)
        assert not thread.is_alive()


def etag(data: bytes) -> str:
    """As S3 makes it for an object that was put in one request."""
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    server: FakeS3
    protocol_version = "HTTP/1.1"
    timeout = 2 * STALL_S  # of a connection on which nothing comes
    query: dict[str, list[str]]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = self._begin(("500", "503", "403", "reset", "lost"))
        if key is None:
            return
        with self.server.lock:
            if "uploadId" in self.query:
                upload = self.server.uploads.get(self.query["uploadId"][0])
                if upload:
                    upload[1][int(self.query["partNumber"][0])] = body
                wrong = None if upload else (404, "NoSuchUpload")
            else:
                there = self.server.objects.get(key)
                wrong = self._condition(there)
                if not wrong:
                    self.server.objects[key] = body
        self._error(*wrong) if wrong else self._answer(200, etag=etag(body))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        key = self._begin(("500", "503", "403", "reset", "lost"))
        if key is None:
            return
        with self.server.lock:
            if "uploads" in self.query:
                name = f"upload-{len(self.server.requests)}"
                self.server.uploads[name] = (key, {})
                answer = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            else:
                upload = self.server.uploads.pop(self.query["uploadId"][0], None)
                numbers = [int(n) for n in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
                if upload:
                    self.server.objects[key] = b"".join(upload[1][n] for n in numbers)
                answer = "<CompleteMultipartUploadResult/>" if upload else ""
        self._answer(200, answer.encode()) if answer else self._error(404, "NoSuchUpload")

    def do_DELETE(self) -> None:
        key = self._begin(("500", "503", "reset", "lost"))
        if key is None:
            return
        with self.server.lock:
            if "uploadId" in self.query:
                self.server.uploads.pop(self.query["uploadId"][0], None)
            else:
                self.server.objects.pop(key, None)
        self._answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key = self._begin(("500", "503", "403", "reset"))
        if key is None:
            return
        if not key:
            self._uploads() if "uploads" in self.query else self._list()
            return
        data = self.server.objects.get(key)
        if data is None:
            self._error(404, "NoSuchKey")
            return
        wanted = self.headers.get("Range")
        if not wanted:
            self._answer(200, data, etag=etag(data))
            return
        first, last = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
        if first >= len(data):
            self._error(416, "InvalidRange")
        else:
            body = data[first : last + 1]
            self._answer(206, body, span=f"bytes {first}-{first + len(body) - 1}/{len(data)}", etag=etag(data))

    def _condition(self, there: bytes | None) -> tuple[int, str] | None:
        if self.headers.get("If-None-Match") == "*" and there is not None:
            return 412, "PreconditionFailed"
        match = self.headers.get("If-Match")
        if match and there is None:
            return 404, "NoSuchKey"
        return (412, "PreconditionFailed") if match and there is not None and match != etag(there) else None

    def _begin(self, fits: Sequence[str]) -> str | None:
        """The object's key, or None where a fault, a wrong key or a wrong bucket was answered."""
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        path, _, query = self.path.partition("?")
        self.query = urllib.parse.parse_qs(query, keep_blank_values=True)
        bucket, _, key = urllib.parse.unquote(path.lstrip("/")).partition("/")
        fault = self.server.fault(fits)
        self._lost = fault == "lost"
        if fault == "reset":
            self.close_connection = True
            return None
        if self.server.refusal:
            status, inside = self.server.refusal
            self._answer(status, f"<Error>{inside}</Error>".encode())
            return None
        if fault in ("500", "503", "403"):
            self._error(int(fault), {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}[fault])
            return None
        signed = self.headers.get("Authorization", "") + "Credential=" + self.query.get("X-Amz-Credential", [""])[0]
        if "Credential=id/" not in signed:
            self._error(403, "InvalidAccessKeyId")
            return None
        if bucket != "bucket":
            self._error(404, "NoSuchBucket")
            return None
        return key

    def _list(self) -> None:
        prefix, after = self.query.get("prefix", [""])[0], self.query.get("continuation-token", [""])[0]
        keys = [k for k in sorted(self.server.objects) if k.startswith(prefix) and k > after]
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = "".join(
            f"<Contents><Key>{k}</Key><Size>{len(self.server.objects[k])}</Size></Contents>" for k in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        self._answer(200, text.encode())

    def _uploads(self) -> None:
        prefix = self.query.get("prefix", [""])[0]
        entries = "".join(
            f"<Upload><Key>{key}</Key><UploadId>{name}</UploadId></Upload>"
            for name, (key, _) in list(self.server.uploads.items())
            if key.startswith(prefix)
        )
        text = f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{entries}</ListMultipartUploadsResult>"
        self._answer(200, text.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", *, etag: str = "", span: str = "") -> None:
        if self._lost:
            self.close_connection = True
            return
        fault = None
        if status in (200, 206) and self.command == "GET" and len(body) > 1 and etag:
            fault = self.server.fault(("cut", "stall", "short") if span else ("cut", "stall"))
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (("ETag", etag), ("Content-Range", span)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if fault in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                self.server.closing.wait(STALL_S)
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(body)
