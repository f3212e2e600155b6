"""A short training run in which one thing goes wrong at a chosen moment, and what is left of it.

The functions here run in forked ranks; a :class:`Trouble` says what happens to whom and when.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS, SAVE_EVERY = 9, 3
SAVE_POINTS = ("before any file", "between files", "before the manifest", "between manifest and name", "in rotation")


@dataclass(frozen=True)
class Trouble:
    """What happens."""

    kind: str = "none"
    step: int = 5  # while this step is computed, or its checkpoint saved
    rank: int = 1


def train(folder: str, trouble: Trouble | None = None, stage: int = 4, bases: str = "toy", **settings: Any) -> int:
    """The toy run in this rank; its exit code. ``settings`` are of the trainer, but for ``seed``."""
    from pipeline.ranks.launch import init_distributed
    from pipeline.ranks.stop import guarded
    from pipeline.ranks.watchdog import Watchdog
    from pipeline.train.run_lock import locked
    from pipeline.train.run_stage import advice
    from tests.support.toy import toy_recipe, toy_trainer

    output, seed = Path(folder), settings.pop("seed", 1)
    given = {"steps": STEPS, "keep_last": 2, "keep_best": 0, "start_timeout_seconds": 60.0, **settings}
    recipe = toy_recipe(output, stage, **given)
    recipe.seed = seed

    def run() -> int:
        with locked(output, ranks):
            trainer = toy_trainer(recipe, ranks, dropout=0.3, bases=bases)
            trainer.run.watchdog = dog
            trainer.run.stop.install().at_the_latest(recipe.trainer.time_limit_seconds, 0.0)
            if trouble is not None:
                install(trouble, trainer)
            return trainer.train()

    t = recipe.trainer
    with Watchdog(t.start_timeout_seconds, t.timeout_seconds, output / "stacks").watching(
        lambda: advice(output)
    ) as dog:
        try:
            ranks = init_distributed(60)
        except Exception as e:  # noqa: BLE001 - reported as the run would
            print(e)
            return 1
        return guarded(run, lambda: advice(output))


def install(trouble: Trouble, trainer: Any) -> None:
    """Arm the trouble in the rank that it is for."""
    if trainer.ranks.rank != trouble.rank:
        return
    here = _Moment(trainer, trouble.step)

    def never_again() -> bool:
        return here.step >= trouble.step

    def validating() -> bool:
        return not trainer.engine.module.training

    def stop_twice() -> None:
        from pipeline.checkpoint import format as checkpoint

        _before(trainer, "forward", here.now, _stop)
        _before(checkpoint, "write_rank_file", lambda: trainer.run.stop.is_set, _stop)

    arm: dict[str, Callable[[], object]] = {
        "kill before backward": lambda: _before(trainer.engine, "backward", here.now, _die),
        "kill after backward": lambda: _before(trainer.engine, "step", here.now, _die),
        "nan loss": lambda: _spoil(trainer, here.now, lambda loss: loss * math.nan),
        "every loss is nan": lambda: _spoil(trainer, never_again, lambda loss: loss * math.nan),
        "leap": lambda: _spoil(trainer, here.now, lambda loss: loss * 1000.0),
        "infinite gradient": lambda: _spoil(trainer, here.now, _with_infinite_gradient),
        "sleep": lambda: _before(trainer, "forward", here.now, _sleep_here),
        "lag": lambda: _before(trainer, "forward", lambda: True, lambda: time.sleep(0.5)),
        "stop": lambda: _before(trainer, "forward", here.now, _stop),
        "stop in validation": lambda: _before(trainer.validation, "token_losses", validating, _stop),
        "stop at start": _stop,
        "stop, and again in the save": stop_twice,
        "full disk": _fill_disk,
        **{point: lambda point=point: _kill_in_save(point, trouble.step) for point in SAVE_POINTS},
    }
    arm[trouble.kind]()


class _Moment:
    """Whether the trainer computes a step now. Steps count from 1, the next one is the one that is computed."""

    def __init__(self, trainer: Any, step: int) -> None:
        self._trainer, self._step = trainer, step

    @property
    def step(self) -> int:
        return int(self._trainer.step) + 1

    def now(self) -> bool:
        return self.step == self._step and self._trainer.engine.module.training


def _before(owner: Any, name: str, when: Callable[[], bool], what: Callable[[], None]) -> None:
    real = getattr(owner, name)

    def troubled(*args: Any, **kwargs: Any) -> Any:
        if when():
            what()
        return real(*args, **kwargs)

    setattr(owner, name, troubled)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)


def _sleep_here() -> None:
    time.sleep(50)


def _fill_disk() -> None:
    import safetensors.torch

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    safetensors.torch.save_file = full


def _with_infinite_gradient(loss: Any) -> Any:
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


def _kill_in_save(point: str, step: int) -> None:
    """Kill while the checkpoint of the step is written; by then the trainer may be further."""
    import shutil

    from pipeline.checkpoint import format as checkpoint

    def of_that_step(path: Any) -> bool:
        return checkpoint.folder_name(step) in str(path)

    def wrap(owner: Any, name: str, *, after: bool = False) -> None:
        real = getattr(owner, name)

        def troubled(*args: Any, **kwargs: Any) -> Any:
            if not after and of_that_step(args[0]):
                _die()
            result = real(*args, **kwargs)
            if after and of_that_step(args[0]):
                _die()
            return result

        setattr(owner, name, troubled)

    if point == "before any file":
        wrap(checkpoint, "write_rank_file")
    elif point == "between files":
        wrap(checkpoint, "write_rank_file", after=True)
    elif point == "before the manifest":
        wrap(checkpoint, "write_atomic")
    elif point == "between manifest and name":
        wrap(checkpoint, "commit_by_rename")
    else:  # the name is gone, the files are not: the first checkpoint goes when the third is there

        def half_removed(path: Path, **_: Any) -> None:
            if path.name.endswith(".removed") and path.exists():
                _die()

        shutil.rmtree = half_removed  # type: ignore[assignment]


def _spoil(trainer: Any, when: Callable[[], bool], how: Callable[[Any], Any]) -> None:
    """Change the losses of this rank in training."""
    real = trainer.forward

    def forward(batch: Any) -> Any:
        loss, parts = real(batch)
        return (how(loss), parts) if when() and trainer.engine.module.training else (loss, parts)

    trainer.forward = forward


# ------------------------------------------------------------------------------------------------------- what is left


def history(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of each line of the log."""
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows(run, "train")]


def rows(run: Path, log: str) -> list[dict[str, Any]]:
    """Lines of a log of a run."""
    return [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, Any]:
    """Finished weights by name."""
    from safetensors.torch import load_file

    return load_file(run / "weights" / "model.safetensors")


def checkpoints(run: Path) -> list[int]:
    """Steps of the committed ones."""
    from pipeline.checkpoint.format import committed_names

    return [int(name.rpartition("-")[2]) for name in committed_names(run / "checkpoints")]


def same_run(run: Path, other: Path) -> bool:
    """Whether every loss, norm and weight is equal to the last bit."""
    a, b = weights(run), weights(other)
    assert history(run) == history(other)
    assert a.keys() == b.keys()
    assert all(bool((a[name] == b[name]).all()) for name in a)
    return True
