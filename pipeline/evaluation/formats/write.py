"""Writers: one text a session, or one of all sessions for the formats that hold many.

Formats with white space between fields get speaker names with ``_`` for it. Formats that need times refuse a segment
without them and say which. meeteval writes STM and RTTM.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

SUFFIXES = {
    "seglst": ".json",
    "stm": ".stm",
    "rttm": ".rttm",
    "srt": ".srt",
    "vtt": ".vtt",
    "json": ".json",
    "tsv": ".tsv",
}


def dumps(segments: Sequence[SegLstRow], kind: str) -> str:
    """Segments as text of a format.

    Raises:
        ScoreError: an unknown format, or a segment without times where the format needs them.
    """
    if kind not in _WRITERS:
        raise ScoreError(f"no format {kind!r} to write; there are {', '.join(KINDS)}")
    return _WRITERS[kind](segments)


def write(segments: Sequence[SegLstRow], folder: Path, kind: str) -> list[Path]:
    """Write ``SESSION.suffix`` for each session into a folder; returns the files."""
    sessions: dict[str, list[SegLstRow]] = {}
    for s in segments:
        sessions.setdefault(s.session, []).append(s)
    texts = {session: dumps(found, kind) for session, found in sessions.items()}
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, str] = {}
    for session, text in texts.items():
        path = folder / (re.sub(r"[/\\\x00]", "_", session) + SUFFIXES[kind])
        if path in files:
            raise ScoreError(f"sessions {files[path]} and {session} would both be written to {path}")
        files[path] = session
        path.write_text(text, encoding="utf-8", newline="")
    return list(files)


def _seglst(segments: Sequence[SegLstRow]) -> str:
    rows = []
    for s in segments:
        row: dict[str, object] = {"session_id": s.session, "words": s.text}
        if s.speaker is not None:
            row["speaker"] = s.speaker
        if s.start is not None and s.end is not None:
            row |= {"start_time": s.start, "end_time": s.end}
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _stm(segments: Sequence[SegLstRow]) -> str:
    from meeteval.io.stm import STM, STMLine

    lines = []
    for s in segments:
        start, end = _times(s, "STM")
        lines.append(STMLine(_field(s.session), 1, _field(s.speaker), start, end, _one_line(s.text)))
    return STM(lines).dumps()


def _rttm(segments: Sequence[SegLstRow]) -> str:
    from meeteval.io.rttm import RTTM, RTTMLine

    lines = []
    for s in segments:
        start, end = _times(s, "RTTM")
        lines.append(
            RTTMLine(
                filename=_field(s.session),
                begin_time=start,
                duration=round(end - start, 6),
                speaker_id=_field(s.speaker),
            )
        )
    return RTTM(lines).dumps()


def _srt(segments: Sequence[SegLstRow]) -> str:
    blocks = []
    for i, s in enumerate(_in_order(segments, "SRT"), 1):
        start, end = _times(s, "SRT")
        blocks.append(f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{_caption(s)}\n")
    return "\n".join(blocks)


def _vtt(segments: Sequence[SegLstRow]) -> str:
    blocks = ["WEBVTT\n"]
    for s in _in_order(segments, "VTT"):
        start, end = _times(s, "VTT")
        text = _escape(_one_line(s.text))
        who = f"<v {_escape(_one_line(s.speaker))}>" if s.speaker else ""
        blocks.append(f"{_clock(start, '.')} --> {_clock(end, '.')}\n{who}{text}\n")
    return "\n".join(blocks)


def _json(segments: Sequence[SegLstRow]) -> str:
    rows = [
        {"session": s.session, "speaker": s.speaker, "start": s.start, "end": s.end, "text": s.text} for s in segments
    ]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _tsv(segments: Sequence[SegLstRow]) -> str:
    lines = ["session\tstart\tend\tspeaker\ttext"]
    for s in segments:
        fields = [s.session, s.start, s.end, s.speaker, s.text]
        lines.append("\t".join("" if f is None else " ".join(str(f).split()) for f in fields))
    return "\n".join(lines) + "\n"


def _times(s: SegLstRow, what: str) -> tuple[float, float]:
    if s.start is None or s.end is None:
        raise ScoreError(
            f"session {s.session}: {what} needs times, {s.speaker}: {s.text[:20]!r} has none; write SegLST, JSON or TSV"
        )
    return s.start, s.end


def _in_order(segments: Sequence[SegLstRow], what: str) -> list[SegLstRow]:
    return sorted(segments, key=lambda s: _times(s, what))


def _field(name: str | None) -> str:
    """A name as one field: white space becomes ``_``; nothing becomes ``<NA>``, as RTTM has it."""
    return "_".join((name or "").split()) or "<NA>"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _caption(s: SegLstRow) -> str:
    return f"{_one_line(s.speaker)}: {_one_line(s.text)}" if s.speaker else _one_line(s.text)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    """``00:01:02,345``."""
    total = round(max(0.0, seconds) * 1000)  # captions cannot begin before the recording
    return f"{total // 3_600_000:02d}:{total // 60_000 % 60:02d}:{total // 1000 % 60:02d}{point}{total % 1000:03d}"


_WRITERS: dict[str, Callable[[Sequence[SegLstRow]], str]] = {
    "seglst": _seglst,
    "stm": _stm,
    "rttm": _rttm,
    "srt": _srt,
    "vtt": _vtt,
    "json": _json,
    "tsv": _tsv,
}
KINDS = tuple(_WRITERS)
