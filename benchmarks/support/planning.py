"""An in-memory dataset and a tokenizer of characters, for tests of the plan that touch no file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.data.dialogue_lengths import counted_kinds
from pipeline.data.index_rows import DatasetSource, IndexRow
from pipeline.data.lengths import build_lengths
from pipeline.data.plan import Plan
from pipeline.data.planned import GlobalStep, PlannedSample, PlanSettings
from pipeline.data.token_counter import TokenCounter
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.recipe.schema import DataConfig, DatasetConfig, RegistrationConfig
from shards.dataset.dataset import Dataset
from shards.sample import SAMPLE_RATE


class CharTokenizer:
    """One token per character."""

    prefix = (1, 2, 3)
    suffix = (4, 5)
    hash = "characters"

    def encode_piece(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    encode_common = encode_piece


@dataclass
class FakeBank:
    """Voices without vectors."""

    ids: Sequence[str]

    @property
    def fingerprint(self) -> str:
        return " ".join(self.ids)

    def candidates(self, exclude_speakers: Collection[str], exclude_sessions: Collection[str] = ()) -> np.ndarray:
        return np.array([i for i, s in enumerate(self.ids) if s not in exclude_speakers], dtype=np.int64)


@dataclass
class FakeSource:
    """A dataset that exists as rows alone; remembers which shards were asked for."""

    name: str
    shards: list[list[IndexRow]]
    bank: FakeBank | None
    fingerprint: str = "made"
    asked: list[int] = field(default_factory=list)

    @property
    def shard_seconds(self) -> list[float]:
        return [sum(r.seconds for r in rows) for rows in self.shards]

    @property
    def shard_samples(self) -> list[int]:
        return [len(rows) for rows in self.shards]

    def rows(self, shard: int) -> list[IndexRow]:
        self.asked.append(shard)
        return self.shards[shard]


def make_source(
    samples: int,
    per_shard: int = 10,
    name: str = "made",
    seconds: tuple[float, float] = (1.0, 8.0),
    speakers: int = 12,
    seed: int = 0,
) -> FakeSource:
    """Rows with random lengths, one to three speakers each out of ``speakers``."""
    rng = np.random.default_rng(seed)
    bank = [f"{name}:S{i}" for i in range(speakers)]
    rows = []
    for i in range(samples):
        who = rng.choice(speakers, min(speakers, int(rng.integers(1, 4))), replace=False)
        turns = rng.integers(1, 4, len(who))
        rows.append(
            IndexRow(
                key=f"{name}-{i:04d}",
                shard=i // per_shard,
                row=i % per_shard,
                session=f"{name}-session-{i // 5}",
                num_samples=int(rng.uniform(*seconds) * SAMPLE_RATE),
                speakers=tuple(bank[j] for j in who),
                turns=tuple(turns.tolist()),
                text_tokens=int(rng.integers(5, 40)) + int(turns.sum()) - 1,  # a line end each but the last
                asr_tokens=int(rng.integers(5, 40)),
            )
        )
    shards = [rows[i : i + per_shard] for i in range(0, samples, per_shard)]
    return FakeSource(name, shards, FakeBank(bank))


def make_data(**settings: object) -> DataConfig:
    """Small budgets and few distractors, unless set otherwise."""
    base: dict[str, object] = {
        "micro_batches_per_step": 4,
        "max_positions": 900,
        "max_frames": 800,
        "window_shards": 2,
        "registration": RegistrationConfig(max_distractors=5),
    }
    return DataConfig(**(base | settings))  # type: ignore[arg-type]


def make_plan(
    *sources: FakeSource,
    shares: Sequence[DatasetConfig] | None = None,
    data: DataConfig | None = None,
    registration: bool = True,
    epochs: int | None = 1,
    modes: tuple[Mode, ...] | None = None,
    seed: int = 1,
) -> Plan:
    """A plan over in-memory datasets."""
    settings = PlanSettings(
        seed=seed,
        registration=registration,
        stride=2,
        tokenizer=CharTokenizer.hash,
        data=data or make_data(),
        epochs=epochs,
        modes=modes,
    )
    return Plan(
        sources, shares or [DatasetConfig(path=s.name) for s in sources], settings, TokenCounter(CharTokenizer())
    )


def samples_of(steps: Sequence[GlobalStep]) -> list[PlannedSample]:
    """All planned samples, in order."""
    return [p for s in steps for b in s.micro_batches if b is not None for p in b.samples]


def packed_plan(
    datasets: Sequence[Dataset],
    tokenizer: PromptTokenizer,
    *,
    data: DataConfig | None = None,
    registration: bool = True,
    epochs: int | None = 1,
    modes: tuple[Mode, ...] | None = None,
) -> Plan:
    """A plan over packed datasets, whose lengths are built where they are missing."""
    data = data or make_data()
    terms = data.context.share > 0
    for dataset in datasets:
        for kind in counted_kinds((), terms):
            build_lengths(dataset, tokenizer, kind=kind)
    settings = PlanSettings(1, registration, 2, tokenizer.hash, data, epochs, modes)
    sources = [DatasetSource(d, tokenizer.hash, terms=terms) for d in datasets]
    return Plan(sources, [DatasetConfig(path=d.url) for d in datasets], settings, TokenCounter(tokenizer))
