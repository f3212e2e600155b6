"""The report's figures against a count by hand, and the fill that plans reach."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import soundfile

from pipeline.data.plan_report import distinct_sessions, flops_of, plan_report, positions_of, report
from pipeline.flops import Meter, Sizes
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.schema import RegistrationConfig
from shards.cli import main as shards
from shards.dataset.dataset import open_dataset
from shards.manifests.manifest import Recording, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from tests.support.manifests import tone
from tests.support.planning import make_data, make_plan, make_source, packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer

SIZES = Sizes(
    llm=6_500_000, head=540_000, lora=40_000, encoder=220_000, projector=6_000, convolution=3_000, speaker=700,
    llm_layers=28, llm_width=35, encoder_layers=70, encoder_width=5, projector_layers=2,
)  # fmt: skip


def test_figures_are_those_of_the_steps():
    steps = list(islice(make_plan(make_source(200)), 5))
    figures = plan_report(make_plan(make_source(200)), 5)
    planned = samples_of(steps)
    assert (figures.steps, figures.micro_batches, figures.samples) == (5, 20, len(planned))
    assert figures.fill == pytest.approx(sum(p.positions for p in planned) / (20 * 900))
    assert figures.audio_hours == pytest.approx(sum(p.num_samples for p in planned) / 16_000 / 3600)
    assert sum(figures.modes.values()) == len(planned)
    padded = [len(b.samples) * max(p.frames for p in b.samples) for s in steps for b in s.micro_batches]
    assert figures.padding == pytest.approx(1 - sum(p.frames for p in planned) / sum(padded))
    assert f"{figures.samples} samples" in str(figures)
    sessions = [len({p.session for p in samples_of([s])}) for s in steps]
    assert figures.sessions == sum(sessions) / 5
    costs = [[sum(p.positions for p in b.samples) for b in s.micro_batches] for s in steps]
    by_hand = [max(round) / np.mean(round) - 1 for s in costs for round in (s[:2], s[2:])]
    halves = plan_report(make_plan(make_source(200)), 5, 2, lambda b: sum(p.positions for p in b.samples))
    assert halves.imbalance == pytest.approx(np.mean(by_hand))
    assert figures.row()["samples"] == {str(m): n for m, n in Counter(p.mode for p in planned).items()}


def test_a_batch_of_longer_samples_costs_more_than_one_of_shorter():
    batches = [b for s in make_plan(make_source(200)) for b in s.micro_batches if b]
    by_positions = sorted(batches, key=positions_of)
    meter = Meter(SIZES, frozenset({"lora", "audio_projector"}), True, None)
    cost = flops_of(meter, 2)
    assert 2 * SIZES.llm * positions_of(by_positions[0]) < cost(by_positions[0]) < cost(by_positions[-1])


def test_imbalance_counts_the_operations_of_the_given_model():
    """An LLM alone costs by positions, an encoder alone by frames."""
    steps, settings = list(islice(make_plan(make_source(200)), 5)), make_plan(make_source(200)).settings
    none = Sizes(*[0] * 12)
    for sizes, cost in (
        (replace(none, llm=10), positions_of),
        (replace(none, encoder=10), lambda b: len(b.samples) * max(p.frames for p in b.samples)),
    ):
        counted = report(steps, settings, 2, flops_of(Meter(sizes, frozenset({"encoder"}), False, None), 2))
        assert counted.imbalance == pytest.approx(report(steps, settings, 2, cost).imbalance)
    assert report(steps, settings, 2).imbalance == report(steps, settings, 2, positions_of).imbalance


def test_clips_of_40_to_50_s_fill_their_micro_batches():
    source = make_source(1200, per_shard=200, seconds=(40.0, 50.0), speakers=200)
    data = make_data(
        max_positions=6000, max_frames=12000, window_shards=4, registration=RegistrationConfig(max_distractors=20)
    )
    figures = plan_report(make_plan(source, data=data, epochs=None), 20)
    assert figures.budget_fill > 0.95
    assert figures.padding < 0.05


def test_utterances_fill_their_micro_batches():
    source = make_source(6000, per_shard=1000, seconds=(1.0, 15.0))
    data = make_data(max_positions=6000, max_frames=12000, window_shards=4)
    figures = plan_report(make_plan(source, data=data, registration=False, epochs=None), 10)
    assert figures.budget_fill > 0.97
    assert figures.padding < 0.05


def test_a_step_of_packed_data_holds_as_many_sessions_as_independent_draws(tmp_path):
    """A corpus comes session by session; packing permutes it, so a window of two shards is a draw from all sessions."""
    sessions, each, seconds = 150, 8, 0.3
    count = sessions * each
    (tmp_path / "m").mkdir()
    audio = tmp_path / "m" / "long.flac"
    soundfile.write(audio, tone(count * seconds + 1), SAMPLE_RATE, subtype="PCM_16")
    said = (Segment("c:A", 0.0, seconds, "你好"),)
    recordings = [
        Recording(f"c-{i:04d}", "c", "train", f"s-{i // each:03d}", "zh", str(audio), said, i * seconds, seconds)
        for i in range(count)
    ]
    write_manifest(tmp_path / "m", recordings, [], {})
    assert (
        shards(["pack", str(tmp_path / "m"), str(tmp_path / "o"), "--no-speakers", "--samples-per-shard", "100"]) == 0
    )
    dataset = open_dataset(tmp_path / "o")
    assert len(dataset.shards) == 12
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "tokenizer", TEXTS))
    found, expected = 0, 0.0
    for step in packed_plan([dataset], tokenizer, registration=False, data=make_data(max_frames=100)):
        n = len(samples_of([step]))
        found += distinct_sessions(step)
        expected += sessions * (1 - (1 - 1 / sessions) ** n)
    assert expected > 100
    assert found >= 0.9 * expected
