"""Terms of a sample's own text that a line of context may name, such as names and rare words.

They are found once for a dataset and stored with its shards as token lengths are (lengths.py), in
``shards/NAME-000000.terms-<tokenizer hash>-<shard hash>-1.parquet``: a plan reads no text. A term is spelt as in the
target.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.data.keyed_random import keyed_rng, keyed_seed, keyed_uniform
from pipeline.data.lengths import Kind, Tokenizer
from pipeline.prompts import UNSPACED, clean_text

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = "1"
MOST = 24  # terms of a sample: the rarest ones
LONGEST = 3  # words of a term
CUT = (2, 5)  # characters of a term in a script without spaces: least and most
_UNIT = re.compile(f"[{UNSPACED}]+|[^\\W_{UNSPACED}]+(?:['’.&-][^\\W_{UNSPACED}]+)*")
_IS_UNSPACED = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a text, or some characters of a script without spaces."""

    text: str
    start: int  # characters from the text's start
    end: int

    @property
    def id(self) -> str:
        """What it is counted as."""
        return self.text.casefold()


def find_terms(key: str, texts: Sequence[str], frequency: Counter[str]) -> list[str]:
    """Find the terms of a sample: its rarest words, at most half of its distinct ones; neighbours may be joined.

    Args:
        key: of the sample, and of what is drawn.
        texts: of its segments.
        frequency: number of the shard's samples that each word is in.
    """
    lines = [list(_words(key, clean_text(text))) for text in texts]
    distinct = {word.id for line in lines for word in line if any(map(str.isalpha, word.text))}
    ranked = sorted(distinct, key=lambda word: (frequency[word], keyed_seed(key, "term", word)))
    rare = set(ranked[: min(MOST, -(-len(ranked) // 2))])
    found: dict[str, None] = {}
    for line, text in zip(lines, texts, strict=True):
        found |= dict.fromkeys(_joined(key, line, clean_text(text), rare))
    return list(found)[:MOST]


def document_frequency(samples: Sequence[tuple[str, Sequence[str]]]) -> Counter[str]:
    """Count, for each word, the samples that it is in; a sample is its key and its texts."""
    counts: Counter[str] = Counter()
    for key, texts in samples:
        counts.update({word.id for text in texts for word in _words(key, clean_text(text))})
    return counts


def _words(key: str, text: str) -> Iterator[_Word]:
    """Words of a text; runs without spaces are cut into pieces whose lengths are drawn."""
    for run in _UNIT.finditer(text):
        if not _IS_UNSPACED.match(run[0]):
            yield _Word(run[0], run.start(), run.end())
            continue
        rng, at = keyed_rng(key, "cut", run[0]), 0
        while at < len(run[0]):
            size = int(rng.integers(CUT[0], CUT[1] + 1))
            piece = run[0][at : at + size]
            if len(piece) >= CUT[0]:
                yield _Word(piece, run.start() + at, run.start() + at + len(piece))
            at += size


def _joined(key: str, line: Sequence[_Word], text: str, rare: set[str]) -> Iterator[str]:
    """Rare words of a line; half of those that only a space separates are joined to one term."""
    start, end, words = 0, -2, 0
    for word in line:
        if word.id not in rare:
            continue
        joins = word.start == end + 1 and text[end] == " " and words < LONGEST
        if joins and keyed_uniform(key, "join", word.start) < 0.5:
            end, words = word.end, words + 1
            continue
        if words:
            yield text[start:end]
        start, end, words = word.start, word.end, 1
    if words:
        yield text[start:end]


def _count(metas: list[dict[str, Any]], _: Tokenizer) -> pa.Table:
    import pyarrow as pa

    samples = [(meta["key"], [s["text"] for s in meta["segments"]]) for meta in metas]
    frequency = document_frequency(samples)
    rows = [{"key": key, "terms": find_terms(key, texts, frequency)} for key, texts in samples]
    return pa.Table.from_pylist(rows, schema=_schema())


def _schema() -> pa.Schema:
    import pyarrow as pa

    terms = pa.field("terms", pa.list_(pa.string()), nullable=False)
    return pa.schema([pa.field("key", pa.string(), nullable=False), terms])


TERMS = Kind("terms", VERSION, _count, _schema)
