"""Sources of audio, and how their bytes are opened: a file, an object or page by URL, the output of a command.

In manifests a source is a path or a URL (``s3://``, ``http://``, ``https://``, ``file://``). Commands, as in Kaldi's
``wav.scp``, are run once, by ``prepare --allow-commands``; what they write becomes a file, so manifests contain nothing
that can be run.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from shards.errors import AudioError, StorageError
from shards.storage.local import atomic_file

if TYPE_CHECKING:
    from shards.storage.s3 import S3Storage

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SHELL = re.compile(r"[|&;<>()$`*?\[\]{}~#\n]")  # what a shell would interpret
_STDERR = 400  # characters of it in an error
_HTTP_SECONDS = 60.0  # without a byte
_PAUSES = (0.5, 2.0, 8.0, 20.0)  # seconds between attempts
_GONE = (404, 410)


def joined(folder: str | Path, source: str) -> str:
    """Return a source with its path joined to a folder; a URL stays as it is."""
    scheme = _URL.match(source)
    if scheme is None:
        return str(Path(folder) / source)
    return urllib.request.url2pathname(urllib.parse.urlsplit(source).path) if scheme[1] == "file" else source


def located(folder: str | Path, source: str) -> str:
    """Return a source as :func:`joined`, without ``..`` in its path."""
    if _URL.match(source) is None:
        return os.path.normpath(os.path.join(folder, source))  # noqa: PTH118  # a Path costs 5 times as much
    place = joined(folder, source)
    return place if _URL.match(place) else os.path.normpath(place)


@contextmanager
def local_file(source: str | Path) -> Iterator[Path]:
    """Yield a local file with the content of a source; a copy of what a URL names is removed at the end of the block.

    Raises:
        AudioError: the URL names nothing, or is of a kind that is not supported. Errors of the block name the URL.
        StorageError: the server cannot be reached, or refuses.
    """
    scheme = _URL.match(str(source)) if isinstance(source, str) else None
    if scheme is None:
        yield Path(source)
        return
    url = str(source)
    suffix = PurePosixPath(urllib.parse.urlsplit(url).path).suffix
    with tempfile.NamedTemporaryFile(prefix="speakerlm-", suffix=suffix[:16]) as file:
        _fetch(url, scheme[1].lower(), cast(BinaryIO, file))
        file.flush()
        try:
            yield Path(file.name)
        except AudioError as error:
            raise AudioError(str(error).replace(file.name, _shown(url))) from error


@dataclass(frozen=True, slots=True)
class Command:
    """A command that writes audio to its standard output, and the file that takes it.

    Args:
        line: as in ``wav.scp``, with or without the final ``|``.
        folder: where it is run; relative paths in it refer to this folder.
        seconds: that it may take.
    """

    line: str
    folder: Path
    output: Path
    seconds: float

    def run(self) -> Path:
        """Run the command and return the file. A shell is used only for what needs one: pipes, variables, patterns.

        Raises:
            AudioError: it cannot be started, fails, takes too long or writes nothing. Names the end of its stderr.
            StorageError: the file cannot be written.
        """
        with atomic_file(self.output, wait=True) as file, tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(
                    self._arguments(),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=stderr,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise AudioError(f"command {self.line!r}: {error}") from error
            try:
                status = process.wait(self.seconds)
            except subprocess.TimeoutExpired as error:
                raise AudioError(f"command {self.line!r}: not done after {self.seconds:g} s{_end(stderr)}") from error
            finally:
                if process.poll() is None:  # too slow, or Ctrl-C: end all of a pipeline
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if status:
                raise AudioError(f"command {self.line!r}: exit status {status}{_end(stderr)}")
            if not os.fstat(file.fileno()).st_size:
                raise AudioError(f"command {self.line!r}: no output{_end(stderr)}")
        return self.output

    def _arguments(self) -> list[str]:
        line = self.line.strip().removesuffix("|").strip()
        if not line:
            raise ValueError("it is empty")
        if not _SHELL.search(line):
            return shlex.split(line)
        bash = shutil.which("bash")  # with pipefail: the failure of any part of a pipe is one of the whole
        return [bash, "-o", "pipefail", "-c", line] if bash else ["/bin/sh", "-c", line]


def _end(stderr: BinaryIO) -> str:
    """Return the end of what a command wrote to stderr, for an error."""
    size = stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, size - 4 * _STDERR))
    text = " ".join(stderr.read().decode(errors="replace").split())
    return f"; stderr: {'…' if len(text) > _STDERR else ''}{text[-_STDERR:]}" if text else "; stderr is empty"


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold a signature."""
    return url.partition("?")[0] if url.startswith("http") else url


def _fetch(url: str, scheme: str, file: BinaryIO) -> None:
    if scheme == "s3":
        _fetch_s3(url, file)
    elif scheme in ("http", "https"):
        _fetch_http(url, file)
    else:
        raise AudioError(f"{_shown(url)}: unsupported kind of URL; use a file, s3://, http:// or https://")


def _fetch_s3(url: str, file: BinaryIO) -> None:
    from shards.storage.s3 import READ_BYTES

    bucket, _, key = url.partition("://")[2].partition("/")
    storage = _bucket(bucket)
    head = storage.head(key) if key else None
    if head is None:
        raise AudioError(f"{url}: no such object")
    size = int(head["ContentLength"])
    for data in storage.read_ranges(
        key, [(first, min(READ_BYTES, size - first)) for first in range(0, size, READ_BYTES)]
    ):
        file.write(data)
    if file.tell() != size:
        raise AudioError(f"{url}: {file.tell()} of {size} bytes; it was written while it was read")


@cache
def _bucket(name: str) -> S3Storage:
    from shards.storage.s3 import S3Storage

    return S3Storage(f"s3://{name}")


def _fetch_http(url: str, file: BinaryIO) -> None:
    """Write a page to a file; repeat what a later attempt may mend."""
    quoted = urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~")
    for pause in (*_PAUSES, None):
        file.seek(0)
        file.truncate()
        try:
            with urllib.request.urlopen(quoted, timeout=_HTTP_SECONDS) as answer:
                shutil.copyfileobj(answer, file, 1 << 20)
                announced = answer.headers.get("Content-Length")
            if announced is None or file.tell() == int(announced):
                return
            reason = f"{file.tell()} of {announced} bytes"
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code in _GONE:
                raise AudioError(f"{_shown(url)}: {reason}") from error
            if error.code not in (408, 429) and error.code < 500:
                raise StorageError(
                    f"{_shown(url)}: {reason}; the server refuses: check the URL and its rights"
                ) from error
        except (http.client.InvalidURL, ValueError) as error:
            raise AudioError(f"{_shown(url)}: {error}") from error
        except (http.client.HTTPException, urllib.error.URLError, OSError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if pause is not None:
            time.sleep(pause)
    raise StorageError(f"{_shown(url)}: {reason}; check the network and the server, and run again")
