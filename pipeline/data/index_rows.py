"""Rows of a dataset as the plan sees them: read from index and token lengths, never from audio."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.data.dialogue_lengths import DIALOGUES, ClipFacts
from pipeline.data.keyed_random import keyed_rng, keyed_uniform
from pipeline.data.lengths import Kind, read_lengths
from pipeline.data.terms import TERMS
from shards.dataset.dataset import Dataset
from shards.errors import PlanError, ShardError
from shards.sample import SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One sample of a dataset, as its index and its lengths describe it."""

    key: str
    shard: int
    row: int
    session: str
    num_samples: int  # audio at 16 kHz
    speakers: tuple[str, ...]  # in order of first appearance
    turns: tuple[int, ...]  # turns of each of them
    text_tokens: int  # of all turns' texts, without names
    asr_tokens: int  # of the same speech as a bare transcript
    language: str = "und"
    facts: ClipFacts | None = None  # of sources for dialogues
    terms: tuple[str, ...] = ()  # of its text, of sources for a line of context

    @property
    def seconds(self) -> float:
        """Audio length."""
        return self.num_samples / SAMPLE_RATE


class DistractorBank(Protocol):
    """Speakers that a sample may get as distractors."""

    @property
    def ids(self) -> Sequence[str]:
        """Global speaker id of every row."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes when the candidates may change."""
        ...

    def candidates(self, exclude_speakers: Collection[str], exclude_sessions: Collection[str] = ()) -> np.ndarray:
        """Rows, ascending, of speakers that are surely not among these and are not in these sessions."""
        ...


class PlanSource(Protocol):
    """A dataset as the plan sees it."""

    name: str
    fingerprint: str  # changes when the data change
    shard_seconds: Sequence[float]
    shard_samples: Sequence[int]
    bank: DistractorBank | None

    def rows(self, shard: int) -> list[IndexRow]:
        """All samples of a shard, in its order."""
        ...

    def earlier(self, session: str, start: float) -> list[IndexRow]:
        """Clips of a session that begin before a time in seconds, the latest first."""
        ...


class DatasetSource:
    """A packed dataset with its lengths for one tokenizer. Reads an index on demand and caches the last few."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer_hash: str,
        lengths_cache: Path | None = None,
        dialogues: bool = False,
        terms: bool = False,
    ) -> None:
        """Read nothing yet; ``dialogues``: rows have facts, and sessions are known; ``terms``: rows have terms."""
        self._dialogues, self._terms = dialogues, terms
        self.dataset = dataset
        self.name = dataset.name
        self.fingerprint = dataset.fingerprint()
        self.shard_seconds: Sequence[float] = [s.seconds for s in dataset.shards]
        self.shard_samples: Sequence[int] = [s.samples for s in dataset.shards]
        self.bank: DistractorBank | None = dataset.speakers
        self._tokenizer_hash = tokenizer_hash
        self._lengths_cache = lengths_cache
        self._cached = lru_cache(maxsize=8)(self._read)

    def rows(self, shard: int) -> list[IndexRow]:
        """All samples of a shard, in its order."""
        return self._cached(shard)

    def earlier(self, session: str, start: float) -> list[IndexRow]:
        """Clips of a session that begin before a time in seconds, the latest first; only of sources for dialogues."""
        found = [(at, shard, row) for at, shard, row in self._sessions.get(session, ()) if at < start]
        return [self.rows(shard)[row] for _, shard, row in sorted(found, reverse=True)]

    @cached_property
    def _sessions(self) -> dict[str, list[tuple[float, int, int]]]:
        """Session → (start, shard, row) of its clips, over all shards."""
        sessions: dict[str, list[tuple[float, int, int]]] = {}
        for shard in range(len(self.dataset.shards)):
            names = self.dataset.index(shard).column("session").to_pylist()
            table = read_lengths(self.dataset, shard, self._tokenizer_hash, self._lengths_cache, DIALOGUES)
            for row, (session, start) in enumerate(zip(names, table.column("start").to_pylist(), strict=True)):
                sessions.setdefault(session, []).append((start, shard, row))
        return sessions

    def _stored(self, shard: int, kind: Kind, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of a table that is stored with a shard, checked to be of its samples."""
        table = read_lengths(self.dataset, shard, self._tokenizer_hash, self._lengths_cache, kind)
        rows: list[dict[str, Any]] = table.to_pylist()
        if list(keys) != [row["key"] for row in rows]:
            raise ShardError(
                f"{self.name}, shard {self.dataset.shards[shard].name}: its table {kind.name} is of other samples; "
                f"delete the .{kind.name}-*.parquet files of this shard and start again"
            )
        return rows

    def _read(self, shard: int) -> list[IndexRow]:
        index = self.dataset.index(shard).select(["key", "session", "language", "num_samples", "speakers"]).to_pydict()
        lengths = read_lengths(self.dataset, shard, self._tokenizer_hash, self._lengths_cache).to_pydict()
        if index["key"] != lengths["key"]:
            raise ShardError(
                f"{self.name}, shard {self.dataset.shards[shard].name}: its token lengths are of other samples; "
                "delete the .lengths-*.parquet files of this shard and start again"
            )
        for key, speakers, turns in zip(index["key"], index["speakers"], lengths["turn_speakers"], strict=True):
            if set(turns) != set(range(len(speakers))):
                raise ShardError(
                    f"{self.dataset.url}/{self.dataset.shards[shard].index}: {key}: has {len(speakers)} speakers, the "
                    f"sample {len(set(turns))}; the index is damaged, run pack again"
                )
        facts = self._stored(shard, DIALOGUES, index["key"]) if self._dialogues else None
        terms = self._stored(shard, TERMS, index["key"]) if self._terms else None
        return [
            IndexRow(
                key=index["key"][i],
                shard=shard,
                row=i,
                session=index["session"][i],
                num_samples=index["num_samples"][i],
                speakers=tuple(index["speakers"][i]),
                turns=tuple(np.bincount(lengths["turn_speakers"][i], minlength=len(index["speakers"][i])).tolist()),
                text_tokens=sum(lengths["text_tokens"][i]),
                asr_tokens=lengths["asr_tokens"][i],
                language=index["language"][i],
                facts=ClipFacts.of(facts[i], tuple(index["speakers"][i])) if facts is not None else None,
                terms=tuple(terms[i]["terms"]) if terms is not None else (),
            )
            for i in range(len(index["key"]))
        ]


