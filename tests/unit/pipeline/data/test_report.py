"""The report's figures against a count by hand, and the fill that plans reach."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from pipeline.config import RegistrationConfig
from pipeline.data.report import SPEAKERLM_7B, estimated_flops, plan_report
from tests.support.planning import make_data, make_plan, make_source, samples_of


def test_figures_are_those_of_the_steps():
    steps = list(islice(make_plan(make_source(200)), 5))
    report = plan_report(make_plan(make_source(200)), 5)
    planned = samples_of(steps)
    assert (report.steps, report.micro_batches, report.samples) == (5, 20, len(planned))
    assert report.fill == pytest.approx(sum(p.positions for p in planned) / (20 * 900))
    assert report.audio_hours == pytest.approx(sum(p.num_samples for p in planned) / 16_000 / 3600)
    assert sum(report.modes.values()) == len(planned)
    padded = [len(b.samples) * max(p.frames for p in b.samples) for s in steps for b in s.micro_batches]
    assert report.padding == pytest.approx(1 - sum(p.frames for p in planned) / sum(padded))
    assert f"{report.samples} samples" in str(report)
    sessions = [len({p.session for p in samples_of([s])}) for s in steps]
    assert report.sessions == sum(sessions) / 5
    costs = [[sum(p.positions for p in b.samples) for b in s.micro_batches] for s in steps]
    by_hand = [max(round) / np.mean(round) - 1 for s in costs for round in (s[:2], s[2:])]
    halves = plan_report(make_plan(make_source(200)), 5, 2, lambda b: sum(p.positions for p in b.samples))
    assert halves.imbalance == pytest.approx(np.mean(by_hand))
    assert report.row()["samples"] == {str(m): n for m, n in Counter(p.mode for p in planned).items()}


def test_a_batch_of_longer_samples_costs_more_than_one_of_shorter():
    batches = [b for s in make_plan(make_source(200)) for b in s.micro_batches if b]
    by_positions = sorted(batches, key=lambda b: sum(p.positions for p in b.samples))
    least, most = (estimated_flops(b, 2, ["lora", "audio_projector"]) for b in (by_positions[0], by_positions[-1]))
    assert 2 * SPEAKERLM_7B.llm * sum(p.positions for p in by_positions[0].samples) < least < most


def test_clips_of_40_to_50_s_fill_their_micro_batches():
    source = make_source(1200, per_shard=200, seconds=(40.0, 50.0), speakers=200)
    data = make_data(
        max_positions=6000, max_frames=12000, window_shards=4, registration=RegistrationConfig(max_distractors=20)
    )
    report = plan_report(make_plan(source, data=data, epochs=None), 20)
    assert report.budget_fill > 0.95
    assert report.padding < 0.05


def test_utterances_fill_their_micro_batches():
    source = make_source(6000, per_shard=1000, seconds=(1.0, 15.0))
    data = make_data(max_positions=6000, max_frames=12000, window_shards=4)
    report = plan_report(make_plan(source, data=data, registration=False, epochs=None), 10)
    assert report.budget_fill > 0.97
    assert report.padding < 0.05
