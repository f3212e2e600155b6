"""NIST RTTM: speaker turns without words. meeteval reads and writes its lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import numbered_lines, seconds
from pipeline.evaluation.formats.stm import check_names, name_field
from pipeline.evaluation.records import SegLstRow, times_of
from shards.errors import ScoreError

READS = (".rttm",)
WRITES = ".rttm"


def read(path: Path) -> list[SegLstRow]:
    """Read the SPEAKER lines of a file.

    Raises:
        ScoreError: a line is not RTTM; names it.
    """
    from meeteval.io.rttm import RTTMLine

    out = []
    for number, line in numbered_lines(path):
        if line.split()[0] != "SPEAKER":
            continue
        try:
            x = RTTMLine.parse(line, parse_float=float)
        except (ValueError, TypeError, AssertionError) as e:
            raise ScoreError(f"{path}:{number}: not an RTTM line: {line.strip()[:80]!r}") from e
        start, length = (seconds(t, f"{path}:{number}") or 0.0 for t in (x.begin_time, x.duration))
        out.append(SegLstRow(x.filename, x.speaker_id, "", start, round(start + length, 6)))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as RTTM; their words are dropped.

    Raises:
        ScoreError: a row has no times, or two names would be equal when they are read back.
    """
    from meeteval.io.rttm import RTTM, RTTMLine

    check_names(rows, "RTTM")
    lines = []
    for r in rows:
        start, end = times_of(r, "RTTM")
        duration = round(end - start, 6)
        session, speaker = name_field(r.session), name_field(r.speaker)
        lines.append(RTTMLine(filename=session, begin_time=start, duration=duration, speaker_id=speaker))
    return str(RTTM(lines).dumps())
