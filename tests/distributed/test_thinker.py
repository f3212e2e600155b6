"""Speaker-Reasoner on thinkers: ranks learn what one process learns, unlike ranks never hang, a killed run resumes."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.ranks.stop import FAILED
from pipeline.recipe.schema import (
    CacheConfig,
    DatasetConfig,
    DialogueConfig,
    Recipe,
)
from pipeline.stages import Base
from tests.support.distributed import kill_rank_1_before, report, run_distributed, run_ranks
from tests.support.thinkers import make_thinker, thinker_config
from tests.support.training import DIM, tiny_recipe

BASES = [Base.QWEN2_5_OMNI, Base.QWEN3_OMNI]
CALLS = 2


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both thinkers, clips of sessions, one clip of many speakers, and a finished R1 of each thinker."""
    folder = tmp_path_factory.mktemp("parts")
    run_distributed(_make, 1, folder=str(folder))
    for base in BASES:
        run_distributed(_train, 1, 200, parts=str(folder), output=str(folder / f"R1-{base}"), base=base, stage=11)
    return folder


def _make(folder: str) -> None:
    from tests.support.datasets import make_dataset

    make_dataset(Path(folder) / "meetings", samples=16, speakers_per_sample=(1, 3), dim=DIM, seed=6, sessions=True)
    make_dataset(Path(folder) / "turns", samples=1, speakers_per_sample=(20, 20), seconds=(5.0, 5.5), dim=DIM, seed=7)
    for base in BASES:
        make_thinker(Path(folder) / base, base, layers=2)


def _recipe(parts: str, output: str, base: str, stage: int = 13, **trainer: Any) -> Recipe:
    recipe = tiny_recipe(Path(parts), Path(output), stage=stage, **trainer)
    cache = CacheConfig(share=0.9, min_seconds=0.1, max_seconds=0.5, total_seconds=5.0)
    recipe.init_from = str(Path(parts) / f"R1-{base}") if stage > 11 else None
    recipe.init_from_any = stage > 11
    recipe.model = thinker_config(Path(parts) / base, base)  # the data's vectors are of another extractor: unread
    recipe.data = replace(
        recipe.data,
        train=[DatasetConfig(path=str(Path(parts) / "meetings"))],
        validation=[DatasetConfig(path=str(Path(parts) / "meetings"))],
        max_positions=3000,
        max_frames=1500,
        dialogue=DialogueConfig(cache=cache, time_weight=1.5),
        encoder_calls=CALLS,
    )
    return recipe


def _train(parts: str, output: str, base: str, stage: int = 13, dropout: float = 0.0, die_at: int | None = None) -> int:
    """Three steps of a stage, in this rank."""
    from pipeline.train.run_stage import run_stage

    if die_at is not None:
        kill_rank_1_before(die_at, Path(output) / "checkpoints" / "step-00000002")
    recipe = _recipe(parts, output, base, stage, save_every=2, validation_batches=2, validate_every=1000)
    recipe.model.lora.dropout = dropout
    return run_stage(recipe)


def rows(run: Path, name: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("base", BASES)
def test_two_ranks_learn_what_one_process_learns(parts: Path, tmp_path: Path, base: str) -> None:
    for world in (1, 2):
        run_distributed(_train, world, 200, parts=str(parts), output=str(tmp_path / str(world)), base=base)
    one, two = (rows(tmp_path / n) for n in ("1", "2"))
    assert [row["step"] for row in one] == [1, 2, 3]
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    for mine, theirs in zip(one, two, strict=True):
        assert set(mine["part_losses"]) == {"label", "time", "boundary"}
        assert mine["part_losses"] == pytest.approx(theirs["part_losses"], rel=1e-5)
        assert mine["model_tflop"] > 0
    assert rows(tmp_path / "1", "validation")[-1]["loss"] == pytest.approx(
        rows(tmp_path / "2", "validation")[-1]["loss"], rel=1e-5
    )
    weights = [load_file(tmp_path / n / "weights" / "model.safetensors") for n in ("1", "2")]
    before = load_file(parts / f"R1-{base}" / "weights" / "model.safetensors")
    assert before.keys() == weights[0].keys() == weights[1].keys()
    assert all(".lora_" in name for name in before)
    assert any(not torch.equal(before[name], weights[0][name]) for name in before)
    for name in before:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)


