"""Packing by two budgets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.packing import FULL, WIDTH, _best_subset, pack
from pipeline.frames import padded_frames


@dataclass(frozen=True)
class Piece:
    positions: int
    frames: int


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=1))


pieces = st.lists(st.builds(Piece, st.integers(1, 100), st.integers(1, 100)), max_size=120)


@settings(deadline=None)
@given(pieces, st.integers(100, 500), st.integers(128, 900), st.sampled_from([1, 8, 64]))
def test_each_sample_is_in_one_micro_batch_and_none_is_over_budget(samples, max_positions, max_frames, multiple):
    full, rest = pack(samples, max_positions, max_frames, rng(), multiple)
    key = lambda p: (p.positions, p.frames)  # noqa: E731
    assert sorted((p for b in full + rest for p in b), key=key) == sorted(samples, key=key)
    for batch in full + rest:
        assert sum(p.positions for p in batch) <= max_positions
        assert len(batch) * padded_frames(max(p.frames for p in batch), multiple) <= max_frames
    assert len(rest) <= WIDTH + 1


def test_what_is_carried_is_not_nearly_full():
    made = np.random.default_rng(0)
    samples = [Piece(int(p), int(f)) for p, f in made.integers(20, 200, (500, 2))]
    full, rest = pack(samples, 1000, 10**9, rng())
    assert all(sum(p.positions for p in b) < FULL * 1000 for b in rest)
    assert np.mean([sum(p.positions for p in b) / 1000 for b in full]) > 0.95


def test_neighbours_in_length_share_a_micro_batch():
    made = np.random.default_rng(0)
    samples = [Piece(100, int(f)) for f in made.integers(10, 900, 1000)]
    full, _ = pack(samples, 1500, 10**9, rng())
    padded = sum(len(b) * max(p.frames for p in b) for b in full)
    assert 1 - sum(p.frames for b in full for p in b) / padded < 0.05


def test_company_changes_with_the_generator():
    samples = [Piece(100 + i, 700 + i) for i in range(60)]
    first, _ = pack(samples, 1000, 10**9, rng())
    other, _ = pack(samples, 1000, 10**9, np.random.default_rng(2))
    assert {frozenset(b) for b in first} != {frozenset(b) for b in other}


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 60), max_size=9), st.integers(0, 200), st.integers(0, 5))
def test_the_subset_is_the_best_of_all(sizes, room, most):
    chosen = _best_subset(sizes, room, most)
    assert len(set(chosen)) == len(chosen) <= most
    sums = (sum(c) for n in range(most + 1) for c in itertools.combinations(sizes, n))
    assert sum(sizes[i] for i in chosen) == max(s for s in sums if s <= room)
