"""Praat TextGrid: one tier per speaker; the session is the file's name."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.records import SegLstRow
from shards.errors import ManifestError, ScoreError
from shards.manifests.textgrid import read_textgrid

READS = (".textgrid",)


def read(path: Path) -> list[SegLstRow]:
    """Read the labelled intervals of all tiers, by start time.

    Raises:
        ScoreError: it is not a TextGrid, or two tiers have the same name.
    """
    try:
        tiers = read_textgrid(path)
    except ManifestError as e:
        raise ScoreError(str(e)) from e
    if len({t.name for t in tiers}) < len(tiers):
        raise ScoreError(f"{path}: invalid TextGrid: two tiers have the same name")
    out = [SegLstRow(path.stem, t.name, i.mark, i.start, i.end) for t in tiers for i in t.intervals if i.mark]
    return sorted(out, key=lambda r: r.start or 0.0)
