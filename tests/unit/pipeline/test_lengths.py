"""Lengths: audio arithmetic, token counts that add up, and their files beside the shards."""

from __future__ import annotations

import itertools
import math

import kaldi_native_fbank as knf
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data.rows import DatasetSource
from pipeline.frames import audio_positions, encoder_frames, fbank_frames, lfr_frames
from pipeline.lengths import TokenCounter, build_lengths, lengths_path, read_lengths
from pipeline.prompts import Mode, PromptTokenizer, prompt_pieces, target_pieces
from shards.errors import PlanError, ShardError, StorageError
from shards.reader import read_sample
from tests.support.datasets import make_dataset
from tests.support.tiny import TEXTS, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "made", samples=20)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 561, 16_000, 123_457, 800_000])
def test_fbank_frames_are_kaldi_s(samples):
    fbank = knf.OnlineFbank(knf.FbankOptions())
    fbank.accept_waveform(16_000, np.zeros(samples, np.float32).tolist())
    fbank.input_finished()
    assert fbank_frames(samples) == fbank.num_frames_ready


def test_lfr_frames_are_funasr_s():
    """FunASR's apply_lfr makes ceil(T / 6) frames and pads the last."""
    assert [lfr_frames(t) for t in range(200)] == [math.ceil(t / 6) for t in range(200)]


def test_audio_positions_are_a_same_padded_convolution_s():
    for samples, stride in itertools.product([400, 1000, 16_000, 799_999], [1, 2, 3, 5]):
        assert audio_positions(samples, stride) == math.ceil(encoder_frames(samples) / stride)
    assert encoder_frames(50 * 16_000) == 833


def test_planned_counts_equal_the_encoded_prompt_and_target(dataset, tokenizer):
    build_lengths(dataset, tokenizer)
    source, counter = DatasetSource(dataset, tokenizer.hash), TokenCounter(tokenizer)
    for shard, mode in itertools.product(range(len(dataset.shards)), Mode):
        for row in source.rows(shard):
            sample = read_sample(dataset, shard, row.row)
            named = {s: f"名字 {i}" for i, s in enumerate(row.speakers)}
            registered = list(named.values()) if mode in (Mode.MATCH, Mode.OVER) else []
            prompt = tokenizer.encode_prompt(prompt_pieces(mode, registered))
            assert counter.prompt(mode, registered, 77) == len(prompt) - 1 + 77
            target = tokenizer.encode_target(target_pieces(mode, sample.segments, named))
            assert counter.target(mode, row, named) == len(target)


def test_lengths_are_built_once_and_again_only_where_missing(dataset, tokenizer):
    assert build_lengths(dataset, tokenizer) == 3
    assert build_lengths(dataset, tokenizer) == 0
    dataset.storage.delete(lengths_path(dataset.shards[1], tokenizer.hash))
    assert build_lengths(dataset, tokenizer) == 1


def test_two_builders_write_the_same_bytes(dataset, tokenizer):
    path = lengths_path(dataset.shards[0], tokenizer.hash)
    build_lengths(dataset, tokenizer)
    first = dataset.storage.read(path)
    dataset.storage.delete(path)
    build_lengths(dataset, tokenizer)
    assert dataset.storage.read(path) == first


@pytest.mark.parametrize("damage", [b"", b"PAR1 but not really"])
def test_damaged_lengths_are_refused_and_built_anew(dataset, tokenizer, damage):
    build_lengths(dataset, tokenizer)
    dataset.storage.write_atomic(lengths_path(dataset.shards[0], tokenizer.hash), damage)
    with pytest.raises(PlanError, match="no token lengths"):
        read_lengths(dataset, 0, tokenizer.hash)
    assert build_lengths(dataset, tokenizer) == 1


def test_lengths_of_another_state_of_the_shard_are_refused(tmp_path, tokenizer):
    one = make_dataset(tmp_path / "one", samples=4)
    two = make_dataset(tmp_path / "two", samples=4, seed=1)
    build_lengths(one, tokenizer)
    path = lengths_path(one.shards[0], tokenizer.hash)
    two.storage.write_atomic(path, one.storage.read(path))
    with pytest.raises(PlanError, match="no token lengths"):
        read_lengths(two, 0, tokenizer.hash)


def test_lengths_whose_rows_are_in_another_order_are_refused(dataset, tokenizer, tmp_path):
    build_lengths(dataset, tokenizer)
    path = dataset.storage.local_path(lengths_path(dataset.shards[0], tokenizer.hash))
    table = pq.read_table(path)
    pq.write_table(table.take(list(reversed(range(len(table))))), path)
    with pytest.raises(ShardError, match="other samples"):
        DatasetSource(dataset, tokenizer.hash).rows(0)


def test_a_dataset_that_cannot_be_written_to_uses_the_cache(dataset, tokenizer, tmp_path, monkeypatch):
    def refuse(path, data):
        raise StorageError(f"{path}: read-only")

    monkeypatch.setattr(dataset.storage, "write_atomic", refuse)
    with pytest.raises(StorageError, match=r"read-only.*local folder"):
        build_lengths(dataset, tokenizer)
    cache = tmp_path / "cache"
    assert build_lengths(dataset, tokenizer, cache) == 3
    assert len(DatasetSource(dataset, tokenizer.hash, cache).rows(0)) == 8
