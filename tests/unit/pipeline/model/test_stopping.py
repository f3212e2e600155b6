"""Guards against endless text: loops, limits, and one answer guarded as a row of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.model.stopping import AnswerTokens, Guards, LoopStoppingCriteria

EOS = 0


def feed(rows: list[list[int]], limits: list[int] | None = None, **guards: int) -> tuple[list[int], list[bool]]:
    """Lengths and loops after these tokens, which all rows get step by step; a row that has ended gets end tokens."""
    longest = max(map(len, rows))
    watch = LoopStoppingCriteria(limits or [1000] * len(rows), EOS, Guards(**guards))
    ids = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])
    for step in range(1, longest + 1):
        watch(ids[:, :step], None)
    return watch.ends()


def test_loop_is_detected_after_too_many_repeats():
    said = [9, 8, 7, 6, 5]
    lengths, loops = feed([said + [1, 2, 3] * 40, said + [4] * 60, list(range(1, 90))])
    assert loops == [True, True, False]
    assert lengths[0] == len(said) + 3 * 11  # ten times are allowed
    assert lengths[1] == len(said) + 16  # a short n-gram needs sixteen tokens


@pytest.mark.parametrize("period", [1, 2, 5, 17, 64])
def test_loops_of_any_length_up_to_the_longest_are_found(period: int):
    gram = list(range(1, period + 1))
    assert feed([gram * 30])[1] == [True]
    assert feed([gram * 10])[1] == [False]


def test_longer_n_grams_are_stopped_by_the_limit():
    assert feed([list(range(1, 66)) * 20], limits=[900]) == ([900], [False])


@pytest.mark.parametrize("seed", range(4))
def test_one_answer_is_guarded_as_a_row_of_a_batch(seed: int):
    """Random tokens of a small vocabulary, with loops in them: the same length and the same reason."""
    rng = np.random.default_rng(seed)
    guards = Guards(repeats=int(rng.integers(2, 5)), longest=8, shortest_run=6)
    for _ in range(100):
        said = [*rng.integers(1, 4, 6), *np.tile(rng.integers(1, 4, rng.integers(1, 10)), 6), *rng.integers(0, 4, 20)]
        row, limit = [int(token) for token in said], int(rng.integers(1, 80))
        watch = LoopStoppingCriteria([limit], EOS, guards)
        for step in range(1, len(row) + 1):
            watch(torch.tensor([row[:step]]), None)
        one = AnswerTokens(limit, EOS, guards)
        cut = int(rng.integers(0, len(row)))
        assert one.extend(row[:cut]) == (one.stop is not None)
        one.extend(row[cut:])
        (length,), (looped,) = watch.ends()
        wanted = None if not length else "loop" if looped else "end" if row[length - 1] == EOS else "limit"
        assert one.stop == wanted
        assert one.ids == (row[:length] if wanted else row)


def test_finished_row_does_not_count_as_a_loop():
    lengths, loops = feed([[1, 2, EOS], list(range(1, 80))])
    assert (lengths, loops) == ([3, 0], [False, False])


def test_the_limit_grows_with_the_audio():
    guards = Guards(tokens_per_second=10, least_tokens=5, max_new_tokens=100)
    assert [guards.limit(n * 16_000) for n in (0, 1, 3, 60)] == [5, 15, 35, 100]


def test_each_row_has_its_own_limit():
    assert feed([list(range(1, 30))] * 2, limits=[7, 20]) == ([7, 20], [False, False])