class Selection:
    """Which shards and rows of a dataset belong to a run: a subset by hours, less an exclude list.

    The subset takes whole shards in a seeded order, and of the last one rows in a seeded order, until the hours are
    full. Subsets of one seed are nested: 212 h lie inside 694 h. Cost: the list of shards, and rows of one shard.
    """

    def __init__(
        self, source: PlanSource, seed: int, hours: float | None = None, exclude: Collection[str] = ()
    ) -> None:
        self._source = source
        self._seed = seed
        self.exclude = frozenset(exclude)
        self.shards = list(range(len(source.shard_seconds)))
        self._cut: dict[int, frozenset[str]] = {}  # shard → keys kept, where not all are
        self._limit = hours
        if hours is not None:
            self._take(hours * 3600)

    def banned(self) -> frozenset[int]:
        """Rows of the speaker bank that are on the exclude list: no sample gets them as distractors."""
        ids = self._source.bank.ids if self.exclude and self._source.bank else ()
        return frozenset(row for row, speaker in enumerate(ids) if speaker in self.exclude)

    @property
    def hours(self) -> float:
        """Hours of audio that belong to the run; what an exclude list takes away still counts."""
        whole = sum(self._source.shard_seconds[shard] for shard in self.shards) / 3600
        return whole if self._limit is None else min(whole, self._limit)

    def rows(self, shard: int) -> list[IndexRow]:
        """The rows of a shard that belong to the run."""
        rows = self._source.rows(shard)
        kept = self._cut.get(shard)
        if kept is not None:
            rows = [r for r in rows if r.key in kept]
        return [r for r in rows if not self._excluded(r)] if self.exclude else rows

    def _excluded(self, row: IndexRow) -> bool:
        return row.key in self.exclude or row.session in self.exclude or not self.exclude.isdisjoint(row.speakers)

    def _take(self, seconds: float) -> None:
        total = sum(self._source.shard_seconds)
        if seconds > total * 1.001:
            raise PlanError(
                f"dataset {self._source.name}: {seconds / 3600:g} hours wanted, it has {total / 3600:.2f}; lower hours"
            )
        order = keyed_rng(self._seed, "subset", self._source.name).permutation(len(self.shards))
        chosen = []
        for shard in order.tolist():
            if seconds <= 0:
                break
            chosen.append(shard)
            if self._source.shard_seconds[shard] > seconds:
                self._cut[shard] = self._first_rows(shard, seconds)
            seconds -= self._source.shard_seconds[shard]
        self.shards = sorted(chosen)

    def _first_rows(self, shard: int, seconds: float) -> frozenset[str]:
        """Keys of a shard in seeded order until the seconds are full; the one that crosses the line is in."""
        kept = set()
        draw = {r.key: keyed_uniform(self._seed, "subset", self._source.name, r.key) for r in self._source.rows(shard)}
        for row in sorted(self._source.rows(shard), key=lambda r: draw[r.key]):
            if seconds <= 0:
                break
            kept.add(row.key)
            seconds -= row.seconds
        return frozenset(kept)


def read_exclude_list(path: str | Path) -> frozenset[str]:
    """Read keys, sessions and speakers, one per line; ``#`` begins a comment.

    Raises:
        PlanError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise PlanError(f"exclude list {path}: {e.strerror or e}; correct data.train[].exclude") from e
    except UnicodeDecodeError as e:
        raise PlanError(f"exclude list {path}: not UTF-8 ({e}); write it as UTF-8") from e
    return frozenset(text for line in lines if (text := line.split("#", 1)[0].strip()))
