"""Readers. Each gives :class:`~pipeline.evaluation.records.SegLstRow` objects in the order of the file.

=============  ==================================================================================  ====================
kind           what                                                                                told by
=============  ==================================================================================  ====================
``seglst``     JSON list with session_id, speaker, start_time, end_time, words                     ``.json``
``stm``        NIST STM                                                                            ``.stm``
``rttm``       speaker turns without words                                                         ``.rttm``
``textgrid``   Praat; one tier a speaker, the session is the file's name                           ``.TextGrid``
``kaldi``      folder with text, utt2spk and, where there is one, segments                         folder with ``text``
``decoded``    JSON Lines of speakerlm-decode                                                      ``.jsonl``
``raw``        model output; ``.txt`` files, the session is the file's name; or JSON Lines with    ``.txt``, ``.jsonl``
               ``session_id`` or ``key`` and ``raw`` or ``text``
=============  ==================================================================================  ====================

A folder may hold many files of one kind. A leading byte order mark is passed over. Files are UTF-8. meeteval reads
lines of STM and RTTM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.evaluation.decoded_rows import check_times, hypothesis, parsed, reference, rows
from pipeline.evaluation.files import read_json, read_text, seconds
from pipeline.evaluation.records import SegLstRow
from shards.errors import ManifestError, ScoreError
from shards.manifests.textgrid import read_textgrid

SUFFIXES = {
    ".json": "seglst", ".seglst": "seglst", ".stm": "stm", ".rttm": "rttm", ".textgrid": "textgrid", ".txt": "raw",
    ".jsonl": "raw",
}  # fmt: skip


def read(path: Path | str, kind: str | None = None, side: str = "hypothesis") -> list[SegLstRow]:
    """Read a file or a folder of transcripts.

    Args:
        path: what to read.
        kind: one of :data:`KINDS`; told from the name if not given.
        side: which side of decoded JSON Lines: ``reference`` or ``hypothesis``.

    Raises:
        ScoreError: nothing there, an unknown kind, or content that contradicts itself. Names file and line.
    """
    where = Path(path)
    kind = kind or detect(where)
    if kind not in _READERS:
        raise ScoreError(f"no format {kind!r}; there are {', '.join(KINDS)}")
    if kind == "kaldi":
        return _kaldi(where)
    files = _files(where, kind)
    if kind == "raw":
        return [s for f in files for s in _raw(f, side)]
    segments = [s for f in files for s in _READERS[kind](f)]
    for s in segments:
        check_times(s, where)
    return segments


def detect(path: Path) -> str:
    """The kind of a file or folder, by name and content.

    Raises:
        ScoreError: it does not exist or cannot be told.
    """
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if path.is_dir():
        if (path / "text").is_file():
            return "kaldi"
        kinds = {SUFFIXES[f.suffix.lower()] for f in path.iterdir() if f.suffix.lower() in SUFFIXES}
        if len(kinds) == 1:
            return kinds.pop()
        found = f"files of several formats ({', '.join(sorted(kinds))})" if kinds else "no transcript"
        raise ScoreError(f"{path} holds {found}; say which with --format")
    if path.suffix.lower() not in SUFFIXES:
        raise ScoreError(f"{path}: the format cannot be told from {path.suffix or 'the name'}; say it with --format")
    return SUFFIXES[path.suffix.lower()]


def _files(path: Path, kind: str) -> list[Path]:
    if not path.exists():
        raise ScoreError(f"{path} does not exist")
    if path.is_file():
        return [path]
    files = sorted(f for f in path.iterdir() if f.is_file() and SUFFIXES.get(f.suffix.lower()) == kind)
    if not files:
        raise ScoreError(f"{path} holds no file of format {kind}")
    return files


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    """Numbered lines that are neither empty nor comments."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip() and not line.lstrip().startswith(";"):
            yield number, line.rstrip("\r")


def _seglst(path: Path) -> list[SegLstRow]:
    if not read_text(path).strip():
        return []
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ScoreError(f"{path}: SegLST is a list of segments, this is a {type(entries).__name__}")
    out = []
    for i, row in enumerate(entries):
        where = f"{path}: entry {i}"
        if not isinstance(row, dict) or row.get("session_id") is None:
            raise ScoreError(f"{where} is no SegLST segment: it has no session_id")
        words = row.get("words") or ""
        if isinstance(words, list):
            words = " ".join(map(str, words))
        speaker = row.get("speaker")
        if not isinstance(words, str) or not isinstance(speaker, str | int | None):
            raise ScoreError(f"{where}: words must be text and speaker a name, not {words!r} and {speaker!r}")
        start, end = (seconds(row.get(k), where) for k in ("start_time", "end_time"))
        out.append(SegLstRow(str(row["session_id"]), None if speaker is None else str(speaker), words, start, end))
    return out


