"""Facts of a dataset's samples that dialogues are planned from: times, speakers and the tokens of words, not the words.

They are counted once for a dataset and tokenizer and stored with its shards, as token lengths are (lengths.py), in
``shards/NAME-000000.dialogue-<tokenizer hash>-<shard hash>-1.parquet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.lengths import LENGTHS, Kind, Tokenizer
from pipeline.data.terms import TERMS
from pipeline.prompts import words_text
from pipeline.stages import Task
from shards.sample import Segment

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "1"


@dataclass(frozen=True, slots=True)
class TimedSegment:
    """A segment without its words."""

    speaker: str  # global id
    start: float  # seconds from the start of the clip
    end: float
    tokens: int  # of its words as they end a line


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """A clip as a dialogue is planned from it."""

    language: str
    start: float  # of the clip in its session, seconds
    genders: dict[str, str]  # speaker id → gender, without the unknown ones
    segments: tuple[TimedSegment, ...]

    @classmethod
    def of(cls, row: dict[str, Any], speakers: tuple[str, ...]) -> ClipFacts:
        """Read a row of the table; ``speakers`` of the sample in the index's order."""
        known = {s: g for s, g in zip(speakers, row["genders"], strict=True) if g}
        columns = (row[name] for name in ("segment_speakers", "starts", "ends", "tokens"))
        segments = tuple(TimedSegment(speakers[i], a, b, n) for i, a, b, n in zip(*columns, strict=True))
        return cls(row["language"], row["start"], known, segments)


def _count(metas: list[dict[str, Any]], tokenizer: Tokenizer) -> pa.Table:
    import pyarrow as pa

    rows = []
    for meta in metas:
        segments = [Segment(**s) for s in meta["segments"]]
        place = {s: i for i, s in enumerate(meta["speakers"])}
        genders = meta.get("genders", {})
        rows.append(
            {
                "key": meta["key"],
                "language": meta["language"],
                "start": meta["start"],
                "genders": [genders.get(s) for s in meta["speakers"]],
                "segment_speakers": [place[s.speaker] for s in segments],
                "starts": [s.start for s in segments],
                "ends": [s.end for s in segments],
                "tokens": [len(tokenizer.encode_piece(words_text(s.text))) for s in segments],
            }
        )
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("language", pa.string(), nullable=False),
            pa.field("start", pa.float64(), nullable=False),
            pa.field("genders", pa.list_(pa.string()), nullable=False),
            pa.field("segment_speakers", pa.list_(pa.int16()), nullable=False),
            pa.field("starts", pa.list_(pa.float64()), nullable=False),
            pa.field("ends", pa.list_(pa.float64()), nullable=False),
            pa.field("tokens", pa.list_(pa.int32()), nullable=False),
        ]
    )


DIALOGUES = Kind("dialogue", VERSION, _count, _schema)


def counted_kinds(tasks: Sequence[Task], context: bool = False) -> tuple[Kind, ...]:
    """Return what must be counted of a dataset for a stage with these tasks; ``context``: prompts name terms."""
    return (LENGTHS, *[DIALOGUES] * bool(tasks), *[TERMS] * context)
