"""Transcript files: SegLST, SRT, JSON, TXT.

SegLST and SRT are written by :mod:`pipeline.evaluation.formats`; JSON holds everything, with the raw text of every
chunk; TXT is for reading, in order of time like SegLST and SRT. The JSON says whether times are
estimates or the model's.
speakerlm-score reads each of them, and all of them in one folder, to the same figures.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.evaluation.formats import dumps
from pipeline.evaluation.records import NO_NAME, SegLstRow, in_time_order
from pipeline.transcribe.transcript import Transcript, TranscriptTurn

SUFFIXES = {"seglst": ".seglst.json", "srt": ".srt", "json": ".json", "txt": ".txt"}
FORMATS = tuple(SUFFIXES)


def render(transcript: Transcript, kind: str) -> str:
    """Return a transcript as text of one of :data:`FORMATS`."""
    if kind == "json":
        return _json(transcript)
    if kind == "txt":
        return "".join(f"{line(t)}\n" for t in sorted(transcript.turns, key=lambda t: t.start))
    session = Path(transcript.audio).stem
    turns = [SegLstRow(session, t.speaker, t.text, t.start, t.end) for t in transcript.turns]
    return dumps(in_time_order(turns), kind)


def write_all(transcript: Transcript, folder: Path, kinds: tuple[str, ...] = FORMATS) -> list[Path]:
    """Write ``STEM.srt`` and so on into a folder, each atomically; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in kinds:
        path = folder / (Path(transcript.audio).stem + SUFFIXES[kind])
        part = path.with_name(path.name + ".part")
        part.write_text(render(transcript, kind), encoding="utf-8", newline="")
        part.replace(path)
        paths.append(path)
    return paths


def line(turn: TranscriptTurn) -> str:
    """Return a turn as ``[0:01:02] Mike: hi``."""
    return f"[{clock(turn.start)}] {turn.speaker or NO_NAME}: {' '.join(turn.text.split())}"


def clock(seconds: float) -> str:
    """Return a time as ``1:02:03``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _json(transcript: Transcript) -> str:
    content = {
        "audio": transcript.audio,
        "model": transcript.model,
        "seconds": transcript.seconds,
        "speech_seconds": transcript.speech,
        "complete": transcript.error is None,
        "error": transcript.error,
        "enrolled": list(transcript.names),
        "speakers": transcript.speakers,
        "times": transcript.times,
        "warnings": transcript.warnings,
        "turns": [asdict(t) for t in transcript.turns],
        "chunks": [{k: v for k, v in asdict(c).items() if k != "turns"} for c in transcript.chunks],
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
