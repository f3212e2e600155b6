"""Tab-separated values: session, start, end, speaker, text."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.records import SegLstRow, check_distinct, one_line

WRITES = ".tsv"


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as a table with a header; unknown times are empty.

    Raises:
        ScoreError: two sessions or two speakers would be written with the same name.
    """
    check_names(rows, "TSV")
    lines = ["session\tstart\tend\tspeaker\ttext"]
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
