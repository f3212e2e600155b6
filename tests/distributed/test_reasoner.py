"""Stages of Speaker-Reasoner under ZeRO-3: unlike dialogues never hang, runs resume on any number of ranks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe.schema import CacheConfig, DatasetConfig, DialogueConfig, Recipe
from tests.support.distributed import run_distributed
from tests.support.training import DIM, make_parts, tiny_recipe

CALLS = 3


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    run_distributed(_make, 1, folder=str(folder))
    return folder


def _make(folder: str) -> None:
    from tests.support.datasets import make_dataset

    make_parts(folder)
    make_dataset(Path(folder) / "meetings", samples=24, speakers_per_sample=(1, 3), dim=DIM, seed=6, sessions=True)
    make_dataset(Path(folder) / "turns", samples=1, speakers_per_sample=(40, 40), seconds=(9.0, 9.5), dim=DIM, seed=7)


def _recipe(parts: str, output: str, stage: int = 13, **trainer: Any) -> Recipe:
    recipe = tiny_recipe(Path(parts), Path(output), stage=stage, dropout=0.0, **trainer)
    recipe.init_from = "unused"
    cache = CacheConfig(share=0.9, min_seconds=0.1, max_seconds=0.5, total_seconds=10.0, per_speaker=8)
    recipe.data = replace(
        recipe.data,
        train=[DatasetConfig(path=str(Path(parts) / "meetings"))],
        validation=[],
        max_positions=8000,
        max_frames=2500,
        dialogue=DialogueConfig(cache=cache, time_weight=1.5),
        encoder_calls=CALLS,
    )
    return recipe


# ------------------------------------------------------------------------------------------------------------ no hang


def _unlike_ranks(parts: str) -> None:
    import torch

    from pipeline.data.collate import empty_batch
    from pipeline.model.build import build_model, load_tokenizer, set_trainable
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.stages import STAGES, Task
    from pipeline.train.engine import initialize
    from pipeline.train.stage_data import StageData

    recipe = _recipe(parts, "unused")
    ranks = init_distributed(60)
    tokenizer = load_tokenizer(recipe.model)
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    model = build_model(recipe.model, ds_config=ds_config, seed=recipe.seed)
    set_trainable(model, STAGES[13])
    engine = initialize(model, ds_config)
    alone = replace(ranks, rank=0, world_size=1)

    def batches(folder: str, stage: int) -> list[Any]:
        chosen = replace(recipe, stage=stage)
        chosen.data = replace(chosen.data, train=[DatasetConfig(path=str(Path(parts) / folder), epochs=1)])
        steps = StageData(chosen, alone, tokenizer).train(None)
        return [b for step in steps for b in step.micro_batches if b.weight]

    many = next(b for b in batches("turns", 12) if b.mode in (Task.REASON, Task.SINGLE))
    one = next(b for b in batches("meetings", 11) if b.mode is Task.COUNT)
    cached = max(batches("meetings", 13), key=lambda b: len(b.waveform_lengths))
    empty = empty_batch(tokenizer, recipe.model.projector.stride, DIM, CALLS)
    pairs = {"1 and many turns": (one, many), "a cache and none": (cached, one), "no slice": (empty, cached)}
    for name, pair in pairs.items():
        for swap in (0, 1):
            batch = pair[(ranks.rank + swap) % 2]
            loss = engine(**batch.model_inputs()).loss
            engine.backward(loss * 1e-3, scale_wrt_gas=False)
            engine.step()
            assert torch.isfinite(loss), name


def test_unlike_ranks_never_hang(parts: Path) -> None:
    run_distributed(_unlike_ranks, 2, 150, parts=str(parts))


# ------------------------------------------------------------------------------------------------------------- resume


def _run(parts: str, output: str, stops: tuple[int | None, ...], stage: int = 13) -> None:
    from pipeline.train.run_stage import run_stage

    for stop_after in stops:
        recipe = _recipe(parts, output, stage, max_steps=4, keep_last=2)
        recipe.init_from_any = True
        recipe.init_from = str(Path(parts) / "run")
        assert run_stage(recipe, stop_after) == 0


def _finished(parts: str) -> None:
    from tests.support.training import finished_run

    finished_run(Path(parts))


def rows(run: Path) -> list[tuple[int, float]]:
    lines = (run / "train.jsonl").read_text().splitlines()
    return [(r["step"], r["loss"]) for r in map(json.loads, lines)]


def of_parts(run: Path) -> list[dict[str, float]]:
    return [json.loads(line)["part_losses"] for line in (run / "train.jsonl").read_text().splitlines()]


def test_a_run_resumes_on_one_two_and_three_ranks(parts: Path, tmp_path: Path) -> None:
    run_distributed(_finished, 1, parts=str(parts))
    run_distributed(_run, 2, 280, parts=str(parts), output=str(tmp_path / "straight"), stops=(2, None))
    expected = rows(tmp_path / "straight")
    assert [step for step, _ in expected] == [1, 2, 3, 4]
    shares = of_parts(tmp_path / "straight")
    assert all(set(found) == {"label", "time", "boundary"} for found in shares)
    for ranks in (1, 3):
        again = tmp_path / f"on-{ranks}"
        shutil.copytree(tmp_path / "straight", again)
        shutil.rmtree(again / "checkpoints" / "step-00000004")
        (again / "done").unlink()
        run_distributed(_run, ranks, 280, parts=str(parts), output=str(again), stops=(None,))
        for (s, x), (t, y) in zip(rows(again), expected, strict=True):
            assert s == t
            assert x == pytest.approx(y, rel=1e-5)
        for mine, theirs in zip(of_parts(again), shares, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- parity


def _same_loss_packed_and_alone(parts: str) -> None:
    """Σ losses and gradients of two dialogues packed equal those of each alone."""
    import torch

    from pipeline.data.collate import collate
    from pipeline.model.build import build_model, load_tokenizer, set_trainable
    from pipeline.ranks.launch import init_distributed
    from pipeline.stages import STAGES
    from pipeline.train.stage_data import StageData

    recipe = _recipe(parts, "unused")
    tokenizer = load_tokenizer(recipe.model)
    data = StageData(recipe, init_distributed(60), tokenizer)
    model = build_model(recipe.model, seed=1)
    set_trainable(model, STAGES[13])
    loader = data._loader(data.training_plan(), data.train_sets, 0)
    planned = next(b for step in loader.plan for b in step.micro_batches if b and len(b.samples) > 1)
    loaded = [loader._reader.load(p) for p in planned.samples[:2]]

    def loss_of(chosen: list[Any], calls: int) -> tuple[float, torch.Tensor]:
        batch = collate(chosen, tokenizer, 2, DIM, "d", 0, recipe.data.dialogue, calls)
        model.zero_grad()
        loss = model(**batch.model_inputs()).loss
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    together, gradient = loss_of(loaded, CALLS)
    apart = [loss_of([item], 1) for item in loaded]
    assert together == pytest.approx(sum(loss for loss, _ in apart), rel=1e-5)
    torch.testing.assert_close(gradient, sum(g for _, g in apart), rtol=1e-4, atol=1e-4)


def test_packed_dialogues_equal_each_alone(parts: Path) -> None:
    run_distributed(_same_loss_packed_and_alone, 1, parts=str(parts))
