"""Small synthetic datasets, packed by the real writer: tones and noise for speech, random unit vectors for speakers."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.writer import write_dataset_json, write_shard
from shards.sample import SAMPLE_RATE, Sample, Segment
from shards.sound.audio import encode_flac
from shards.storage.local import LocalStorage

TEXTS = ("今天下午开会", "你好", "我们先讨论第一个问题", "good morning everyone", "可以的没有问题", "好")
SPEAKERS_SCHEMA = pa.schema(
    [
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("gender", pa.string()),
        pa.field("person", pa.string()),
        pa.field("sessions", pa.list_(pa.string()), nullable=False),
        pa.field("num_clips", pa.int32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),
    ]
)


def make_dataset(
    folder: Path,
    *,
    samples: int,
    speakers_per_sample: tuple[int, int] = (1, 4),
    seconds: tuple[float, float] = (1.0, 3.0),
    samples_per_shard: int = 8,
    texts: Sequence[str] = TEXTS,
    seed: int = 0,
    dim: int = 192,
    pool_size: int | None = None,
    sessions: bool = False,
) -> Dataset:
    """Write a synthetic dataset to `folder` and open it.

    Ranges are inclusive. Speakers come from a pool of ``pool_size``, else of three times the largest number per sample
    (at least 8), all of them in the speaker bank. ``dim=0`` makes a dataset without embeddings and without a bank, as
    for plain ASR. With ``sessions``, the four samples of a session follow one another in it.
    """
    rng = np.random.default_rng(seed)
    pool = [f"synthetic:S{i:03d}" for i in range(pool_size or max(8, 3 * speakers_per_sample[1]))]
    vectors = _unit(rng.standard_normal((len(pool), dim))) if dim else None
    name = "synthetic"
    made = [make_sample(i, rng, pool, vectors, speakers_per_sample, seconds, texts) for i in range(samples)]
    if sessions:
        made = [replace(sample, start=float(i % 4) * seconds[1]) for i, sample in enumerate(made)]
    storage = LocalStorage(folder)
    infos = [
        write_shard(storage, f"{name}-{first // samples_per_shard:06d}", made[first : first + samples_per_shard])
        for first in range(0, samples, samples_per_shard)
    ]
    if vectors is not None:
        write_bank(storage, pool, vectors, made)
    provenance = {"extractor": "random" if dim else None, "extractor_sha256": None, "extractor_dim": dim, "seed": seed}
    write_dataset_json(storage, name, infos, provenance)
    return open_dataset(folder)


def make_sample(
    number: int,
    rng: np.random.Generator,
    pool: Sequence[str],
    vectors: np.ndarray | None,
    speakers_per_sample: tuple[int, int] = (1, 4),
    seconds: tuple[float, float] = (1.0, 3.0),
    texts: Sequence[str] = TEXTS,
) -> Sample:
    """One synthetic sample: a tone per turn, its pitch set by the speaker, over noise; speakers take turns."""
    who = rng.choice(len(pool), rng.integers(speakers_per_sample[0], speakers_per_sample[1] + 1), replace=False)
    num_samples = int(rng.uniform(*seconds) * SAMPLE_RATE)
    turns = [int(s) for s in who] + [int(rng.choice(who)) for _ in range(int(rng.integers(0, 3)))]
    bounds = np.linspace(0, num_samples, len(turns) + 1).astype(int)
    wave = 0.01 * rng.standard_normal(num_samples)
    segments = []
    for turn, (begin, end) in zip(turns, itertools.pairwise(bounds), strict=True):
        time = np.arange(end - begin) / SAMPLE_RATE
        wave[begin:end] += 0.3 * np.sin(2 * np.pi * (120 + 15 * turn) * time)
        text = texts[int(rng.integers(len(texts)))]
        segments.append(Segment(pool[turn], round(begin / SAMPLE_RATE, 3), round(end / SAMPLE_RATE, 3), text))
    sample = Sample(
        key=f"synthetic-{number:05d}",
        corpus="synthetic",
        split="train",
        session=f"synthetic-session-{number // 4:03d}",
        language="zh",
        start=0.0,
        num_samples=num_samples,
        segments=tuple(segments),
        audio=encode_flac(wave),
    )
    if vectors is None:
        return sample
    rows = vectors[[pool.index(s) for s in sample.speakers]]
    heard = _unit(rows + 0.2 / np.sqrt(rows.shape[1]) * rng.standard_normal(rows.shape))
    return sample.with_embeddings(heard.astype(np.float16))


def write_bank(storage: LocalStorage, pool: Sequence[str], vectors: np.ndarray, samples: Sequence[Sample]) -> None:
    """``speakers.parquet`` and ``speakers.npy``, row for row."""
    rows = []
    for speaker in pool:
        heard = [s for s in samples if speaker in s.speakers]
        spoken = sum(g.end - g.start for s in heard for g in s.segments if g.speaker == speaker)
        rows.append(
            {
                "speaker": speaker,
                "corpus": "synthetic",
                "language": "zh",
                "gender": None,
                "person": speaker,
                "sessions": sorted({s.session for s in heard}),
                "num_clips": len(heard),
                "seconds": spoken,
            }
        )
    parquet, npy = io.BytesIO(), io.BytesIO()
    np.save(npy, vectors.astype(np.float16))
    metadata = {"vectors_sha256": hashlib.sha256(npy.getvalue()).hexdigest()}
    pq.write_table(pa.Table.from_pylist(rows, schema=SPEAKERS_SCHEMA).replace_schema_metadata(metadata), parquet)
    storage.write_atomic("speakers.npy", npy.getvalue())
    storage.write_atomic("speakers.parquet", parquet.getvalue())


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
