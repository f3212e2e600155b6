"""The plan: every sample once, full micro-batches of one mode, exact resume."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.planned import PlanSettings
from pipeline.data.registration import BankVector, ClipVector
from pipeline.prompts import Mode
from pipeline.recipe.schema import DatasetConfig, PhaseConfig, RegistrationConfig
from shards.errors import PlanError
from tests.support.planning import make_data, make_plan, make_source, samples_of

shapes = st.fixed_dictionaries(
    {
        "micro_batches_per_step": st.integers(1, 7),
        "max_positions": st.integers(700, 3000),
        "max_frames": st.integers(140, 2000),
        "window_shards": st.integers(1, 9),
    }
)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, samples=st.integers(1, 90), per_shard=st.integers(1, 30), seed=st.integers(0, 9))
def test_every_sample_once_an_epoch_within_both_budgets(shape: dict, samples: int, per_shard: int, seed: int) -> None:
    data = make_data(**shape)
    steps = list(make_plan(make_source(samples, per_shard), data=data, epochs=2, seed=seed))
    planned = samples_of(steps)
    for epoch in (0, 1):
        assert sorted(p.key for p in planned if p.epoch == epoch) == [f"made-{i:04d}" for i in range(samples)]
    for batch in (b for s in steps for b in s.micro_batches if b is not None):
        assert sum(p.positions for p in batch.samples) <= data.max_positions
        assert len(batch.samples) * max(p.frames for p in batch.samples) <= data.max_frames
        assert {p.mode for p in batch.samples} == {batch.mode}
    assert [s.step for s in steps] == list(range(1, len(steps) + 1))
    assert all(len(s.micro_batches) == data.micro_batches_per_step for s in steps)
    assert all(None not in s.micro_batches for s in steps[:-1])


@settings(deadline=None, max_examples=15)
@given(shape=shapes, samples=st.integers(5, 60), per_shard=st.integers(3, 20), seed=st.integers(0, 9))
def test_restoring_after_any_step_continues_as_if_uninterrupted(
    shape: dict, samples: int, per_shard: int, seed: int
) -> None:
    def fresh() -> object:
        data = make_data(**shape)
        sources = make_source(samples, per_shard, "one"), make_source(7, 3, "two", seed=5)
        return make_plan(*sources, data=data, epochs=None, seed=seed)

    whole = list(itertools.islice(fresh(), 14))
    for stop in range(len(whole)):
        plan = fresh()
        if stop:
            plan.load_state_dict(json.loads(json.dumps(whole[stop - 1].state)))
        rest = list(itertools.islice(plan, 3))
        assert rest == whole[stop : stop + 3] or (len(whole) - stop < 3 and rest[: len(whole) - stop] == whole[stop:])


def test_resuming_plans_one_window_again() -> None:
    data = make_data(window_shards=2, max_positions=2000)
    steps = list(make_plan(make_source(400), data=data))
    source = make_source(400)
    plan = make_plan(source, data=data)
    plan.load_state_dict(steps[len(steps) // 2].state)
    next(iter(plan))
    carried = {c[0] for c in steps[len(steps) // 2].state["streams"][0]["carried"]}
    assert len(source.asked) <= 2 * data.window_shards + len(carried)


def test_modes_are_a_third_of_samples_each_and_change_with_the_epoch() -> None:
    samples = 3000
    planned = samples_of(list(make_plan(make_source(samples, 100), epochs=2)))
    drawn = {(p.key, p.epoch): p.mode for p in planned}
    assert len(drawn) == 2 * samples
    counts = Counter(drawn.values())
    sigma = (2 * samples * (1 / 3) * (2 / 3)) ** 0.5
    for mode in (Mode.NO, Mode.MATCH, Mode.OVER):
        assert abs(counts[mode] - 2 * samples / 3) < 3 * sigma
    both = sum(drawn[f"made-{i:04d}", 0] is drawn[f"made-{i:04d}", 1] for i in range(samples))
    assert abs(both - samples / 3) < 3 * sigma


def test_over_draws_up_to_the_maximum_and_registers_the_clip_with_people_who_are_not_in_it() -> None:
    source = make_source(600, speakers=30)
    ids = source.bank.ids
    rows = {r.key: r for shard in source.shards for r in shard}
    data = make_data(registration=RegistrationConfig(max_distractors=6))
    extra = Counter()
    for p in samples_of(list(make_plan(source, data=data))):
        speakers = rows[p.key].speakers
        bank = [s for s in p.sources if isinstance(s, BankVector)]
        assert len(set(p.names)) == len(p.names) == len(p.sources)
        assert not {ids[s.row] for s in bank} & set(speakers)
        if p.mode is Mode.NO:
            assert p.sources == ()
            continue
        assert {s.speaker for s in p.sources if isinstance(s, ClipVector)} == set(range(len(speakers)))
        named = {speakers[s.speaker]: n for s, n in zip(p.sources, p.names, strict=True) if isinstance(s, ClipVector)}
        assert named == p.target_names
        extra[p.mode, len(bank)] += 1
    assert {n for m, n in extra if m is Mode.MATCH} == {0}
    assert {n for m, n in extra if m is Mode.OVER} == {1, 2, 3, 4, 5, 6}


def test_registered_speakers_come_in_random_order_under_newly_drawn_names() -> None:
    source = make_source(400)
    planned = [p for p in samples_of(list(make_plan(source, epochs=2))) if p.mode is Mode.MATCH and len(p.names) == 3]
    orders = Counter(p.sources for p in planned)
    assert len(orders) == 6
    assert max(orders.values()) < 2 * min(orders.values()) + 12
    assert len({n for p in planned for n in p.names}) > 150


def test_a_bank_of_the_clip_alone_registers_the_clip_alone() -> None:
    planned = samples_of(list(make_plan(make_source(60, speakers=1))))
    assert {len(p.names) for p in planned if p.mode is Mode.OVER} == {1}


def test_a_stage_without_registration_plans_bare_transcripts() -> None:
    planned = samples_of(list(make_plan(make_source(30), registration=False)))
    assert {p.mode for p in planned} == {Mode.ASR}
    assert {p.names for p in planned} == {()}


def test_validation_plans_each_sample_once_in_each_mode() -> None:
    modes = (Mode.NO, Mode.MATCH, Mode.OVER)
    steps = list(make_plan(make_source(37), modes=modes))
    assert Counter(p.mode for p in samples_of(steps)) == dict.fromkeys(modes, 37)
    assert [s.micro_batches for s in steps] == [s.micro_batches for s in make_plan(make_source(37), modes=modes)]


def test_an_epoch_has_its_own_order_and_a_seed_its_own_draws() -> None:
    first, second = (
        [p.key for p in samples_of(list(make_plan(make_source(80), epochs=2))) if p.epoch == e] for e in (0, 1)
    )
    other = [p.key for p in samples_of(list(make_plan(make_source(80), seed=2)))]
    assert first != second
    assert first != other


@pytest.mark.parametrize(("weights", "share"), [((1.0, 1.0), 0.5), ((3.0, 1.0), 0.75)])
def test_datasets_are_mixed_by_weight_in_every_stretch(weights: tuple[float, float], share: float) -> None:
    sources = make_source(300, name="one"), make_source(300, name="two")
    shares = [DatasetConfig(path=s.name, weight=w) for s, w in zip(sources, weights, strict=True)]
    steps = list(itertools.islice(make_plan(*sources, shares=shares, epochs=None), 50))
    drawn = np.array([b.dataset for s in steps for b in s.micro_batches])
    for start in range(0, 200, 40):
        assert abs((drawn[start : start + 40] == 0).mean() - share) <= 0.06


def test_a_dataset_that_ends_leaves_its_place_to_the_others() -> None:
    sources = make_source(10, name="short"), make_source(200, name="long")
    planned = samples_of(list(make_plan(*sources)))
    assert Counter(p.dataset for p in planned) == {0: 10, 1: 200}


@pytest.mark.parametrize(("budget", "says"), [("max_positions", "positions"), ("max_frames", "frames")])
def test_a_sample_over_the_budget_is_named(budget: str, says: str) -> None:
    source = make_source(30)
    source.shards[1][3] = replace(source.shards[1][3], key="too-long", num_samples=60 * 16_000, text_tokens=900)
    roomy = {"max_positions": 100_000, "max_frames": 100_000} | {budget: 800}
    with pytest.raises(PlanError, match=f"too-long.*{says}"):
        list(make_plan(source, data=make_data(**roomy)))


def test_audio_without_a_single_frame_is_named() -> None:
    source = make_source(5)
    source.shards[0][2] = replace(source.shards[0][2], key="click", num_samples=399)
    with pytest.raises(PlanError, match="click"):
        list(make_plan(source))


def test_a_dataset_emptied_by_its_exclude_list_is_an_error(tmp_path) -> None:
    exclude = tmp_path / "exclude.txt"
    exclude.write_text("\n".join(f"made-{i:04d}" for i in range(5)))
    with pytest.raises(PlanError, match="no sample"):
        list(make_plan(make_source(5), shares=[DatasetConfig(path="made", exclude=str(exclude))]))


def test_a_dataset_leaves_the_mixture_after_its_epochs() -> None:
    sources = make_source(40, name="short"), make_source(200, name="long")
    shares = [DatasetConfig(path="short", epochs=2), DatasetConfig(path="long")]
    planned = samples_of(list(itertools.islice(make_plan(*sources, shares=shares, epochs=None), 60)))
    counts = Counter(p.key for p in planned if p.dataset == 0)
    assert len(counts) == 40
    assert set(counts.values()) == {2}
    assert {p.epoch for p in planned if p.dataset == 1} > {0, 1}


def test_a_plan_ends_when_every_dataset_has_had_its_epochs() -> None:
    sources = make_source(40, name="one"), make_source(30, name="two")
    shares = [DatasetConfig(path="one", epochs=1), DatasetConfig(path="two", epochs=3)]
    planned = samples_of(list(make_plan(*sources, shares=shares, epochs=None)))
    assert Counter(p.dataset for p in planned) == {0: 40, 1: 90}


def test_a_curriculum_changes_weights_at_its_steps() -> None:
    sources = make_source(300, name="one"), make_source(300, name="two")
    data = make_data(curriculum=[PhaseConfig(1, [1.0, 0.0]), PhaseConfig(11, [1.0, 3.0]), PhaseConfig(21)])
    steps = list(itertools.islice(make_plan(*sources, data=data, epochs=None), 40))
    drawn = np.array([[b.dataset for b in s.micro_batches] for s in steps])
    assert not drawn[:10].any()
    assert drawn[10:20].mean() == pytest.approx(0.75, abs=0.06)
    assert drawn[20:].mean() == pytest.approx(0.5, abs=0.06)  # the recipe's own weights


def test_a_curriculum_leaves_long_samples_out_of_the_windows_of_its_phase() -> None:
    data = make_data(curriculum=[PhaseConfig(1, max_seconds=4.0), PhaseConfig(9)], window_shards=2)
    steps = list(itertools.islice(make_plan(make_source(200), data=data, epochs=None), 40))
    longest = [max(p.num_samples for p in samples_of([s])) / 16_000 for s in steps]
    assert max(longest[:8]) <= 4.0
    last_early = max(i for i, s in enumerate(steps) if s.state["streams"][0]["max_seconds"] is not None)
    assert 7 <= last_early < 20  # the window that was open continues to its end
    assert max(longest[last_early + 1 :]) > 6.0
    for stop in range(0, 14):
        plan = make_plan(make_source(200), data=data, epochs=None)
        plan.load_state_dict(json.loads(json.dumps(steps[stop].state)))
        assert list(itertools.islice(plan, 3)) == steps[stop + 1 : stop + 4]


def test_a_phase_whose_datasets_have_ended_gives_way_to_the_next() -> None:
    sources = make_source(40, name="one"), make_source(30, name="two")
    shares = [DatasetConfig(path="one", epochs=1), DatasetConfig(path="two", epochs=2)]
    data = make_data(curriculum=[PhaseConfig(1, [1.0, 0.0]), PhaseConfig(10_000)])
    steps = list(make_plan(*sources, shares=shares, data=data, epochs=None))
    assert Counter(p.dataset for p in samples_of(steps)) == {0: 40, 1: 60}
    last_of_one = max(i for i, s in enumerate(steps) if any(b and b.dataset == 0 for b in s.micro_batches))
    for stop in (last_of_one - 1, last_of_one, last_of_one + 1):
        plan = make_plan(*sources, shares=shares, data=data, epochs=None)
        plan.load_state_dict(json.loads(json.dumps(steps[stop].state)))
        assert list(plan) == steps[stop + 1 :]


def test_an_aligned_epoch_ends_though_its_last_windows_are_empty() -> None:
    """Shards of the source that hold only long samples are windows without a micro-batch."""
    source = make_source(120)
    rows = source.rows
    source.rows = lambda shard: [replace(r, num_samples=30 * 16_000) if shard % 2 else r for r in rows(shard)]
    data = make_data(
        align_epochs=True, micro_batches_per_step=3, window_shards=1, curriculum=[PhaseConfig(1, max_seconds=20.0)]
    )
    steps = list(itertools.islice(make_plan(source, data=data, epochs=None), 60))
    for a, b in itertools.pairwise(steps):
        epochs = [{p.epoch for p in samples_of([s])} for s in (a, b)]
        assert len(epochs[0]) == 1
        assert a.state["epoch_ended"] == (epochs[0] != epochs[1])
    assert sum(s.state["epoch_ended"] for s in steps) >= 4
    for stop in range(0, 20):
        plan = make_plan(source, data=data, epochs=None)
        plan.load_state_dict(json.loads(json.dumps(steps[stop].state)))
        assert list(itertools.islice(plan, 3)) == steps[stop + 1 : stop + 4]


def test_aligned_epochs_end_with_a_step() -> None:
    data = make_data(align_epochs=True, micro_batches_per_step=3)
    alone = list(itertools.islice(make_plan(make_source(60), data=data, epochs=None), 40))
    for step in alone:
        assert len({p.epoch for p in samples_of([step])}) == 1
        place = step.state["streams"][0]
        assert step.state["epoch_ended"] == (place["window"] == place["position"] == 0)
    assert sum(s.state["epoch_ended"] for s in alone) >= 2
    mixed = make_plan(make_source(60, name="one"), make_source(300, name="two"), data=data, epochs=None)
    steps = list(itertools.islice(mixed, 40))
    assert all(None not in s.micro_batches for s in steps)  # the other dataset takes the places


def test_spares_are_of_the_same_mode_and_from_another_micro_batch_if_it_exists() -> None:
    data = make_data(window_shards=4)  # several micro-batches of a mode
    batches = [b for s in make_plan(make_source(200), data=data, epochs=1) for b in s.micro_batches if b]
    for batch in batches:
        assert {p.mode for p in batch.spares} == {batch.mode}
    apart = [not {p.key for p in b.spares} & {p.key for p in b.samples} for b in batches]
    assert np.mean(apart) > 0.8


def test_identity_covers_every_setting_that_shapes_a_plan() -> None:
    """A new setting must be compared on resume, or named here as one that shapes nothing."""
    speed = {"train", "validation", "workers", "prefetch_steps", "max_consecutive_replacements"}
    speed |= {"dialogue", "encoder_calls"}  # compared in stages with dialogues: test_dialogue_plan.py
    speed |= {"temperature"}  # compared if it is set: test_temperature_evens_out_the_datasets
    speed |= {"context"}  # likewise: test_a_changed_context_is_refused_on_resume
    speed |= {"lengths_cache", "shard_cache", "shard_cache_gb", "accept_dataset_change"}
    known = make_plan(make_source(5)).state_dict()["recipe"]
    fields = {f"data.{n}" for n in vars(make_data()) if n not in speed}
    assert fields <= known.keys()
    settings = set(vars(PlanSettings(1, True, 2, "", make_data()))) - {"seed", "data", "noise", "tasks", "cache"}
    assert len(known) == len(fields) + len(settings)
