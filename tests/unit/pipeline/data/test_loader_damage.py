"""Damage of shards, seen through the loader: an error that names the place, or a counted replacement; no sample less.

An epoch under damage is held against the same epoch undamaged: as many steps and micro-batches, and in each of them
every planned sample is loaded, or is listed as bad; where a spare took its place the number is the same as well.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from pipeline.data.loader import Loader, SampleReader
from pipeline.prompts import Mode, PromptTokenizer
from pipeline.train.stage_data import with_warnings
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.index import index_from_bytes, index_to_bytes
from shards.dataset.reader import read_sample
from shards.errors import DataError, ShardError
from shards.sound.audio import decode, encode_flac
from tests.support.damage import Damage, packed_with
from tests.support.datasets import make_dataset
from tests.support.planning import packed_plan
from tests.support.tiny import TEXTS, make_tokenizer

pytestmark = pytest.mark.timeout(120)
SAMPLES, PER_SHARD = 24, 8
BAD = f"synthetic-{PER_SHARD + 2:05d}"  # row 2 of shard 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "d", samples=SAMPLES, samples_per_shard=PER_SHARD)


@pytest.fixture
def dataset(whole, tmp_path):
    """A dataset that a test may spoil."""
    shutil.copytree(whole.url, tmp_path / "d")
    return open_dataset(tmp_path / "d")


def keys(shards) -> set[str]:
    return {f"synthetic-{s * PER_SHARD + i:05d}" for s in shards for i in range(PER_SHARD)}


def epoch(dataset, tokenizer, plan=None, **how):
    plan = plan or packed_plan([dataset], tokenizer, modes=how.pop("modes", None))
    return list(Loader(plan, SampleReader([dataset], tokenizer, 2, 192), **how))


def nothing_is_lost(dataset: Dataset, tokenizer, bad: set[str], modes=None, **how) -> list[str]:
    """Load an epoch in which exactly these samples are bad; returns the reasons, one a fault."""
    planned = [b for s in packed_plan([dataset], tokenizer, modes=modes) for b in s.micro_batches if b]
    steps = epoch(dataset, tokenizer, modes=modes, **how)
    loaded = [b for s in steps for b in s.micro_batches][: len(planned)]
    faults = [f for s in steps for f in s.replaced]
    assert sorted(p.key for b in planned for p in b.samples) == sorted(keys(range(3)))
    assert {f.key for f in faults} == bad
    replaced = 0
    for wanted, got in zip(planned, loaded, strict=True):
        mine = Counter(p.key for p in wanted.samples if p.key not in bad)
        assert Counter(got.keys) >= mine, "a whole sample is missing"
        replaced += (Counter(got.keys) - mine).total()
    assert sum(len(b.keys) for b in loaded) == SAMPLES - len(bad) + replaced
    assert {k for b in loaded for k in b.keys} == keys(range(3)) - bad
    listed = steps[-1].state["replaced"]
    assert [(r["key"], r["reason"]) for r in listed] == [(f.key, f.reason) for f in faults]
    return [f.reason for f in faults]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("how", "lost"),
    [
        ("cut_at_member_boundary", 6), ("cut_between_members_of_a_sample", 6), ("cut_in_header", 6),
        ("cut_in_payload", 6), ("flip_payload_byte", 1), ("flip_json_byte", 1), ("flip_header_byte", 0),
    ],
)  # fmt: skip
def test_a_tar_that_is_cut_or_flipped(dataset, tokenizer, how, lost, workers):
    """A header is not read, so its damage costs nothing; ``verify`` tells it."""
    packed_plan([dataset], tokenizer)  # counts the tokens while the tar is whole
    getattr(Damage(dataset, 1, 2), how)()
    bad = {f"synthetic-{PER_SHARD + 2 + i:05d}" for i in range(lost)}
    for reason in nothing_is_lost(dataset, tokenizer, bad, workers=workers):
        assert "synthetic-000001.tar" in reason
        assert any(key in reason for key in bad)


def test_a_replaced_sample_is_warned_about(dataset, tokenizer, caplog):
    packed_plan([dataset], tokenizer)
    Damage(dataset, 1, 2).flip_payload_byte()
    plan = packed_plan([dataset], tokenizer)
    steps = list(with_warnings(iter(Loader(plan, SampleReader([dataset], tokenizer, 2, 192)))))
    (fault,) = {f for s in steps for f in s.replaced}
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == sum(len(s.replaced) for s in steps)
    assert f"{BAD} of synthetic replaced: {fault.reason}" in lines[0]
    assert len(steps) == len(epoch(dataset, tokenizer))


def test_swapped_tars(dataset, tokenizer):
    packed_plan([dataset], tokenizer)
    Damage(dataset, 0, 0).swap_with(1)
    reasons = nothing_is_lost(dataset, tokenizer, keys([0, 1]))
    assert all("crc32" in r or "tar is truncated" in r or "are outside" in r for r in reasons)


def test_tokens_of_a_shard_that_is_damaged_are_not_counted(dataset, tokenizer):
    Damage(dataset, 1, 2).cut_at_member_boundary()
    with pytest.raises(ShardError, match=rf"synthetic-000001\.tar: {BAD}\.json"):
        packed_plan([dataset], tokenizer)


def test_swapped_indexes_stop_the_run(dataset, tokenizer):
    packed_plan([dataset], tokenizer)
    a, b = (dataset.storage.local_path(dataset.shards[i].index) for i in (0, 1))
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(ShardError, match=r"synthetic-00000[01]\.parquet: describes shard"):
        epoch(open_dataset(dataset.url), tokenizer)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("flac_offset", -5, "are outside a tar"), ("flac_offset", 10**15, "are outside a tar"),
        ("json_length", 10**15, "are outside a tar"), ("npy_length", 3, "crc32"), ("flac_crc32", 1, "crc32"),
        ("num_samples", 20_000, "the index is of another sample"),
        ("speakers", list, "the index has speakers"), ("session", "elsewhere", "the index has session 'elsewhere'"),
    ],
)  # fmt: skip
def test_an_index_that_disagrees(dataset, tokenizer, column, value, reason):
    packed_plan([dataset], tokenizer)
    path = dataset.shards[1].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    rows = table.to_pylist()
    rows[2][column] = rows[2][column][::-1] if value is list else value  # a list: in another order
    assert value is not list or len(rows[2][column]) > 1
    edited = pa.Table.from_pylist(rows, schema=table.schema)
    dataset.storage.write_atomic(path, index_to_bytes(edited, record))
    found = nothing_is_lost(open_dataset(dataset.url), tokenizer, {BAD})
    assert found
    for text in found:
        assert reason in text
        assert "synthetic-000001.tar" in text
        assert BAD in text


def flac(wave, rate=16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


SPOILED = {
    "no flac": (lambda a: b"RIFF" + a[4:], "do not decode"),
    "half of it": (lambda a: a[: len(a) // 2], ""),
    "wrong rate": (lambda a: flac(decode(a), 8_000), "8000 Hz"),
    "stereo": (lambda a: flac(np.stack([decode(a)] * 2, 1)), "2 channels"),
    "shorter": (lambda a: encode_flac(decode(a)[:-100]), "planned were"),
    "empty": (lambda _: b"", "0 bytes do not decode"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_audio_that_is_not_a_sample_s(dataset, tokenizer, how):
    spoil, reason = SPOILED[how]
    made = packed_with(dataset, BAD, audio=spoil(read_sample(dataset, 1, 2).audio))
    for text in nothing_is_lost(made, tokenizer, {BAD}):
        assert "AudioError" in text
        assert f"synthetic-000001.tar: {BAD}" in text
        assert reason in text


def test_an_embedding_that_is_not_finite(dataset, tokenizer):
    vectors = read_sample(dataset, 1, 2).embeddings.copy()
    vectors[0, 7] = np.nan
    made = packed_with(dataset, BAD, embeddings=vectors)
    for text in nothing_is_lost(made, tokenizer, {BAD}, modes=(Mode.MATCH,)):
        assert "SpeakerError" in text
        assert f"{BAD}: a speaker vector is not finite" in text


@pytest.mark.parametrize("segments", ["one without text", "none"])
def test_empty_text_is_a_sample_like_others(dataset, tokenizer, segments):
    """Silence is a transcript too: it costs its labels and the end of the turn, and is loaded."""
    there = read_sample(dataset, 1, 2).segments
    made = packed_with(dataset, BAD, segments=tuple(replace(s, text="") for s in there) if segments != "none" else (),
                       embeddings=None)  # fmt: skip
    assert nothing_is_lost(made, tokenizer, set()) == []
    (batch,) = [b for s in epoch(made, tokenizer, modes=(Mode.NO,)) for b in s.micro_batches if BAD in b.keys]
    assert batch.num_targets >= len(batch.keys)


def test_101_bad_in_a_row_stop_the_run_by_default(tmp_path, tokenizer):
    dataset = make_dataset(tmp_path / "d", samples=104, seconds=(0.3, 0.5), samples_per_shard=52)
    packed_plan([dataset], tokenizer)
    for info in dataset.shards:
        path = dataset.storage.local_path(info.tar)
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match=r"101 samples in a row cannot be used.*synthetic-00000[01]\.tar.*crc32"):
        epoch(dataset, tokenizer)


def test_100_bad_in_a_row_do_not(tmp_path, tokenizer):
    dataset = make_dataset(tmp_path / "d", samples=24, seconds=(0.3, 0.5))
    packed_plan([dataset], tokenizer)
    steps = epoch(dataset, tokenizer, modes=(Mode.NO,))
    count = sum(len(b.keys) for s in steps for b in s.micro_batches)
    assert count == 24
    path = dataset.storage.local_path(dataset.shards[0].tar)
    path.write_bytes(bytes(path.stat().st_size))
    faults = [f for s in epoch(dataset, tokenizer) for f in s.replaced]
    assert {f.key for f in faults} == {f"synthetic-{i:05d}" for i in range(8)}
