"""Tab-separated values: session, start, end, speaker, text."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation.records import SegLstRow

WRITES = ".tsv"


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as a table with a header; unknown times are empty."""
    lines = ["session\tstart\tend\tspeaker\ttext"]
    for r in rows:
        fields = [r.session, r.start, r.end, r.speaker, r.text]
        lines.append("\t".join("" if f is None else " ".join(str(f).split()) for f in fields))
    return "\n".join(lines) + "\n"
