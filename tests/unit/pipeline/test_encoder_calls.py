"""Audios shared among encoder calls: few padded frames, a fixed number of calls."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.encoder_calls import computed_frames, partition
from pipeline.frames import padded_frames
from pipeline.recipe.load import load_recipe
from pipeline.recipe.shipped import RECIPES

TINY = RECIPES / "speaker-reasoner-tiny" / "stage13.yaml"


def best(frames: list[int], calls: int, multiple: int) -> int:
    """Fewest padded frames over all ways to cut the sorted list."""
    rows = sorted((padded_frames(f, multiple) for f in frames), reverse=True)
    found = []
    for parts in range(1, min(calls, len(rows)) + 1):
        for cuts in combinations(range(1, len(rows)), parts - 1):
            bounds = [0, *cuts, len(rows)]
            found.append(sum((b - a) * rows[a] for a, b in pairwise(bounds)))
    return min(found, default=0)


@given(st.lists(st.integers(1, 800), max_size=9), st.integers(1, 5), st.sampled_from([1, 64]))
def test_every_slice_is_in_one_call_and_padding_is_least(frames: list[int], calls: int, multiple: int) -> None:
    groups = partition(frames, calls, multiple)
    assert sorted(i for group in groups for i in group) == list(range(len(frames)))
    assert len(groups) <= calls
    assert all(groups)
    assert computed_frames(frames, calls, multiple) == best(frames, calls, multiple)


def test_one_call_keeps_the_order() -> None:
    assert partition([3, 9, 1], 1) == [[0, 1, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_eight_calls_pad_at_most_10_percent_of_meeting_dialogues(seed: int) -> None:
    """A clip of 40 to 50 s with its observations, three of them in a micro-batch."""
    rng = np.random.default_rng(seed)
    frames: list[int] = []
    for _ in range(3):
        frames.append(int(rng.uniform(40, 50) * 16.67))
        frames += (np.minimum(rng.lognormal(0.8, 0.8, 15), 20) * 16.67 + 1).astype(int).tolist()
    assert 1 - sum(frames) / computed_frames(frames, 8) <= 0.10
    assert 1 - sum(frames) / computed_frames(frames, 1) > 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_tiny_recipe_pads_at_most_15_percent_of_its_dialogues(seed: int) -> None:
    """Clips of 4 to 9 s with an observation for each turn, half of them behind entries of a cache."""
    calls = load_recipe(TINY).data.encoder_calls
    rng = np.random.default_rng(seed)
    made = valid = 0
    for _ in range(20):
        frames: list[int] = []
        for clip in range(4):
            seconds = [rng.uniform(4, 9), *rng.uniform(0.4, 2.6, 4), *(rng.uniform(1, 2.6, 4) if clip % 2 else ())]
            frames += [int(s * 16.67) + 1 for s in seconds]
        made, valid = made + computed_frames(frames, calls), valid + sum(frames)
    assert 1 - valid / made <= 0.15
