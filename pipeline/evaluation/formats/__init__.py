"""Foreign transcript formats, one file each.

A format is a module here, or an entry point of group ``speakerlm.formats``. It reads, writes, or both:

``read(path) -> list[SegLstRow]``   reads a file, rows in its order
``READS``                           suffixes of its files, lower case, with the point
``read_reference(path)``            the reference rows, if a file holds both sides
``FOLDER``                          name of a file that makes its folder one transcript, which ``read`` gets
``dumps(rows) -> str``              text of one session
``check_names(rows, kind)``         refuses names of all sessions that cannot be read back
``WRITES``                          suffix of the files that are written

Files are UTF-8; a leading byte order mark is skipped. A folder may hold many files of one format.
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.records import SegLstRow, by_session, check_times
from shards.errors import ConfigError, ScoreError
from shards.plugins import load_plugin, plugin_names

GROUP = "formats"

logger = logging.getLogger(__name__)


def readable() -> list[str]:
    """List the formats that can be read."""
    return [name for name, module in _loadable().items() if hasattr(module, "read")]


def writable() -> list[str]:
    """List the formats that can be written."""
    return [name for name, module in _loadable().items() if hasattr(module, "dumps")]


def read(path: Path | str, kind: str | None = None, side: str = "hypothesis") -> list[SegLstRow]:
    """Read a file or a folder of transcripts.

    Args:
        path: what to read.
        kind: a name of :func:`readable`; by suffix if not given.
        side: which side of a file that holds both: ``reference`` or ``hypothesis``.

    Raises:
        ScoreError: missing, of an unknown format, or inconsistent. Names file and line.
    """
    where = Path(path)
    kind = kind or detect(where)
    if kind not in _names() or not hasattr(_format(kind), "read"):
        raise ScoreError(f"unknown format {kind!r} to read; known: {', '.join(readable())}")
    chosen = _format(kind)
    reader = getattr(chosen, "read_reference", chosen.read) if side == "reference" else chosen.read
    rows = [row for file in _files(where, kind, chosen) for row in reader(file)]
    for row in rows:
        check_times(row, where)
    return rows


def detect(path: Path) -> str:
    """Return the format of a file or folder, by suffix.

    Raises:
        ScoreError: it does not exist, or no format or several match.
    """
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if not path.is_dir():
        if not (kind := _by_suffix(path)):
            suffix = path.suffix or "no suffix"
            raise ScoreError(f"{path}: unknown format ({suffix}); name it with --format, --ref-format or --hyp-format")
        return kind
    formats = _loadable()
    for name, module in formats.items():
        marker = getattr(module, "FOLDER", None)
        if marker and (path / marker).is_file():
            return name
    suffixes = {file.suffix.lower() for file in path.iterdir()}
    reads = {name: set(getattr(module, "READS", ())) for name, module in formats.items()}
    kinds = {next((name for name in reads if suffix in reads[name]), "") for suffix in suffixes} - {""}
    if len(kinds) == 1:
        return kinds.pop()
    found = f"files of several formats ({', '.join(sorted(kinds))})" if kinds else "no transcript"
    raise ScoreError(f"{path} holds {found}; name the format with --format, --ref-format or --hyp-format")


def dumps(rows: Sequence[SegLstRow], kind: str) -> str:
    """Return rows as text of a format.

    Raises:
        ScoreError: the format is unknown, or it needs times and a row has none.
    """
    if kind not in _names() or not hasattr(_format(kind), "dumps"):
        raise ScoreError(f"unknown format {kind!r} to write; known: {', '.join(writable())}")
    return str(_format(kind).dumps(rows))


def write(rows: Sequence[SegLstRow], folder: Path, kind: str) -> list[Path]:
    """Write ``SESSION.suffix`` for each session into a folder; return the files.

    Raises:
        ScoreError: two sessions would be written to one file or under one name, or a row cannot be written.
    """
    texts = {session: dumps(found, kind) for session, found in by_session(rows).items()}
    if hasattr(_format(kind), "check_names"):
        _format(kind).check_names(rows, kind.upper())
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, str] = {}
    for session, text in texts.items():
        path = folder / (re.sub(r"[/\\\x00]", "_", session) + _format(kind).WRITES)
        if path in files:
            raise ScoreError(f"sessions {files[path]} and {session} would both be written to {path}")
        files[path] = session
        path.write_text(text, encoding="utf-8", newline="")
    return list(files)


def _names() -> Iterator[str]:
    """Yield the project's own formats, then those of entry points, which are only listed if they are needed."""
    own = _own()
    yield from own
    yield from (name for name in plugin_names(GROUP) if name not in own)


@functools.cache
def _own() -> dict[str, Any]:
    """Import the modules of this package: name → module."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}


def _format(name: str) -> Any:
    return _own().get(name) or load_plugin(GROUP, name)


def _loadable() -> dict[str, Any]:
    """Import all formats that can be imported; a broken package does not prevent the use of the others."""
    found = dict(_own())
    for name in plugin_names(GROUP):
        if name not in found:
            try:
                found[name] = load_plugin(GROUP, name)
            except ConfigError as error:
                logger.warning("%s", error)
    return found


def _by_suffix(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return next((name for name in _names() if suffix in getattr(_format(name), "READS", ())), None)


def _files(path: Path, kind: str, chosen: Any) -> list[Path]:
    if getattr(chosen, "FOLDER", None):
        return [path]
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if path.is_file():
        return [path]
    files = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in chosen.READS)
    if not files:
        raise ScoreError(f"{path} holds no file of format {kind}")
    return files
