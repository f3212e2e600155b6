"""A JSON list of objects with session, speaker, start, end, text."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.evaluation.records import SegLstRow

WRITES = ".json"


def dumps(rows: Sequence[SegLstRow]) -> str:
    """Return rows as JSON; unknown times are null."""
    out = [{"session": r.session, "speaker": r.speaker, "start": r.start, "end": r.end, "text": r.text} for r in rows]
    return json.dumps(out, ensure_ascii=False, indent=1) + "\n"
