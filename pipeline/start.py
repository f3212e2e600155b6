"""From a recipe to a running stage: processes, model, engine, data, trainer, in the order of their needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import checkpoint
from pipeline.config import Recipe, dump_recipe
from pipeline.engine import (
    Ranks,
    check_optimizer,
    describe,
    dtype_name,
    init_distributed,
    initialize,
    resolve_deepspeed,
    say,
    trainable_table,
)
from pipeline.flops import Meter
from pipeline.resilience import StopRequest, guarded, leave
from pipeline.stages import STAGES
from pipeline.trainer import Run, Trainer


def run_stage(recipe: Recipe, stop_after: int | None = None) -> int:
    """Train one stage in this process, one of N. Returns the exit code, or leaves at once after a fault."""
    stop = StopRequest().install()
    code = guarded(lambda: _train(recipe, stop, stop_after), lambda: advice(Path(recipe.output)))
    if code != 0:
        leave(code)
    return code


def _train(recipe: Recipe, stop: StopRequest, stop_after: int | None) -> int:
    before = checkpoint.read_done(Path(recipe.init_from)) if recipe.init_from else None
    ranks = init_distributed(recipe.trainer.timeout_seconds)
    output = Path(recipe.output)
    if (output / checkpoint.DONE).exists():
        say(ranks, f"{output} is done already; remove {output / checkpoint.DONE} to train it on")
        return 0
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    say(ranks, describe(dump_recipe(recipe), ds_config))
    if recipe.trainer.deterministic:
        _be_deterministic()
    from pipeline.model.build import load_tokenizer
    from pipeline.stage_data import StageData

    model, source, bases = build(recipe, ds_config, ranks, before)
    say(ranks, trainable_table(model, STAGES[recipe.stage].trains))
    engine = initialize(model, ds_config)
    check_optimizer(engine, model)
    data = StageData(recipe, ranks, load_tokenizer(recipe.model))
    meter = Meter.of(model, STAGES[recipe.stage].trains, ranks.world_size)
    return Trainer(Run(recipe, ranks, engine, data, stop, bases, source, stop_after, meter)).train()


def build(
    recipe: Recipe, ds_config: dict[str, Any], ranks: Ranks, before: dict[str, Any] | None
) -> tuple[Any, Path | None, dict[str, str]]:
    """The model with this stage's weights and trainable set; the file of own weights it started from; hashes of bases.

    Args:
        before: ``done`` marker of the run in ``init_from``.

    Raises:
        CheckpointError: the weights of the run it starts from were damaged.
        ModelError: weights that do not fit.
    """
    import torch

    from pipeline.model.build import WEIGHTS, build_model, load_own_weights, set_trainable

    model = build_model(
        recipe.model, ds_config=ds_config, dtype=getattr(torch, dtype_name(ds_config)), seed=recipe.seed
    )
    bases = dict(model.bases)
    source = None
    if recipe.init_from and before:
        source = Path(recipe.init_from) / WEIGHTS
        checkpoint.check_weights(source, before["weights_sha256"], ranks)
        load_own_weights(model, Path(recipe.init_from))
        bases["init_from"] = before["weights_sha256"]
    set_trainable(model, STAGES[recipe.stage])
    model.to(ranks.device)  # type: ignore[arg-type]
    return model, source, bases


def advice(output: Path) -> str:
    """What to do after a fault that this rank did not cause."""
    names = checkpoint.complete_names(output / "checkpoints")
    where = f"it resumes from step {int(names[-1].removeprefix('step-'))}" if names else "it starts from step 0"
    return f"Start the same command again: {where}."


def _be_deterministic() -> None:
    """Bit-equal repetition on a GPU too, at some cost; on a CPU it is so anyway."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
