"""SpeakerLM itself under ZeRO-3 on two gloo processes: equal to plain PyTorch, no hang, one batch learnt by heart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.recipe.schema import DatasetConfig, OptimizerConfig, Recipe
from tests.support.distributed import run_distributed
from tests.support.training import DIM, FixedModes, make_parts, tiny_recipe


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    run_distributed(make_parts, 1, folder=str(folder))
    return folder


# ------------------------------------------------------------------------------------------------------------- parity


def _factored_recipe(parts: str, output: str, factors: str) -> Recipe:
    recipe = tiny_recipe(Path(parts), Path(output))
    recipe.optimizer.lr_factors = json.loads(factors)
    return recipe


def _train_with_zero3(parts: str, output: str, factors: str) -> int:
    from pipeline.train.run_stage import run_stage

    return run_stage(_factored_recipe(parts, output, factors))


def _train_plainly(parts: str, output: str, factors: str) -> None:
    """The same three steps without DeepSpeed: one process, one graph a step, torch's AdamW and clipping."""
    import torch

    from pipeline.model.build import build_model, load_tokenizer, set_trainable
    from pipeline.model.own_weights import own_state_dict, save_own_weights
    from pipeline.ranks.launch import init_distributed
    from pipeline.stages import STAGES, module_of
    from pipeline.train.learning_rate import lr_at
    from pipeline.train.stage_data import StageData

    recipe = _factored_recipe(parts, output, factors)
    o = recipe.optimizer
    data = StageData(recipe, init_distributed(60), load_tokenizer(recipe.model))
    model = build_model(recipe.model, seed=recipe.seed)
    set_trainable(model, STAGES[recipe.stage])
    assert all(not p.any() for n, p in model.named_parameters() if "lora_B" in n)
    trained = [p for p in model.parameters() if p.requires_grad]
    learning = [(o.lr_factors.get(module_of(n), 1.0), p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": [p], "factor": factor} for factor, p in learning]
    adam = torch.optim.AdamW(groups, betas=tuple(o.betas), eps=o.eps, weight_decay=o.weight_decay)
    steps = data.train(None)
    for step in range(recipe.trainer.max_steps):
        batches = next(steps).micro_batches
        counts = [b.num_targets for b in batches]
        assert counts[0] + counts[2] != counts[1], "both ranks would have the same number of target tokens"
        for group in adam.param_groups:
            group["lr"] = group["factor"] * lr_at(step, o, recipe.trainer.max_steps)
        loss = sum(model(**b.model_inputs()).loss for b in batches) / sum(counts)
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, o.clip)
        adam.step()
        print(json.dumps({"loss": loss.item(), "grad_norm": norm.item()}))
    save_own_weights(Path(output) / "weights" / "model.safetensors", own_state_dict(model), model.bases)


@pytest.mark.parametrize("factors", [{}, {"encoder": 0.1, "lora": 3.0}], ids=["one rate", "a rate a module"])
def test_two_ranks_equal_one_plain_process(parts: Path, tmp_path: Path, factors: dict[str, float]) -> None:
    from safetensors.torch import load_file

    given = {"parts": str(parts), "factors": json.dumps(factors)}
    run_distributed(_train_with_zero3, 2, output=str(tmp_path / "zero3"), **given)
    (output,) = run_distributed(_train_plainly, 1, output=str(tmp_path / "plain"), **given)
    plain_log = [json.loads(line) for line in output.splitlines() if line.startswith('{"loss"')]
    log = [json.loads(line) for line in (tmp_path / "zero3" / "train.jsonl").read_text().splitlines()]
    for ours, plain in zip(log, plain_log, strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(plain["grad_norm"], rel=1e-4)
    ours, plain = (load_file(tmp_path / n / "weights" / "model.safetensors") for n in ("zero3", "plain"))
    assert ours.keys() == plain.keys()
    assert any("lora_B" in n and p.abs().max() > 1e-4 for n, p in ours.items())
    off = {n: float((ours[n] - plain[n]).abs().max()) for n in ours}
    assert max(off.values()) < 1e-5, sorted(off.items(), key=lambda x: -x[1])[:5]


# ------------------------------------------------------------------------------------------------------------- resume


def _straight_and_resumed(parts: str, output: str) -> None:
    """Six steps at once; and three steps, a new engine, three steps. All that is drawn at random is on."""
    from pipeline.recipe.schema import AugmentConfig
    from pipeline.train.run_stage import run_stage

    for name, stops in (("straight", (None,)), ("resumed", (3, None))):
        for stop_after in stops:
            recipe = tiny_recipe(Path(parts), Path(output) / name, dropout=0.1, max_steps=6, keep_last=1)
            recipe.model.lora.dropout, recipe.optimizer.clip = 0.05, 0.5
            recipe.optimizer.lr_factors = {"encoder": 0.1}
            augment = AugmentConfig(speeds=[0.9, 1.0, 1.1], frame_masks=2, mel_masks=2)
            recipe.data = replace(recipe.data, validation=[], workers=1, augment=augment)
            assert run_stage(recipe, stop_after) == 0


def test_resume_is_bit_equal_with_dropout_augmentation_and_clipping(parts: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run_distributed(_straight_and_resumed, 2, 280, parts=str(parts), output=str(tmp_path))
    logs = [(tmp_path / name / "train.jsonl").read_text().splitlines() for name in ("straight", "resumed")]
    rows = [[json.loads(line) for line in log] for log in logs]
    a, b = ([(r["step"], r["loss"], r["grad_norm"], r["losses"]) for r in run] for run in rows)
    assert [step for step, *_ in a] == [1, 2, 3, 4, 5, 6]
    assert a == b
    assert all(norm > 0.5 for _, _, norm, _ in a), "clipping was not active"
    assert len({tuple(losses) for *_, losses in a[2:]}) > 1, "the modes did not change after the cut"
    x, y = (load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("straight", "resumed"))
    assert all((x[name] == y[name]).all() for name in x)


# ------------------------------------------------------------------------------------------------------------ no hang


def _unequal_ranks(parts: str) -> None:
    """Each pair of micro-batches goes forward, backward and through an update, on both ranks in both orders."""
    import torch

    from pipeline.data.collate import empty_batch
    from pipeline.model import modeling_speakerlm
    from pipeline.model.build import build_model, load_tokenizer, set_trainable
    from pipeline.model.loss import token_losses_sum
    from pipeline.prompts import Mode
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.stages import STAGES
    from pipeline.train.engine import initialize

    recipe = tiny_recipe(Path(parts), Path(parts) / "unused")
    recipe.data = replace(
        recipe.data,
        train=[DatasetConfig(path=str(Path(parts) / "crowd"))],
        validation=[],
        max_positions=3000,
        max_frames=1000,
        micro_batches_per_step=2,
        registration=replace(recipe.data.registration, max_distractors=50),
    )
    ranks = init_distributed(60)
    tokenizer = load_tokenizer(recipe.model)
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    model = build_model(recipe.model, ds_config=ds_config, seed=recipe.seed)
    set_trainable(model, STAGES[4])
    engine = initialize(model, ds_config)

    def first(modes: list[Mode], n_ov: int | None) -> object:
        alone = replace(ranks, rank=0, world_size=1)
        return next(FixedModes(recipe, alone, tokenizer, modes, n_ov).train(None)).micro_batches[0]

    unregistered, crowd = first([Mode.NO], None), first([Mode.OVER], 40)
    assert len(unregistered.speaker_index) == 0
    assert len(crowd.speaker_index) >= 50
    none = torch.zeros(0, dtype=torch.long)
    no_target = replace(crowd, target_index=none, target_ids=none)
    empty = empty_batch(tokenizer, recipe.model.projector.stride, DIM)
    pairs = {
        "0 and 50 registered": (unregistered, crowd),
        "no target token": (no_target, unregistered),
        "an empty micro-batch": (empty, crowd),
    }
    for chunks in (1, 5):
        for name, pair in pairs.items():
            for swap in (0, 1):
                batch = pair[(ranks.rank + swap) % 2]
                size = max(1, -(-len(batch.target_ids) // (1 if ranks.rank else chunks)))
                modeling_speakerlm.token_losses_sum = lambda *a, size=size: token_losses_sum(*a, chunk=size)
                loss = engine(**batch.model_inputs()).loss
                engine.backward(loss * 1e-3, scale_wrt_gas=False)
                engine.step()
                assert torch.isfinite(loss), name
                assert batch is not empty or loss.item() == 0.0
                print(f"{name}, {chunks} chunks, swap {swap}: loss {loss.item():.3f}")


def test_unequal_ranks_do_not_hang(parts: Path) -> None:
    for output in run_distributed(_unequal_ranks, 2, timeout=60, parts=str(parts)):
        assert output.count("loss") >= 12


# ------------------------------------------------------------------------------------------------------- one batch


def _learn_one_batch(parts: str, output: str) -> int:
    from pipeline.model.build import load_tokenizer
    from pipeline.prompts import Mode
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import StopRequest
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.train.engine import initialize
    from pipeline.train.run import Run
    from pipeline.train.run_stage import build, run_stage
    from pipeline.train.starting_point import find_start
    from pipeline.train.trainer import Trainer

    recipe = _overfit_recipe(parts, output)
    first = replace(recipe, stage=1, init_from=None, output=recipe.init_from)
    first.trainer = replace(first.trainer, max_steps=11)
    assert run_stage(first) == 0
    ranks = init_distributed(60)
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    model, source, bases = build(recipe, ds_config, ranks, find_start(recipe, ranks))
    modes = (Mode.NO, Mode.MATCH, Mode.OVER)
    data = FixedModes(recipe, ranks, load_tokenizer(recipe.model), modes, n_ov=2)
    engine = initialize(model, ds_config)
    return Trainer(Run(recipe, ranks, engine, data, StopRequest(), bases, source)).train()


def _overfit_recipe(parts: str, output: str) -> Recipe:
    """Three micro-batches, one a mode, of the same few short clips; a LoRA large enough to learn them by heart."""
    recipe = tiny_recipe(Path(parts), Path(output) / "stage4", max_steps=65, overfit_one_batch=True)
    recipe.init_from, recipe.init_from_any = str(Path(output) / "stage1"), True
    recipe.data = replace(recipe.data, train=[DatasetConfig(path=str(Path(parts) / "few"))], validation=[])
    recipe.model = replace(recipe.model, lora=replace(recipe.model.lora, r=32, alpha=64))
    recipe.optimizer = OptimizerConfig(start_lr=1e-3, peak_lr=3e-3, final_lr=1e-3, warmup_steps=10, weight_decay=0.0)
    return recipe


def _decode_the_batch(parts: str, output: str) -> None:
    """Decode the batch that the finished run was trained on: one JSON line per sample."""
    from pipeline.data.loader import SampleReader
    from pipeline.model.build import load_finished_run
    from pipeline.prompts import Mode, target_pieces
    from pipeline.ranks.launch import init_distributed

    model, tokenizer, recipe = load_finished_run(Path(output) / "stage4")
    ranks = init_distributed(60)
    data = FixedModes(recipe, ranks, tokenizer, tuple(Mode)[1:], n_ov=2)
    plan = data.training_plan()
    reader = SampleReader(data.train_sets, tokenizer, recipe.model.projector.stride, recipe.model.speaker_dim)
    for batch in next(iter(plan)).micro_batches:
        loaded = [reader.load(p) for p in batch.samples]
        answers = model.generate_text([x.prompt() for x in loaded], tokenizer, max_new_tokens=200)
        for x, answer in zip(loaded, answers, strict=True):
            reference = "".join(target_pieces(x.planned.mode, x.sample.segments, x.planned.target_names or {}))
            print(json.dumps({"mode": x.planned.mode, "reference": reference, "hypothesis": answer}))


def test_one_batch_is_learnt_by_heart(parts: Path, tmp_path: Path) -> None:
    run_distributed(_learn_one_batch, 1, timeout=150, parts=str(parts), output=str(tmp_path))
    log = [json.loads(line) for line in (tmp_path / "stage4" / "train.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.05
    (output,) = run_distributed(_decode_the_batch, 1, parts=str(parts), output=str(tmp_path))
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"mode"')]
    assert {r["mode"] for r in rows} == {"no", "match", "over"}
    assert [r["hypothesis"] for r in rows] == [r["reference"] for r in rows]
