"""A model hub on this machine: what huggingface_hub and modelscope ask for to download or upload a repository."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.http_server import QuietHandler, served

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(QuietHandler):
    """Serves folders as repositories, takes uploads into them; keeps what was asked."""

    repositories: MutableMapping[str, Path]  # by name, or name@branch
    asked: list[str]
    made: dict[str, bool]  # repositories made by clients, and whether they are private
    objects: dict[str, bytes]  # large files by sha256
    uploads: Path | None  # folder of repositories that clients make; None: nothing is taken
    token: str | None  # the one that may write; None: any
    forbidden: str = ""  # part of the addresses that it may not write to
    url: str
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._write()

    def do_PUT(self) -> None:
        self._write()

    # --------------------------------------------------------------------------------------------------------- reading

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.asked.append(f"{self.command} {self.path}")
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        for name in dict.fromkeys(known.partition("@")[0] for known in self.repositories):
            if f"/{name}" in path:
                rest = path.split(f"/{name}", 1)[1].strip("/")
                answer = self._modelscope if path.startswith("/api/v1/") else self._huggingface
                return answer(name, rest, query)
        return self._json({"error": "Repository not found", "Code": 404, "Message": "not found"}, 404)

    def _huggingface(self, name: str, rest: str, query: Mapping[str, str]) -> None:
        kind, _, where = rest.partition("/")
        revision, _, file = where.partition("/")
        folder = self._folder(name, revision or "main")
        if folder is None:
            return self._json({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        if kind == "resolve":
            return self._file(folder / file, _commit(name, revision))
        if kind == "tree":
            return self._json([{"type": "file", "path": f, "size": s, "oid": d[:40]} for f, s, d in _files(folder)])
        siblings = [{"rfilename": f} for f, _, _ in _files(folder)]
        sha = _commit(name, revision or "main")
        return self._json({"id": name, "modelId": name, "sha": sha, "private": False, "siblings": siblings})

    def _folder(self, name: str, revision: str) -> Path | None:
        """The files of a branch, or of the commit at its head."""
        for known, folder in self.repositories.items():
            branch = known.partition("@")[2] or "main"
            if known.partition("@")[0] == name and revision in (branch, _commit(name, branch)):
                return folder
        return None

    def _modelscope(self, name: str, rest: str, query: Mapping[str, str]) -> None:
        folder = self.repositories[name]
        if "FilePath" in query:
            return self._file(folder / query["FilePath"], COMMIT)
        if rest == "repo/files":
            files = [
                {"Path": f, "Name": f, "Type": "blob", "Size": s, "Sha256": d, "Revision": COMMIT, "CommittedDate": 1}
                for f, s, d in _files(folder)
            ]
            return self._json({"Code": 200, "Success": True, "Data": {"Files": files}})
        revisions = {"Branches": [{"Revision": "master"}], "Tags": []}
        return self._json({"Code": 200, "Success": True, "Data": {"RevisionMap": revisions, "Name": name, "Id": 1}})

    # --------------------------------------------------------------------------------------------------------- writing

    def _write(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        path = unquote(urlsplit(self.path).path)
        self.asked.append(f"{self.command} {self.path}")
        if path.startswith("/lfs/"):  # a signed address: no token
            self.objects[path.removeprefix("/lfs/")] = body
            return self._json({})
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.uploads is None or (self.token is not None and given != self.token):
            return self._json({"error": f"Invalid credentials: {given}"}, 401, "")
        if self.forbidden and self.forbidden in path:
            return self._json({"error": f"Forbidden for {given}"}, 403, "")
        sent = [json.loads(line) for line in body.splitlines() if line]
        if path == "/api/repos/create":
            answer: object = self._create(sent[0])
        elif path == "/api/validate-yaml":
            answer = {"warnings": [], "errors": []}
        elif path.endswith("/info/lfs/objects/batch"):
            answer = {"transfer": "basic", "objects": [self._target(o) for o in sent[0]["objects"]]}
        else:
            answer = self._change(*_parts(path.removeprefix("/api/models/")), sent)
        return self._json(answer)

    def _change(self, name: str, kind: str, revision: str, sent: list[dict[str, Any]]) -> object:
        assert self.uploads is not None
        if kind == "preupload":
            return {"files": [_mode(f["path"]) for f in sent[0]["files"]]}
        if kind == "branch":
            self.repositories[f"{name}@{revision}"] = self.uploads / f"{name}@{revision}"
            return {}
        self._commit(self._folder(name, revision), sent)
        return {"commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}

    def _create(self, asked: dict[str, str]) -> object:
        assert self.uploads is not None
        name = f"{asked['organization']}/{asked['name']}"
        self.made[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.repositories.setdefault(name, self.uploads / name)
        return {"url": f"http://{self.headers['Host']}/{name}", "name": name}

    def _target(self, wanted: dict[str, object]) -> dict[str, object]:
        href = f"http://{self.headers['Host']}/lfs/{wanted['oid']}"
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": href}}}

    def _commit(self, folder: Path | None, operations: list[dict[str, dict[str, str]]]) -> None:
        assert folder is not None
        for operation in operations:
            value = operation["value"]
            target = folder / value.get("path", "")
            if operation["key"] == "deletedFile":
                target.unlink()
            elif operation["key"] in ("file", "lfsFile"):
                target.parent.mkdir(parents=True, exist_ok=True)
                whole = operation["key"] == "lfsFile"
                target.write_bytes(self.objects[value["oid"]] if whole else base64.b64decode(value["content"]))

    # --------------------------------------------------------------------------------------------------------- answers

    def _file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, "EntryNotFound")
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest[:40]}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        return self._send(206 if start else 200, data[start:], headers)

    def _json(self, content: object, status: int = 200, error: str = "RepoNotFound") -> None:
        headers = {"Content-Type": "application/json", "X-Repo-Commit": COMMIT}
        if status != 200 and error:
            headers["X-Error-Code"] = error
        self._send(status, json.dumps(content).encode(), headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _commit(name: str, revision: str) -> str:
    """The commit at the head of a branch; a commit stays itself."""
    if revision == "main":
        return COMMIT
    return revision if len(revision) == len(COMMIT) else hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()


def _parts(path: str) -> tuple[str, str, str]:
    """``owner/name/KIND/revision`` → name, kind, revision."""
    owner, name, kind, revision = path.split("/", 3)
    return f"{owner}/{name}", kind, revision


def _mode(path: str) -> dict[str, object]:
    return {"path": path, "uploadMode": "lfs" if path.endswith(".safetensors") else "regular", "shouldIgnore": False}


def _files(folder: Path) -> list[tuple[str, int, str]]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return [(str(f.relative_to(folder)), f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]


@contextmanager
def writable_hub(
    repositories: Mapping[str, Path], uploads: Path | None = None, token: str | None = None
) -> Iterator[type[Hub]]:
    """The hub's handler class, whose ``url`` is its address; it keeps what is asked and made."""
    state = {"repositories": dict(repositories), "asked": [], "made": {}, "objects": {}}
    handler = type("Handler", (Hub,), {**state, "uploads": uploads, "token": token})
    with served(handler) as handler.url:
        yield handler


@contextmanager
def model_hub(repositories: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the list of what it is asked. A repository is named NAME, or NAME@BRANCH."""
    with writable_hub(repositories) as hub:
        yield hub.url, hub.asked
