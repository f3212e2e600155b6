"""SubRip captions (SRT), with the speaker before the text: ``Mike: hello``. The session is the file's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import captions, file_session
from pipeline.evaluation.records import (
    NO_NAME,
    SegLstRow,
    check_distinct_speakers,
    labelled,
    one_line,
    split_label,
    times_of,
)
from shards.errors import ScoreError

READS = (".srt",)
WRITES = ".srt"
SESSION_IS_FILE = True

_TIMES = re.compile(r"(\d{1,6}):(\d\d):(\d\d)[,.](\d{1,3})\s*-->\s*(\d{1,6}):(\d\d):(\d\d)[,.](\d{1,3})(?:\s.*)?")


def read(path: Path) -> list[SegLstRow]:
    """Read the captions of a file. Up to 64 characters before the first colon and space are the speaker.

    Raises:
        ScoreError: text outside a caption, or invalid times; names the line.
    """
    out = []
    for start, end, lines in captions(path, _TIMES):
        speaker, text = split_label(one_line(" ".join(lines)))
        out.append(SegLstRow(file_session(path, READS), speaker, text, start, end))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as numbered captions in order of start time.

    Raises:
        ScoreError: a row has no times, or a speaker that cannot be read back.
    """
    check_names(rows, "SRT")
    blocks = []
    for i, r in enumerate(sorted(rows, key=lambda r: times_of(r, "SRT")[0]), 1):
        start, end = times_of(r, "SRT")
        blocks.append(f"{i}\n{timestamp(start, ',')} --> {timestamp(end, ',')}\n{labelled(r.speaker, r.text)}\n")
    return "\n".join(blocks)


def check_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Refuse speakers that cannot be read back.

    Raises:
        ScoreError: two of a session differ only in white space, or one is not read back as it is.
    """
    check_distinct_speakers(rows, one_line, kind)
    for speaker in dict.fromkeys(r.speaker for r in rows if r.speaker):
        if split_label(labelled(speaker, "")) != (one_line(speaker), ""):
            raise ScoreError(
                f"{kind} cannot hold the speaker {speaker!r}: a colon, more than 64 characters, or {NO_NAME!r}; "
                "rename it, or write SegLST"
            )


def timestamp(seconds: float, point: str) -> str:
    """Return ``00:01:02,345``."""
    total = round(max(0.0, seconds) * 1000)  # captions cannot begin before the recording
    return f"{total // 3_600_000:02d}:{total // 60_000 % 60:02d}:{total // 1000 % 60:02d}{point}{total % 1000:03d}"
