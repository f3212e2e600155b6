"""Loading: ranks and workers share one plan; damaged samples are replaced and reported; storage errors stop."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.data.handover import Handover
from pipeline.data.loader import Loader, SampleReader
from pipeline.prompts import Mode, PromptTokenizer
from shards.dataset.dataset import open_dataset
from shards.dataset.index import index_from_bytes, index_to_bytes
from shards.errors import DataError, PlanError, SpeakerError, StorageError, TrainingError
from shards.storage.local import LocalStorage
from tests.support.datasets import make_dataset
from tests.support.planning import make_data, packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return PromptTokenizer.from_folder(make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEXTS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), samples=48)


@pytest.fixture
def damaged(tmp_path):
    """A dataset that a test may spoil."""
    return make_dataset(tmp_path / "data", samples=24)


def make_loader(datasets, tokenizer, plan=None, data=None, **settings) -> Loader:
    plan = plan or packed_plan(datasets, tokenizer, data=data)
    return Loader(plan, SampleReader(datasets, tokenizer, 2, 192), **settings)


def targets(step) -> int:
    return sum(b.num_targets for b in step.micro_batches)


def flip(dataset, key: str, member: str = "flac") -> None:
    """Change one byte in the middle of a member of a sample."""
    for shard, info in enumerate(dataset.shards):
        for entry in dataset.index(shard).to_pylist():
            if entry["key"] == key:
                place = entry[f"{member}_offset"] + entry[f"{member}_length"] // 2
                with dataset.storage.local_path(info.tar).open("r+b") as file:
                    file.seek(place)
                    byte = file.read(1)[0]
                    file.seek(place)
                    file.write(bytes([byte ^ 0xFF]))
                return
    raise KeyError(key)


def same(a, b) -> bool:
    """All tensors and all else of two batches are equal."""
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("size", [3, 4])
def test_any_number_of_ranks_sees_the_same_global_steps(dataset, tokenizer, size):
    data = make_data(micro_batches_per_step=size)
    alone = list(make_loader([dataset], tokenizer, data=data))
    assert len(alone) > 2
    for ranks in (2, 3):
        shares = [list(make_loader([dataset], tokenizer, data=data, rank=r, world_size=ranks)) for r in range(ranks)]
        for whole, *parts in zip(alone, *shares, strict=True):
            assert {len(p.micro_batches) for p in parts} == {-(-size // ranks)}
            dealt = [b for turn in zip(*(p.micro_batches for p in parts), strict=True) for b in turn]
            assert all(same(a, b) for a, b in zip(whole.micro_batches, dealt, strict=False))
            assert all(b.weight == 0 for b in dealt[size:])
            assert all(p.state == whole.state for p in parts)
            assert sum(map(targets, parts)) == targets(whole)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(dataset, tokenizer, workers):
    inside = list(make_loader([dataset], tokenizer))
    outside = list(make_loader([dataset], tokenizer, workers=workers))
    for a, b in zip(inside, outside, strict=True):
        assert (a.step, a.state) == (b.step, b.state)
        assert all(same(x, y) for x, y in zip(a.micro_batches, b.micro_batches, strict=True))


def test_every_sample_is_loaded_once_an_epoch(dataset, tokenizer):
    steps = list(make_loader([dataset], tokenizer))
    keys = [k for s in steps for b in s.micro_batches for k in b.keys]
    assert sorted(keys) == [f"synthetic-{i:05d}" for i in range(48)]
    assert sum(b.audio_seconds for s in steps for b in s.micro_batches) == pytest.approx(dataset.hours * 3600, rel=1e-3)


def test_resuming_with_another_number_of_ranks_and_workers_continues(dataset, tokenizer):
    data = make_data(micro_batches_per_step=3)
    endless = packed_plan([dataset], tokenizer, data=data, epochs=None)
    whole = list(itertools.islice(make_loader([dataset], tokenizer, endless), 9))
    position, seen = None, []
    for ranks, workers in ((2, 0), (3, 1), (1, 2)):
        shares = []
        for rank in range(ranks):
            plan = packed_plan([dataset], tokenizer, data=data, epochs=None)
            if position:
                plan.load_state_dict(position)
            loader = make_loader([dataset], tokenizer, plan, rank=rank, world_size=ranks, workers=workers)
            shares.append(list(itertools.islice(loader, 3)))
        seen += list(zip(*shares, strict=True))
        position = shares[0][-1].state
    for expected, parts in zip(whole, seen, strict=True):
        dealt = [b for turn in zip(*(p.micro_batches for p in parts), strict=True) for b in turn]
        assert all(same(a, b) for a, b in zip(expected.micro_batches, dealt, strict=False))


def test_loading_does_not_touch_the_global_generators(dataset, tokenizer):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    list(make_loader([dataset], tokenizer))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_more_ranks_than_micro_batches_is_refused(dataset, tokenizer):
    with pytest.raises(DataError, match="5 ranks share 4"):
        make_loader([dataset], tokenizer, world_size=5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("member", ["flac", "json", "npy"])
def test_a_damaged_sample_is_replaced_counted_and_listed(damaged, tokenizer, member, workers):
    whole = list(make_loader([damaged], tokenizer))
    bad = "synthetic-00011"
    flip(damaged, bad, member)
    steps = list(make_loader([damaged], tokenizer, workers=workers))
    faults = [f for s in steps for f in s.replaced]
    assert {f.key for f in faults} == {bad}
    assert f"{bad}.{member}" in faults[0].reason
    assert [r["key"] for r in steps[-1].state["replaced"]] == [f.key for f in faults]
    seen = {k for s in steps for b in s.micro_batches for k in b.keys}
    assert seen == {f"synthetic-{i:05d}" for i in range(24)} - {bad}
    for a, b in zip(whole, steps, strict=True):
        for x, y in zip(a.micro_batches, b.micro_batches, strict=True):
            assert y.num_positions <= x.num_positions
            assert same(x, y) == (bad not in x.keys)


def test_a_replacement_is_the_same_on_any_rank_and_known_after_a_resume(damaged, tokenizer):
    flip(damaged, "synthetic-00011")
    alone = list(make_loader([damaged], tokenizer))
    halves = [list(make_loader([damaged], tokenizer, rank=r, world_size=2)) for r in range(2)]
    pairs = [zip(a.micro_batches, b.micro_batches, strict=True) for a, b in zip(*halves, strict=True)]
    dealt = [b.keys for pair in itertools.chain(*pairs) for b in pair]
    assert dealt == [b.keys for s in alone for b in s.micro_batches]
    for step in alone[:-1]:
        plan = packed_plan([damaged], tokenizer)
        plan.load_state_dict(step.state)
        resumed = list(make_loader([damaged], tokenizer, plan, replaced=step.state["replaced"]))
        assert resumed[-1].state["replaced"] == alone[-1].state["replaced"] != []


def test_a_micro_batch_without_a_whole_sample_becomes_empty(damaged, tokenizer):
    plan = packed_plan([damaged], tokenizer, modes=(Mode.NO,))
    for p in samples_of(list(packed_plan([damaged], tokenizer, modes=(Mode.NO,)))):
        flip(damaged, p.key)
    steps = list(make_loader([damaged], tokenizer, plan))
    assert {b.weight for s in steps for b in s.micro_batches} == {0.0}
    assert {targets(s) for s in steps} == {0}


def test_too_many_bad_samples_in_a_row_stop_the_run(damaged, tokenizer):
    for i in range(24):
        flip(damaged, f"synthetic-{i:05d}")
    with pytest.raises(DataError, match=r"6 samples in a row.*max_consecutive_replacements 5.*crc32"):
        list(make_loader([damaged], tokenizer, max_consecutive_replacements=5))


def test_a_cut_tar_is_reported_sample_by_sample_and_not_a_shorter_epoch(damaged, tokenizer):
    plan = packed_plan([damaged], tokenizer)
    path = damaged.storage.local_path(damaged.shards[1].tar)
    os.truncate(path, path.stat().st_size // 2)
    steps = list(make_loader([damaged], tokenizer, plan))
    faults = [f for s in steps for f in s.replaced]
    assert {f.key for f in faults} <= {f"synthetic-{i:05d}" for i in range(8, 16)}
    assert len(faults) >= 4
    assert all("the tar is truncated" in f.reason for f in faults)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_storage_error_stops_the_run_as_itself(damaged, tokenizer, workers):
    plan = packed_plan([damaged], tokenizer)
    damaged.storage.local_path(damaged.shards[2].tar).unlink()
    with pytest.raises(StorageError, match=damaged.shards[2].name):
        list(make_loader([damaged], tokenizer, plan, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_lengths_stop_the_run(damaged, tokenizer, workers, monkeypatch):
    plan = packed_plan([damaged], tokenizer)
    rows = plan.sources[0].rows
    monkeypatch.setattr(plan.sources[0], "rows", lambda s: [replace(r, text_tokens=r.text_tokens + 1) for r in rows(s)])
    with pytest.raises(PlanError, match="planned were"):
        list(make_loader([damaged], tokenizer, plan, workers=workers))


def test_a_bank_with_a_vector_that_is_not_finite_stops_the_run(damaged, tokenizer):
    """It could become anybody's distractor. One of the clip itself is a fault: test_loader_damage.py."""
    damaged.speakers.vectors = np.full_like(damaged.speakers.vectors, np.nan)
    with pytest.raises(SpeakerError, match=r"speakers\.npy: 12 vectors are not finite"):
        list(make_loader([damaged], tokenizer, packed_plan([damaged], tokenizer, modes=(Mode.OVER,))))


