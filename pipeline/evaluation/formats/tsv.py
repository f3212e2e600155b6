"""Tab-separated values: session, start, end, speaker, text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.evaluation.files import read_text, seconds
from pipeline.evaluation.records import SegLstRow, check_distinct, one_line
from shards.errors import ScoreError

READS = (".tsv",)
WRITES = ".tsv"
HEAD = ("session", "start", "end", "speaker", "text")


def read(path: Path) -> list[SegLstRow]:
    """Read a table with the columns of :data:`HEAD`; an empty time or speaker is unknown.

    Raises:
        ScoreError: another header, or a line with other columns; names it.
    """
    out = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        where, fields = f"{path}:{number}", line.rstrip("\r").split("\t")
        if number == 1 and line.strip() and tuple(fields) != HEAD:
            raise ScoreError(f"{where}: the columns must be {', '.join(HEAD)}, separated by tabs")
        if number == 1 or not line.strip():
            continue
        if len(fields) != len(HEAD):
            raise ScoreError(f"{where}: {len(fields)} columns, not {len(HEAD)}")
        session, start, end, speaker, text = fields
        first, last = (seconds(t or None, where) for t in (start, end))
        out.append(SegLstRow(session, speaker or None, text, first, last))
    return out


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as a table with a header; unknown times are empty.

    Raises:
        ScoreError: two sessions or two speakers would be written with the same name.
    """
    check_names(rows, "TSV")
    lines = ["\t".join(HEAD)]
    for r in rows:
        fields = [r.session, r.start, r.end, r.speaker, r.text]
        lines.append("\t".join("" if f is None else " ".join(str(f).split()) for f in fields))
    return "\n".join(lines) + "\n"


def check_names(rows: Sequence[SegLstRow], kind: str) -> None:
    """Refuse names that differ only in white space.

    Raises:
        ScoreError: two sessions or two speakers do.
    """
    check_distinct((r.session for r in rows), one_line, kind)
    check_distinct((r.speaker for r in rows), one_line, kind)
