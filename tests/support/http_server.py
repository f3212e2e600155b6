"""HTTP servers on this machine: any handler, or one that plays a script of answers and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = dict[str, Any]  # status, body, headers, and faults: "cut" bytes early, "stall" seconds in the middle
Request = tuple[str, dict[str, str], bytes]  # path, headers, body


class QuietHandler(BaseHTTPRequestHandler):
    """A handler that logs nothing."""

    def log_message(self, *args: object) -> None:
        """Log nothing."""


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve at the address that is yielded."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()
        thread.join()


@contextmanager
def scripted(steps: list[Step]) -> Iterator[tuple[str, list[Request]]]:
    """Answer requests by these steps in order, the last one for ever; yield the address and the requests."""
    seen: list[Request] = []
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                step = steps[min(len(seen), len(steps) - 1)]
                seen.append((self.path, dict(self.headers), body))
            data = step.get("body", b"")
            data = data if isinstance(data, bytes) else data.encode()
            self.send_response(step.get("status", 200))
            for name, value in step.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            sent = data[: len(data) - step.get("cut", 0)]
            self.wfile.write(sent[: len(sent) // 2])
            self.wfile.flush()
            time.sleep(step.get("stall", 0))
            with suppress(OSError):
                self.wfile.write(sent[len(sent) // 2 :])

        do_POST = do_GET

    with served(Handler) as address:
        yield address, seen