def test_ranges_of_a_local_micro_batch_are_announced_before_the_first_is_read(dataset, tokenizer, monkeypatch):
    calls = []
    for name in ("will_read", "read_range"):
        plain = getattr(LocalStorage, name)
        monkeypatch.setattr(LocalStorage, name, lambda *a, n=name, f=plain: calls.append((n, a[1:])) or f(*a))
    first = next(iter(make_loader([dataset], tokenizer))).micro_batches[0].keys
    assert len(first) > 2
    announced, read = calls[: len(first)], calls[len(first) : 2 * len(first)]
    assert {name for name, _ in announced} == {"will_read"}
    assert [("read_range", where) for _, where in announced] == read


def test_micro_batches_of_workers_come_in_shared_memory(dataset, tokenizer, monkeypatch):
    slots, plain = [], Handover.open
    monkeypatch.setattr(Handover, "open", lambda self, slot, *a: slots.append(slot) or plain(self, slot, *a))
    steps = list(make_loader([dataset], tokenizer, workers=2))
    assert len(slots) == sum(len(step.micro_batches) for step in steps)


def test_a_killed_worker_is_reported(dataset, tokenizer):
    plan = packed_plan([dataset], tokenizer, epochs=None)
    before = set(multiprocessing.active_children())
    loader = iter(make_loader([dataset], tokenizer, plan, workers=1))
    next(loader)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match=r"DataLoader worker.*data\.workers"):
        list(itertools.islice(loader, 200))


