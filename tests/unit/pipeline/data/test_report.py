"""The report's figures against a count by hand, and the fill that plans reach."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

import pipeline.data.report
from pipeline.data.report import SPEAKERLM_7B, distinct_sessions, estimated_flops, open_plan, plan_report
from pipeline.prompts import PromptTokenizer
from pipeline.recipe.load import load_recipe
from pipeline.recipe.schema import RegistrationConfig
from shards.cli import main as shards
from shards.dataset.dataset import open_dataset
from shards.manifests.manifest import Recording, write_manifest
from shards.sample import SAMPLE_RATE, Segment
from tests.support.datasets import make_dataset
from tests.support.manifests import tone
from tests.support.planning import make_data, make_plan, make_source, packed_plan, samples_of
from tests.support.tiny import TEXTS, make_tokenizer


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


RECIPE = Path(pipeline.data.report.__file__).parents[2] / "launch/recipes/tiny/stage3.yaml"


def test_the_command_reports_a_recipe_s_plan(tmp_path, capsys):
    make_dataset(tmp_path / "data" / "harder", samples=60, seconds=(1.0, 4.0), samples_per_shard=20)
    tokenizer = PromptTokenizer.from_folder(make_tokenizer(tmp_path / "models" / "llm", TEXTS))
    overrides = [f"root={tmp_path}", "data.registration.name_pools=[zh]"]
    assert pipeline.data.report.main([str(RECIPE), *overrides, "--steps", "3", "--ranks", "1"]) == 0
    said = capsys.readouterr().out
    recipe = load_recipe(RECIPE, overrides)
    again = plan_report(open_plan(recipe, tokenizer), 3)
    assert said.startswith(f"3 steps, 6 batches, {again.samples} samples")
    assert f"nearer budget filled {again.budget_fill:.1%}" in said
    assert "imbalance 0.0%" in said  # one rank waits for nobody
    assert pipeline.data.report.main([str(RECIPE), "root=/nowhere"]) == 1
    assert "/nowhere" in capsys.readouterr().err


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
