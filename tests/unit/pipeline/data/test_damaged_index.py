"""Any bytes in an index: one error that names the shard in ``verify``, ``info`` and training, or right samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.collate import LoadedSample
from pipeline.data.loader import Loader, SampleReader
from pipeline.prompts import PromptTokenizer
from shards.dataset import parquet
from shards.dataset.dataset import Dataset, open_dataset
from shards.dataset.index import _METADATA_KEY, INDEX_SCHEMA, index_from_bytes, index_to_bytes
from shards.dataset.info import summarize
from shards.dataset.reader import read_sample
from shards.dataset.verify import dataset_faults, shard_faults
from shards.errors import DataError, PlanError, ShardError
from shards.sound.audio import decode
from tests.support.datasets import make_dataset
from tests.support.planning import packed_plan
from tests.support.tiny import TEXTS, make_tokenizer

SHARD = "synthetic-000001"
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Spoiled:
    """A dataset whose second index a test may replace."""

    def __init__(self, folder: Path, tokenizer: PromptTokenizer) -> None:
        self.whole = make_dataset(folder / "whole", samples=6, samples_per_shard=3, seconds=(1.0, 1.2))
        packed_plan([self.whole], tokenizer)  # counts the tokens
        shutil.copytree(self.whole.url, folder / "spoiled")
        self.url, self.tokenizer = folder / "spoiled", tokenizer
        self.path = self.url / self.whole.shards[1].index
        self.index = self.path.read_bytes()
        self.samples = {s.key: s for s in (read_sample(self.whole, shard, row) for shard in (0, 1) for row in range(3))}
        self.waves = {key: decode(sample.audio) for key, sample in self.samples.items()}

    def check(self, index: bytes) -> bool:
        """Read the dataset with another index in every way; return whether it could be read."""
        self.path.write_bytes(index)
        dataset = open_dataset(self.url)
        try:
            dataset.index(1)
        except ShardError as e:
            assert SHARD in str(e)  # noqa: PT017 - a property
            assert "\n" not in str(e)  # noqa: PT017
            assert [f for f in shard_faults(dataset, 1) if SHARD in f]
            for reads in (summarize, self.train):
                with pytest.raises(ShardError, match=SHARD):
                    reads(dataset)
            return False
        finally:
            list(dataset_faults(dataset))
        faults = list(shard_faults(dataset, 1, decode_audio=False))
        summarize(dataset)
        try:
            for batch in self.train(dataset):
                for loaded in batch:
                    self.is_right(loaded)
        except (DataError, PlanError) as e:
            assert faults, e  # noqa: PT017
            assert SHARD in str(e) or any(key in str(e) for key in self.samples)  # noqa: PT017
        return True

    def train(self, dataset: Dataset) -> list[list[LoadedSample]]:
        """An epoch as a training loads it."""
        plan = packed_plan([dataset], self.tokenizer)
        reader = SampleReader([dataset], self.tokenizer, 2, 192)
        read: list[list[LoadedSample]] = []
        load = reader.load

        def noted(planned: Any) -> Any:
            loaded = load(planned)
            assert set(loaded.planned.target_names) <= set(loaded.sample.speakers)
            read[-1].append(loaded)
            return loaded

        reader.load = noted  # type: ignore[method-assign]
        read.append([])
        for _ in Loader(plan, reader):
            read.append([])
        return read

    def is_right(self, loaded: LoadedSample) -> None:
        """A sample that was delivered is one that was packed, but for a key that another row had."""
        key = next(key for key, wave in self.waves.items() if np.array_equal(wave, loaded.wave))
        packed = self.samples[key]
        assert (loaded.sample.session, loaded.sample.segments) == (packed.session, packed.segments)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Spoiled:
    folder = tmp_path_factory.mktemp("spoiled")
    return Spoiled(folder, PromptTokenizer.from_folder(make_tokenizer(folder / "tokenizer", TEXTS)))


def test_an_undamaged_index_can_be_read(spoiled: Spoiled) -> None:
    assert spoiled.check(spoiled.index)
    assert list(shard_faults(open_dataset(spoiled.url), 1)) == []


@FUZZ
@given(st.data())
def test_flipped_bits(spoiled: Spoiled, data: st.DataObject) -> None:
    damaged = bytearray(spoiled.index)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(damaged) - 1), min_size=1, max_size=3)):
        damaged[bit // 8] ^= 1 << bit % 8
    spoiled.check(bytes(damaged))


@FUZZ
@given(st.data())
def test_arbitrary_bytes(spoiled: Spoiled, data: st.DataObject) -> None:
    """In place of the whole file or of a part."""
    begin = data.draw(st.integers(0, len(spoiled.index)))
    end = data.draw(st.integers(begin, len(spoiled.index)) | st.just(len(spoiled.index)))
    spoiled.check(spoiled.index[:begin] + data.draw(st.binary(max_size=200)) + spoiled.index[end:])


VALUES = {
    pa.string(): st.text(max_size=5) | st.sampled_from(["synthetic-00003", "synthetic:S001"]),
    pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 40_000),
    pa.int32(): st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 40),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.list_(pa.string()): st.lists(
        st.sampled_from([f"synthetic:S{i:03d}" for i in range(12)]) | st.none(), max_size=5
    ),
}


@FUZZ
@given(st.data())
def test_values_of_the_right_type(spoiled: Spoiled, data: st.DataObject) -> None:
    """A table that can be read, with other values."""
    table, record = index_from_bytes(spoiled.index, "index")
    rows = table.to_pylist()
    for _ in range(data.draw(st.integers(1, 3))):
        field = data.draw(st.sampled_from(list(INDEX_SCHEMA)))
        rows[data.draw(st.integers(0, 2))][field.name] = data.draw(VALUES[field.type])
    spoiled.check(index_to_bytes(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), record))


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({"a": 1})


@FUZZ
@given(st.data())
def test_values_of_the_metadata(spoiled: Spoiled, data: st.DataObject) -> None:
    table = parquet.from_bytes(spoiled.index)
    metadata = json.loads(table.schema.metadata[_METADATA_KEY])
    name = data.draw(st.sampled_from([*metadata, ""]))
    if name == "info" and data.draw(st.booleans()):
        metadata["info"][data.draw(st.sampled_from([*metadata["info"]]) | st.text(max_size=3))] = data.draw(JSON)
    else:
        metadata = metadata | {name: data.draw(JSON)} if name else data.draw(JSON)
    spoiled.check(parquet.to_bytes(table.replace_schema_metadata({_METADATA_KEY: json.dumps(metadata).encode()})))


def test_a_list_with_a_missing_speaker_and_a_text_that_is_not_utf8(spoiled: Spoiled) -> None:
    table, record = index_from_bytes(spoiled.index, "index")
    rows = table.to_pylist()
    rows[1]["speakers"] = [None]
    assert not spoiled.check(index_to_bytes(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), record))
    broken = [pa.array([b"\xff"] * 3, pa.binary()).view(pa.string())]
    for column in ("key", "session", "language"):
        edited = table.set_column(
            table.column_names.index(column), INDEX_SCHEMA.field(column), pa.chunked_array(broken)
        )
        assert not spoiled.check(index_to_bytes(edited, record))
