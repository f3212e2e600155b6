"""Foreign transcript formats, one file each.

A format is a module here, or an entry point of group ``speakerlm.formats``. It reads, writes, or both:

``read(path) -> list[SegLstRow]``   reads a file, rows in its order
``READS``                           suffixes of its files, lower case, with the point; the longest decides
``read_reference(path)``            the reference rows, if a file holds both sides
``FOLDER``                          name of a file that makes its folder one transcript, which ``read`` gets
``dumps(rows) -> str``              text of one session
``check_names(rows, kind)``         refuses names of all sessions that cannot be read back
``warn_of_names(rows, kind)``       warns of names that are written in another way
``WRITES``                          suffix of the files that are written
``notes(path)``                     session → oddities of its text, for the report
``BY_NAME``                         true if the format is used only if it is named
``SESSION_IS_FILE``                 true if only the file's name says which session it holds

Texts of other systems (:mod:`pipeline.evaluation.outputs`) are formats too. A file whose suffix does not say more than
that it is JSON or text is looked into: it is of the system whose marks it has.

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

from pipeline.evaluation.folders import folder_files, suffix_of
from pipeline.evaluation.output_files import OutputFormat, sniffed
from pipeline.evaluation.outputs import outputs
from pipeline.evaluation.records import SegLstRow, by_session, checked
from shards.errors import ConfigError, ScoreError
from shards.plugins import load_plugin, plugin_names

GROUP = "formats"
_VAGUE = {"seglst", "raw"}  # formats whose suffixes other systems use too

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
    chosen: Any = _format(kind) if kind in _names() else None
    if not hasattr(chosen, "read"):
        raise ScoreError(f"unknown format {kind!r} to read; known: {', '.join(readable())}")
    reader = getattr(chosen, "read_reference", chosen.read) if side == "reference" else chosen.read
    rows: list[SegLstRow] = []
    place: dict[str, Path] = {}
    for file in files(where, kind):
        found = [checked(row, file) for row in reader(file)]
        for session in dict.fromkeys(row.session for row in found):
            if session in place:
                raise ScoreError(
                    f"session {session} occurs twice, in {place[session]} and {file}; name or keep one file"
                )
            place[session] = file
        rows += found
    return rows


def notes(path: Path, kind: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return session → oddities of the text of a file, for formats that have such notes."""
    chosen = _format(kind or detect(path))
    return dict(chosen.notes(path)) if hasattr(chosen, "notes") else {}


def files(path: Path, kind: str | None = None) -> list[Path]:
    """List the files of a transcript: of a folder all of one format; a folder that is one transcript is returned.

    Raises:
        ScoreError: it does not exist, or no format or several match.
    """
    kind = kind or detect(path)
    chosen = _format(kind)
    if getattr(chosen, "FOLDER", None):
        return [path]
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if path.is_file():
        return [path]
    found = folder_files(path, tuple(chosen.READS))
    if not found:
        raise ScoreError(f"{path} holds no file of format {kind}")
    return found


def detect(path: Path) -> str:
    """Return the format of a file or folder: by suffix, and by content if the suffix is that of several.

    Raises:
        ScoreError: it does not exist, or no format or several match.
    """
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if not path.is_dir():
        kind = _by_suffix(path)
        if kind in (*_VAGUE, None):
            kind = sniffed([path]) or kind
        if not kind:
            suffix = path.suffix or "no suffix"
            raise ScoreError(f"{path}: unknown format ({suffix}); {_name_it()}")
        return kind
    formats = _loadable()
    for name, module in formats.items():
        marker = getattr(module, "FOLDER", None)
        if marker and (path / marker).is_file():
            return name
    suffixes = {suffix: name for name, m in reversed(formats.items()) for suffix in _suffixes(m)}
    chosen = folder_files(path, tuple(suffixes))
    kinds = {suffixes[suffix_of(file, tuple(suffixes))] for file in chosen}
    if kinds <= _VAGUE and (kind := sniffed(chosen)):
        return kind
    if len(kinds) == 1:
        return kinds.pop()
    found = f"files of several formats ({', '.join(sorted(kinds))})" if kinds else "no transcript"
    raise ScoreError(f"{path} holds {found}; {_name_it()}")


def _name_it() -> str:
    return f"name the format with --format ({', '.join(readable())})"


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
    chosen = _format(kind)
    for check in ("check_names", "warn_of_names"):
        if hasattr(chosen, check):
            getattr(chosen, check)(rows, kind.upper())
    written: dict[Path, str] = {}
    for session in texts:
        name = re.sub(r"[/\\\x00]", "_", session)
        if getattr(chosen, "SESSION_IS_FILE", False) and (name != session or not name):
            raise ScoreError(f"{kind.upper()} files are named by session, which {session!r} does not allow; rename it")
        path = folder / (name + chosen.WRITES)
        if path in written:
            raise ScoreError(f"sessions {written[path]} and {session} would both be written to {path}")
        written[path] = session
    folder.mkdir(parents=True, exist_ok=True)
    for path, session in written.items():
        path.write_text(texts[session], encoding="utf-8", newline="")
    return list(written)


def _names() -> Iterator[str]:
    """Yield the project's own formats, then those of entry points, which are only listed if they are needed."""
    own = _own()
    yield from own
    yield from (name for name in plugin_names(GROUP) if name not in own)


@functools.cache
def _own() -> dict[str, Any]:
    """Import the modules of this package, and make formats of texts of other systems: name → format."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    own = {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
    return own | {name: OutputFormat(module.parse) for name, module in outputs().items()}


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


def _suffixes(module: Any) -> tuple[str, ...]:
    """Return the suffixes by which a format is found."""
    return () if getattr(module, "BY_NAME", False) else tuple(getattr(module, "READS", ()))


def _by_suffix(path: Path) -> str | None:
    """Return the first format with the longest suffix that fits; a package is only loaded if no own format fits."""
    best: tuple[int, str | None] = (0, None)
    for name in _names():
        if best[1] is not None and name not in _own():
            break
        fits = [len(s) for s in _suffixes(_format(name)) if path.name.lower().endswith(s)]
        if fits and max(fits) > best[0]:
            best = (max(fits), name)
    return best[1]