def test_an_index_row_that_is_wrong_is_replaced_where_bytes_are_read_ahead_too(tmp_path, tokenizer, monkeypatch):
    dataset = make_dataset(tmp_path / "d", samples=24, samples_per_shard=8)
    packed_plan([dataset], tokenizer)  # counts its tokens, while the index is right
    path = dataset.shards[1].index
    table, record = index_from_bytes(dataset.storage.read(path), path)
    rows = table.to_pylist()
    rows[2]["flac_offset"] = 10**12
    made = pa.Table.from_pylist(rows, schema=table.schema)
    dataset.storage.write_atomic(path, index_to_bytes(made, record))
    replaced = {}
    for remote in (False, True):
        opened = open_dataset(tmp_path / "d")
        if remote:
            monkeypatch.setattr(opened.storage, "local_path", lambda _: None)
        steps = list(make_loader([opened], tokenizer, packed_plan([opened], tokenizer)))
        replaced[remote] = [f.key for s in steps for f in s.replaced]
    assert len(replaced[False]) == 1
    assert replaced[True] == replaced[False]


RESULTS_LOST = [
    ConnectionResetError(104, "reset"),
    ConnectionRefusedError(),
    EOFError(),
    RuntimeError("Pin memory thread exited unexpectedly"),
]


@pytest.mark.parametrize("error", RESULTS_LOST)
def test_a_worker_that_is_killed_while_it_hands_over_is_reported(dataset, tokenizer, error):
    def broken():
        raise error
        yield

    loader = make_loader([dataset], tokenizer, packed_plan([dataset], tokenizer, epochs=None), workers=1)
    with pytest.raises(TrainingError, match=r"(DataLoader worker|Pin memory thread).*data\.workers"):
        loader._next(broken())


def test_a_loader_that_is_left_open_does_not_keep_the_process_from_ending(tmp_path):
    """Its workers ignore SIGTERM, by which multiprocessing would end them before it waits for them."""
    make_dataset(tmp_path / "data", samples=8)
    make_tokenizer(tmp_path / "tokenizer", TEXTS)
    code = f"""
from pipeline.data.loader import Loader, SampleReader
from pipeline.prompts import PromptTokenizer
from shards.dataset.dataset import open_dataset
from tests.support.planning import packed_plan
dataset = open_dataset({str(tmp_path / "data")!r})
tokenizer = PromptTokenizer.from_folder({str(tmp_path / "tokenizer")!r})
plan = packed_plan([dataset], tokenizer, epochs=None)
steps = iter(Loader(plan, SampleReader([dataset], tokenizer, 2, 192), workers=2))
print(next(steps).step)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_workers_ignore_stop_signals(dataset, tokenizer):
    before = set(multiprocessing.active_children())
    loader = iter(make_loader([dataset], tokenizer, packed_plan([dataset], tokenizer, epochs=None), workers=1))
    next(loader)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert len(list(itertools.islice(loader, 20))) == 20
    assert worker.is_alive()
    loader.close()
    worker.join(30)
    assert not worker.is_alive()
