"""Batches of stage 0's encoder."""

import random

import torch

from pipeline.standins.train_encoder import BATCH, DRAWN, Batches, CtcExample


def test_examples_of_a_batch_have_about_one_length_and_batches_have_all() -> None:
    pool = [CtcExample(torch.zeros(n, 1), [], torch.zeros(n, 1), 1) for n in range(1, 101)]
    batches = Batches(random.Random(1), pool)
    drawn = [[len(e.features) for e in batches.draw()] for _ in range(3 * DRAWN)]
    assert {len(batch) for batch in drawn} == {BATCH}
    assert max(max(batch) - min(batch) for batch in drawn) < 40
    for first in range(0, len(drawn), DRAWN):
        middles = [sum(batch) / BATCH for batch in drawn[first : first + DRAWN]]
        assert min(middles) < 15
        assert max(middles) > 85
        assert middles not in (sorted(middles), sorted(middles, reverse=True))
