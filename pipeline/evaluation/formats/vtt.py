"""WebVTT captions with voice tags. The session is the file's name."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import captions, file_session
from pipeline.evaluation.formats.srt import timestamp
from pipeline.evaluation.records import SegLstRow, check_distinct_speakers, one_line, times_of

READS = (".vtt",)
WRITES = ".vtt"
SESSION_IS_FILE = True

_TIMES = re.compile(r"(?:(\d{1,6}):)?(\d\d):(\d\d)\.(\d{3})\s*-->\s*(?:(\d{1,6}):)?(\d\d):(\d\d)\.(\d{3})(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^>]*)>")
_TAG = re.compile(r"<[^>]*>")


def read(path: Path) -> list[SegLstRow]:
    """Read the captions of a file; a voice tag names the speaker, other tags are dropped.

    Raises:
        ScoreError: text outside a caption, or invalid times; names the line.
    """
    out = []
    for start, end, lines in captions(path, _TIMES):
        content = " ".join(lines)
        tagged = content.rfind(">") + 1  # behind it no tag ends
        voice = _VOICE.search(content, 0, tagged)
        speaker = html.unescape(voice[1]).strip() if voice else None
        text = one_line(html.unescape(_TAG.sub("", content[:tagged]) + content[tagged:]))
        out.append(SegLstRow(file_session(path, READS), speaker, text, start, end))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as captions in order of start time.

    Raises:
        ScoreError: a row has no times, or two speakers would be written with the same name.
    """
    check_names(rows, "VTT")
    blocks = ["WEBVTT\n"]
    for r in sorted(rows, key=lambda r: times_of(r, "VTT")[0]):
        start, end = times_of(r, "VTT")
        voice = f"<v {_escape(one_line(r.speaker))}>" if r.speaker else ""
        text = voice + _escape(one_line(r.text))
        blocks.append(f"{timestamp(start, '.')} --> {timestamp(end, '.')}\n{text}\n")
    return "\n".join(blocks)


def check_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Refuse speakers of a session that differ only in white space.

    Raises:
        ScoreError: two do.
    """
    check_distinct_speakers(rows, one_line, kind)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
