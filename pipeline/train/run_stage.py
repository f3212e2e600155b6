"""Run stages: processes, model, engine, data and trainer, from a recipe."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.checkpoint import final_weights as finished
from pipeline.checkpoint import format as checkpoint
from pipeline.ranks.collectives import any_rank, barrier
from pipeline.ranks.launch import Ranks, init_distributed
from pipeline.ranks.rank_log import rank_logging
from pipeline.ranks.stop import REQUEUE, StopRequest, guarded, leave
from pipeline.ranks.watchdog import Watchdog, nccl_environment
from pipeline.recipe.deepspeed import describe, dtype_name, resolve_deepspeed
from pipeline.recipe.load import dump_recipe
from pipeline.recipe.schema import Recipe
from pipeline.stages import stage_of
from pipeline.train.engine import check_optimizer, initialize, release, trainable_table
from pipeline.train.run import Data, Run
from pipeline.train.run_lock import locked
from pipeline.train.starting_point import Start, find_start, take_weights
from pipeline.train.trainer import Trainer

logger = logging.getLogger(__name__)


def run_stages(recipes: Sequence[Recipe], stop_after: int | None = None) -> int:
    """Train stages one after the other, in this process of N. Return the exit code of the last stage that ran.

    They share one stop request: a signal at the end of a stage prevents the next, and a time limit counts from the
    start of the first.
    """
    stop = StopRequest().install()
    for recipe in recipes:
        code = run_stage(recipe, stop_after, stop)
        if code != 0 or stop.cut_short:
            return code
        _reclaim()
    return 0


def run_stage(recipe: Recipe, stop_after: int | None = None, stop: StopRequest | None = None) -> int:
    """Train one stage, in this process of N. Return the exit code, or end the process after a fault."""
    t, output = recipe.trainer, Path(recipe.output)
    stop = (stop or StopRequest().install()).at_the_latest(t.time_limit_seconds, t.stop_margin_seconds)

    def hint() -> str:
        return advice(output)

    limits = Watchdog(t.start_timeout_seconds, t.timeout_seconds, output / "stacks")
    with rank_logging(output), limits.watching(hint) as watchdog:
        code = guarded(lambda: _train(recipe, stop, watchdog, stop_after), hint)
        if code != 0:
            leave(code)
        return code


def _train(recipe: Recipe, stop: StopRequest, watchdog: Watchdog, stop_after: int | None) -> int:
    output, t = Path(recipe.output), recipe.trainer
    # A collective's own limit is later than the watchdog's, whose report says more.
    limit = max(t.start_timeout_seconds, t.timeout_seconds) + 60
    ranks = init_distributed(limit, nccl_environment(limit, output / "stacks"))
    if any_rank(ranks, finished.is_done(output)):  # a network filesystem may show the marker to some ranks only
        logger.info("%s is already done; remove %s to continue training it", output, output / finished.DONE)
        return 0
    start = find_start(recipe, ranks)
    if stop.warning and ranks.is_first:
        logger.warning(stop.warning)
    if any_rank(ranks, stop.is_set):
        return REQUEUE
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    logger.info(describe(dump_recipe(recipe), ds_config))
    if t.deterministic:
        _be_deterministic()
    stage = stage_of(recipe.stage, recipe.model.base)
    with locked(output, ranks):
        model, source, bases = build(recipe, ds_config, ranks, start)
        logger.info(trainable_table(model, stage.trains))
        engine = initialize(model, ds_config, recipe.optimizer.lr_factors)
        check_optimizer(engine, model)
        meter = stage.load(stage.meter)(model, stage.trains, ranks.world_size) if stage.meter else None
        data = open_data(recipe, ranks, meter)
        run = Run(recipe, ranks, engine, data, stop, bases, source, stop_after, meter, watchdog)
        trainer = Trainer(run)
        code = trainer.train()
        stop.cut_short = not trainer.finished  # not by the marker, which a rank of another node may not see yet
        release(engine)
        barrier(ranks)  # no rank exits while another may still communicate with it
        trainer.monitors.close()
        return code


def build(
    recipe: Recipe, ds_config: dict[str, Any], ranks: Ranks, start: Start | None
) -> tuple[Any, Path | None, dict[str, str]]:
    """Return the model with its weights and trainable set, the file of own weights it started from, hashes of bases.

    Args:
        start: what ``init_from`` names; None: the public checkpoints.

    Raises:
        CheckpointError: the weights it starts from were damaged.
        ModelError: weights that do not fit, or kernels that cannot run here.
    """
    import torch

    from pipeline.model.build import set_trainable
    from pipeline.model.float8 import use_float8
    from pipeline.model.liger import use_liger

    stage, dtype = stage_of(recipe.stage, recipe.model.base), getattr(torch, dtype_name(ds_config))
    model: Any = stage.load(stage.model)(recipe.model, ds_config=ds_config, dtype=dtype, seed=recipe.seed)
    bases = dict(model.bases)
    source = None
    if start is not None:
        source, bases["init_from"] = take_weights(model, recipe, start, ranks)
    if recipe.model.llm.liger:
        use_liger(model.llm)
    if recipe.model.llm.float8:
        use_float8(model.llm, ranks.device)
    set_trainable(model, stage)
    model.to(ranks.device)
    return model, source, bases


def open_data(recipe: Recipe, ranks: Ranks, meter: Any) -> Data:
    """Return the data of the stage: packed audio, or pairs of transcripts."""
    from pipeline.model.build import load_tokenizer

    stage = stage_of(recipe.stage)
    data: Data = stage.load(stage.data)(recipe, ranks, load_tokenizer(recipe.model), meter)
    return data


def advice(output: Path) -> str:
    """Return a hint for the user after a fault that another rank caused."""
    names = checkpoint.committed_names(output / "checkpoints")
    where = f"it resumes from step {int(names[-1].removeprefix('step-'))}" if names else "it starts from step 0"
    return f"Start the same command again: {where}."


def _reclaim() -> None:
    """Free the memory of the stage that has ended; its engine is part of reference cycles."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _be_deterministic() -> None:
    """Make results on a GPU equal bit by bit from run to run, at some cost; on a CPU they always are."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
