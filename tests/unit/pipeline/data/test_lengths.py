"""Lengths: audio arithmetic, token counts that add up, and their files beside the shards."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data.index_rows import DatasetSource
from pipeline.data.lengths import build_lengths, lengths_path, lengths_storage, missing_lengths, read_lengths
from pipeline.data.token_counter import TokenCounter
from pipeline.frames import audio_positions, encoder_frames, fbank_frames, lfr_frames
from pipeline.prompts import Mode, PromptTokenizer, prompt_pieces, target_pieces
from shards.dataset.dataset import open_dataset
from shards.dataset.reader import read_meta, read_sample
from shards.errors import PlanError, ShardError, StorageError
from tests.support.datasets import make_dataset
from tests.support.prompts import encode_target
from tests.support.s3 import fake_s3
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
            target = encode_target(tokenizer, target_pieces(mode, sample.segments, named))
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


def test_processes_of_two_runs_at_once_write_what_one_would(tmp_path, tokenizer):
    """Both begin at different places; each shard is whole, and the same as if counted alone."""
    made = make_dataset(tmp_path / "d", samples=60, samples_per_shard=2, seconds=(0.3, 0.6))
    alone = tmp_path / "alone"
    assert build_lengths(made, tokenizer, alone) == 30
    tokenizer.tokenizer.save_pretrained(tmp_path / "tokenizer")
    code = f"""
from pipeline.data.lengths import build_lengths
from pipeline.prompts import PromptTokenizer
from shards.dataset.dataset import open_dataset
import sys
if __name__ == "__main__":
    tokenizer = PromptTokenizer.from_folder({str(tmp_path / "tokenizer")!r})
    print(build_lengths(open_dataset({made.url!r}), tokenizer, workers=2, begin_at=float(sys.argv[1])))
"""
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, str(tmp_path / "run.py")]
    runs = [subprocess.Popen([*command, at], stdout=subprocess.PIPE, text=True) for at in ("0", "0.5")]
    written = [int(run.communicate(timeout=150)[0]) for run in runs]
    assert 30 <= sum(written) <= 60
    assert missing_lengths(made, tokenizer.hash) == []
    there = lengths_storage(made, alone)
    for shard in made.shards:
        path = lengths_path(shard, tokenizer.hash)
        assert made.storage.read(path) == there.read(path)
    assert list((tmp_path / "d").rglob(".*")) == []


class DyingTokenizer:
    """Ends in the middle of the third shard."""

    def __init__(self, tokenizer, dataset):
        self._tokenizer, self._left = tokenizer, 0
        for shard in range(2):
            read = read_meta(dataset, shard)
            self._left += sum(len(m["segments"]) + 1 for m in read)  # a piece per turn, and the bare transcript

    def encode_piece(self, text):
        self._left -= 1
        if self._left < -1:
            raise KeyboardInterrupt
        return self._tokenizer.encode_piece(text)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def test_a_killed_run_leaves_no_half_lengths(dataset, tokenizer):
    with pytest.raises(KeyboardInterrupt):
        build_lengths(dataset, DyingTokenizer(tokenizer, dataset))
    assert len(missing_lengths(dataset, tokenizer.hash)) == 1
    assert build_lengths(dataset, tokenizer) == 1


def test_remote_lengths_cost_a_few_requests_a_shard_and_then_a_listing(tmp_path, tokenizer, monkeypatch):
    made = make_dataset(tmp_path / "d", samples=80, samples_per_shard=40, seconds=(0.3, 0.6))
    with fake_s3() as server:
        monkeypatch.setattr("tests.support.s3.PAGE", 1000)
        for name, value in (("ENDPOINT_URL", server.endpoint), ("ACCESS_KEY_ID", "id"), ("SECRET_ACCESS_KEY", "s")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server.objects |= {f"p/{path}": made.storage.read(path) for path in made.storage.list()}
        remote = open_dataset("s3://bucket/p")
        server.requests.clear()
        assert build_lengths(remote, tokenizer) == 2
        asked = [(method, path.partition("?")[0]) for method, path, _ in server.requests]
        for shard in remote.shards:
            assert asked.count(("GET", f"/bucket/p/{shard.tar}")) == 1
        assert len(asked) <= 1 + 2 * 5  # a list; index, tar, is it there, is the bucket, put
        server.requests.clear()
        assert build_lengths(remote, tokenizer) == 0
        assert len(server.requests) == 1
        build_lengths(made, tokenizer)
        for shard in made.shards:
            path = lengths_path(shard, tokenizer.hash)
            assert server.objects[f"p/{path}"] == made.storage.read(path)


def test_a_shard_that_is_packed_again_gets_other_lengths(dataset, tokenizer):
    build_lengths(dataset, tokenizer)
    again = make_dataset(Path(dataset.url), samples=20, seed=1)
    assert missing_lengths(again, tokenizer.hash) == [0, 1, 2]


@pytest.mark.parametrize("damage", [b"", b"PAR1 but not really"])
def test_damaged_lengths_are_refused_and_built_again(dataset, tokenizer, damage):
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
