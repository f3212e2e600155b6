"""NIST RTTM: speaker turns without words. meeteval writes its lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import numbered_lines
from pipeline.evaluation.formats.stm import check_names, name_field, warn_of_names
from pipeline.evaluation.records import SegLstRow, times_of
from shards.errors import ManifestError, ScoreError
from shards.manifests.nist_lines import parse_rttm

READS = (".rttm",)
WRITES = ".rttm"
__all__ = ["check_names", "dumps", "read", "warn_of_names"]


def read(path: Path) -> list[SegLstRow]:
    """Read the SPEAKER lines of a file.

    Raises:
        ScoreError: a line is not RTTM; names it.
    """
    out = []
    for number, line in numbered_lines(path):
        try:
            x = parse_rttm(line)
        except ManifestError as e:
            raise ScoreError(f"{path}:{number}: {e}") from e
        if x is not None:
            out.append(SegLstRow(x.session, x.speaker, "", x.start, x.end))
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