def test_a_killed_run_ends_as_one_that_was_not_disturbed(parts: Path, tmp_path: Path) -> None:
    how: dict[str, Any] = {"parts": str(parts), "base": Base.QWEN3_OMNI, "dropout": 0.1}
    run_distributed(_train, 2, 200, output=str(tmp_path / "straight"), **how)
    fates = run_ranks(_train, 2, 200, output=str(tmp_path / "run"), die_at=3, **how)
    assert [f.code for f in fates] == [FAILED, -signal.SIGKILL], report(fates)
    (output, _) = run_distributed(_train, 2, 200, output=str(tmp_path / "run"), **how)
    assert "resumed from" in output
    assert [r["loss"] for r in rows(tmp_path / "straight")] == [r["loss"] for r in rows(tmp_path / "run")]
    straight, run = (load_file(tmp_path / n / "weights" / "model.safetensors") for n in ("straight", "run"))
    assert all(torch.equal(straight[name], run[name]) for name in straight)

    alone = tmp_path / "alone"  # its last step again, on one rank
    shutil.copytree(tmp_path / "run", alone)
    shutil.rmtree(alone / "checkpoints" / "step-00000003")
    (alone / "done").unlink()
    (output,) = run_distributed(_train, 1, 200, output=str(alone), **how)
    assert "resumed from" in output
    assert rows(alone)[-1]["loss"] == pytest.approx(rows(tmp_path / "run")[-1]["loss"], rel=1e-5)


# ------------------------------------------------------------------------------------------------------------ no hang


def _one_expert(model: Any) -> None:
    """Let this rank's routers choose the same experts for every token, whatever the others' do."""
    from types import MethodType

    def forward(self: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = torch.nn.functional.linear(hidden_states.reshape(-1, self.hidden_dim), self.weight)
        chosen = torch.arange(self.top_k).expand(len(logits), -1)
        return logits, torch.full(chosen.shape, 1 / self.top_k), chosen

    for module in model.modules():
        if type(module).__name__ == "Qwen3OmniMoeThinkerTextTopKRouter":
            vars(module)["forward"] = MethodType(forward, module)


def _unlike_ranks(parts: str, base: str) -> None:
    from deepspeed.utils.z3_leaf_module import z3_leaf_module

    from pipeline.data.collate import empty_batch
    from pipeline.model.build import load_tokenizer, set_trainable
    from pipeline.model.thinker import build_thinker
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.stages import Task, stage_of
    from pipeline.train.engine import initialize
    from pipeline.train.stage_data import StageData

    recipe = _recipe(parts, "unused", base)
    recipe.data.max_positions = 8000
    ranks = init_distributed(60)
    tokenizer = load_tokenizer(recipe.model)
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    model = build_thinker(recipe.model, ds_config=ds_config)
    set_trainable(model, stage_of(13, base))
    if ranks.rank:
        _one_expert(model)
    engine = initialize(model, ds_config)
    for module in model.modules():
        if type(module).__name__.endswith(("ThinkerTextDecoderLayer", "OmniDecoderLayer", "AudioEncoder")):
            assert z3_leaf_module(module), type(module).__name__
    alone = replace(ranks, rank=0, world_size=1)

    def batches(folder: str, stage: int) -> list[Any]:
        chosen = replace(recipe, stage=stage)
        chosen.data = replace(chosen.data, train=[DatasetConfig(path=str(Path(parts) / folder), epochs=1)])
        steps = StageData(chosen, alone, tokenizer).train(None)
        return [b for step in steps for b in step.micro_batches if b.weight]

    many = next(b for b in batches("turns", 13))
    one = next(b for b in batches("meetings", 11) if b.mode is Task.COUNT)
    cached = max(batches("meetings", 13), key=lambda b: len(b.waveform_lengths))
    empty = empty_batch(tokenizer, recipe.model.stride, recipe.model.speaker_dim, CALLS)
    pairs = {"1 and many turns": (one, many), "a cache and none": (cached, one), "no slice": (empty, cached)}
    for name, pair in pairs.items():
        for swap in (0, 1):
            batch = pair[(ranks.rank + swap) % 2]
            loss = engine(**batch.model_inputs()).loss
            engine.backward(loss * 1e-3, scale_wrt_gas=False)
            engine.step()
            assert torch.isfinite(loss), name


@pytest.mark.parametrize("base", BASES)
def test_ranks_with_unlike_turns_and_experts_never_hang(parts: Path, base: str) -> None:
    run_distributed(_unlike_ranks, 2, 150, parts=str(parts), base=base)
