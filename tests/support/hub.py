"""A model hub on this machine: what huggingface_hub and modelscope ask for when they download a repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Serves folders as repositories; keeps what was asked."""

    repositories: Mapping[str, Path]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.asked.append(f"{self.command} {self.path}")
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        for name, folder in self.repositories.items():
            if f"/{name}" in path:
                rest = path.split(f"/{name}", 1)[1].strip("/")
                answer = self._modelscope if path.startswith("/api/v1/") else self._huggingface
                return answer(name, folder, rest, query)
        return self._json({"error": "Repository not found", "Code": 404, "Message": "not found"}, 404)

    def _huggingface(self, name: str, folder: Path, rest: str, query: Mapping[str, str]) -> None:
        if rest.startswith("resolve/"):
            return self._file(folder / rest.split("/", 2)[2])
        if rest.startswith("tree/"):
            return self._json([{"type": "file", "path": f, "size": s, "oid": d[:40]} for f, s, d in _files(folder)])
        siblings = [{"rfilename": f} for f, _, _ in _files(folder)]
        return self._json({"id": name, "modelId": name, "sha": COMMIT, "private": False, "siblings": siblings})

    def _modelscope(self, name: str, folder: Path, rest: str, query: Mapping[str, str]) -> None:
        if "FilePath" in query:
            return self._file(folder / query["FilePath"])
        if rest == "repo/files":
            files = [
                {"Path": f, "Name": f, "Type": "blob", "Size": s, "Sha256": d, "Revision": COMMIT, "CommittedDate": 1}
                for f, s, d in _files(folder)
            ]
            return self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        revisions = {"Branches": [{"Revision": "master"}], "Tags": []}
        return self._json({"Code": 200, "Success": True, "Data": {"RevisionMap": revisions, "Name": name, "Id": 1}})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404)
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest[:40]}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        return self._send(206 if start else 200, data[start:], headers)

    def _json(self, content: object, status: int = 200) -> None:
        headers = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        if status == 404:
            headers["X-Error-Code"] = "RepoNotFound"
        self._send(status, json.dumps(content).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _files(folder: Path) -> list[tuple[str, int, str]]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return [(str(f.relative_to(folder)), f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]


@contextmanager
def model_hub(repositories: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the list of what it is asked."""
    asked: list[str] = []
    handler = type("Handler", (Hub,), {"repositories": repositories, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