_STM_LABEL = re.compile(r"^<[^<>\s]*,[^<>\s]*>\s*")  # <o,f0,male>: the optional field of NIST's format, no word


def _stm(path: Path) -> list[SegLstRow]:
    from meeteval.io.stm import STMLine

    out = []
    for number, line in _lines(path):
        try:
            x = STMLine.parse(line, parse_float=float)
        except (ValueError, TypeError) as e:
            raise ScoreError(f"{path}:{number}: not an STM line: {line.strip()[:80]!r}") from e
        if "IGNORE_TIME_SEGMENT_IN_SCORING" in x.transcript.upper():
            raise ScoreError(f"{path}:{number}: time to be ignored is not supported; cut it out of both sides")
        start, end = (seconds(t, f"{path}:{number}") for t in (x.begin_time, x.end_time))
        text = "" if x.transcript == "<NA>" else _STM_LABEL.sub("", x.transcript)
        out.append(SegLstRow(x.filename, x.speaker_id, text, start, end))
    return out


def _rttm(path: Path) -> list[SegLstRow]:
    from meeteval.io.rttm import RTTMLine

    out = []
    for number, line in _lines(path):
        if line.split()[0] != "SPEAKER":
            continue
        try:
            x = RTTMLine.parse(line, parse_float=float)
        except (ValueError, TypeError, AssertionError) as e:
            raise ScoreError(f"{path}:{number}: not an RTTM line: {line.strip()[:80]!r}") from e
        start, length = (seconds(t, f"{path}:{number}") or 0.0 for t in (x.begin_time, x.duration))
        out.append(SegLstRow(x.filename, x.speaker_id, "", start, round(start + length, 6)))
    return out


def _textgrid(path: Path) -> list[SegLstRow]:
    try:
        tiers = read_textgrid(path)
    except ManifestError as e:
        raise ScoreError(str(e)) from e
    if len({t.name for t in tiers}) < len(tiers):
        raise ScoreError(f"{path}: not a TextGrid that can be read: two tiers have the same name")
    out = [SegLstRow(path.stem, t.name, i.mark, i.start, i.end) for t in tiers for i in t.intervals if i.mark]
    return sorted(out, key=lambda s: s.start or 0.0)


def _kaldi(folder: Path) -> list[SegLstRow]:
    """Sessions are the recordings of ``segments``; without that file each utterance is its own session."""
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk")
    if nobody := [u for u, speaker in speakers.items() if not speaker]:
        raise ScoreError(f"{folder / 'utt2spk'}: utterance {nobody[0]} has no speaker")
    if missing := [u for u in texts if u not in speakers]:
        raise ScoreError(f"{folder / 'utt2spk'}: utterance {missing[0]} of text is missing, {len(missing)} in all")
    times = _table(folder / "segments") if (folder / "segments").exists() else {}
    out = []
    for utterance, text in texts.items():
        if not times:
            out.append(SegLstRow(utterance, speakers[utterance].strip(), text))
            continue
        if utterance not in times:
            raise ScoreError(f"{folder / 'segments'}: utterance {utterance} of text is missing")
        try:
            recording, *two = times[utterance].split()[:3]
            start, end = (seconds(t, f"{folder / 'segments'}: {utterance}") for t in two)
        except ValueError as e:
            raise ScoreError(f"{folder / 'segments'}: {utterance} has no recording, start and end") from e
        out.append(SegLstRow(recording, speakers[utterance].strip(), text, start, end))
        check_times(out[-1], folder / "segments")
    return out


def _table(path: Path) -> dict[str, str]:
    """``key rest-of-line`` lines."""
    rows: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if key in rows:
            raise ScoreError(f"{path}:{number}: {key} occurs twice")
        rows[key] = rest[0] if rest else ""
    return rows


def _raw(path: Path, side: str = "hypothesis") -> list[SegLstRow]:
    """Model output: a text file a session, or JSON Lines, which may hold the reference too."""
    if path.suffix.lower() != ".jsonl":
        return list(parsed(path.stem, read_text(path))[0])
    out: list[SegLstRow] = []
    for where, row in rows(path):
        out += reference(row, where) if side == "reference" and "reference" in row else hypothesis(row, where)[0]
    return out


_READERS: dict[str, Callable[[Path], list[SegLstRow]]] = {
    "seglst": _seglst,
    "stm": _stm,
    "rttm": _rttm,
    "textgrid": _textgrid,
    "kaldi": _kaldi,
    "raw": _raw,
}
KINDS = tuple(_READERS)
