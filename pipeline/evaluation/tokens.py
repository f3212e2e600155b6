"""Normalised tokens of SegLST rows, and the token streams that error rates compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.evaluation.edit_distance import Edits
from pipeline.evaluation.normalize import Profile
from pipeline.evaluation.records import SegLstRow, in_time_order

TokenisedRows = Sequence[tuple[SegLstRow, list[str]]]
Streams = dict[str | None, list[str]]  # speaker → tokens in time order


class Tokens:
    """Tokenizer of a profile; caches each distinct text."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.seen: dict[str, list[str]] = {}

    def rows(self, rows: Iterable[SegLstRow]) -> list[tuple[SegLstRow, list[str]]]:
        """Return rows in time order with their tokens."""
        return [(r, self(r.text)) for r in in_time_order(rows)]

    def __call__(self, text: str) -> list[str]:
        if text not in self.seen:
            self.seen[text] = self.profile.tokens(text)
        return self.seen[text]


def streams(rows: Iterable[tuple[SegLstRow, list[str]]]) -> Streams:
    """Concatenate the tokens of each speaker, in the given order."""
    joined: Streams = {}
    for row, tokens in rows:
        joined.setdefault(row.speaker, []).extend(tokens)
    return joined


def named_streams(joined: Streams) -> dict[str, list[str]]:
    """Return the streams that have a speaker."""
    return {k: v for k, v in joined.items() if k is not None}


def unattributed_edits(reference: Streams, hypothesis: Streams) -> Edits:
    """Count the text without a speaker: all of it is an error in cpCER and saCER."""
    missed = len(reference.get(None, []))
    return Edits(insertions=len(hypothesis.get(None, [])), deletions=missed, reference=missed)
