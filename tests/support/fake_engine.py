"""A trainer without DeepSpeed: an engine that descends plain gradients, checkpoints in memory, data as scripted.

What happens is listed in :class:`Script.happened`, in order: ``load 1``, ``update 1``, ``validate``, ``save 2`` …
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline.checkpoint.format import RunState
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from pipeline.train.engine import LR_FACTOR
from pipeline.train.run import Run
from pipeline.train.trainer import Trainer
from shards.errors import CheckpointError
from tests.support.toy import ToyBatch, ToyData, ToyModel, ToyStep, toy_batch, toy_model, toy_recipe

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@dataclass
class Script:
    """What the data do to a run, and what happened to it."""

    steps: int | None = None  # the data end after so many
    bad: Collection[int] = ()  # steps with a loss that is not finite
    spikes: Collection[int] = ()  # steps with a loss far above the others
    epoch_ends: Collection[int] = ()
    stop_loading: int | None = None  # a stop is requested while this step is loaded
    stop_validating: bool = False  # and while held-out data are read
    validation: bool = True  # there are held-out data
    uploads_finish: bool = True
    save_fails_after: int | None = None  # a save in the background fails after this step
    happened: list[str] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)


class FakeEngine:
    """The calls of a DeepSpeed engine that the trainer makes; gradients of ``accumulation`` micro-batches are added."""

    def __init__(self, model: ToyModel, accumulation: int, script: Script) -> None:
        self.module, self._accumulation, self._script = model, accumulation, script
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = SimpleNamespace(param_groups=[{"params": self._trained, "lr": 0.0, LR_FACTOR: 1.0}])
        self.rates: list[float] = []  # of each update
        self.norm = math.nan
        self.updates = 0
        self._calls = 0
        self._applied = False

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool) -> None:
        assert not scale_wrt_gas, "the trainer divides by the targets of the whole step itself"
        loss.backward()

    def step(self) -> None:
        self._calls += 1
        if self._calls % self._accumulation:
            return
        gradients = [p.grad for p in self._trained]
        self.norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        self._applied = math.isfinite(self.norm)
        self.updates += 1
        self._script.happened.append(f"update {self.updates}")
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        with torch.no_grad():
            for p, gradient in zip(self._trained, gradients, strict=True):
                if self._applied:
                    p.sub_(self.rates[-1] * gradient)
                p.grad = None

    def was_step_applied(self) -> bool:
        return self._applied

    def get_global_grad_norm(self) -> float:
        return self.norm

    def zero_round_robin_gradients(self) -> bool:
        return True  # so norms by module are not asked for


class ScriptedData(ToyData):
    """The toy's data, with the faults of a script."""

    def __init__(self, ranks: Ranks, micro_batches: int, script: Script) -> None:
        super().__init__(ranks, micro_batches)
        self._script = script
        self.validation_names = ("toy",) if script.validation else ()

    def train(self, state: dict[str, Any] | None) -> Iterator[ToyStep]:
        s = self._script
        for number, step in enumerate(super().train(state), (state["next"] if state else 0) + 1):
            if s.steps is not None and number > s.steps:
                return
            if number == s.stop_loading:
                s.stop.signal = 15
            s.happened.append(f"load {number}")
            if number in s.bad or number in s.spikes:
                step.micro_batches[-1].frames.mul_(math.nan if number in s.bad else 1e4)
            yield ToyStep(step.micro_batches, {**step.state, "epoch_ended": number in s.epoch_ends})

    def merged_state(self, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "merged": True}

    def validation(self) -> Iterator[tuple[list[ToyBatch], int]]:
        self._script.happened.append("validate")
        if self._script.stop_validating:
            self._script.stop.signal = 15
        yield from super().validation()


@dataclass
class MemoryCheckpoints:
    """Checkpoints as copies in memory; a second trainer resumes from those of a first."""

    script: Script
    engine: FakeEngine | None = None
    kept: list[tuple[RunState, dict[str, torch.Tensor]]] = field(default_factory=list)

    def resume(self) -> RunState | None:
        if not self.kept or self.engine is None:
            return None
        state, weights = self.kept[-1]
        self.engine.module.load_state_dict(weights)
        self.engine.updates = state.step
        self.script.happened.append(f"resume {state.step}")
        return state

    def save(self, state: RunState) -> None:
        assert self.engine is not None
        self.script.happened.append(f"save {state.step}")
        self.kept.append((state, {n: t.clone() for n, t in self.engine.module.state_dict().items()}))

    def wait(self) -> None:
        if self.failed:
            raise CheckpointError("no space left on device")

    @property
    def failed(self) -> bool:
        after = self.script.save_fails_after
        return after is not None and f"save {after}" in self.script.happened

    def take_stalled(self) -> float:
        return 0.25

    def finish_uploads(self, stop: StopRequest, beat: Callable[[str], None]) -> bool:
        self.script.happened.append("finish uploads")
        return self.script.uploads_finish

    def write_final(self, stage: int, step: int) -> Path:
        self.script.happened.append(f"final {step}")
        return Path("weights")


def fake_trainer(
    output: Path,
    script: Script | None = None,
    before: MemoryCheckpoints | None = None,
    stop_after: int | None = None,
    micro_batches: int = 3,
    **settings: Any,
) -> Trainer:
    """A trainer of the toy on a fake engine; it resumes from the checkpoints of a trainer ``before``."""
    script = script or Script()
    recipe = toy_recipe(output, micro_batches=micro_batches, **settings)
    engine = FakeEngine(toy_model(), micro_batches, script)
    checkpoints = MemoryCheckpoints(script, engine, before.kept if before else [])
    data = ScriptedData(ALONE, micro_batches, script)
    return Trainer(Run(recipe, ALONE, engine, data, script.stop, {"llm": "toy"}, None, stop_after), checkpoints)


def targets_of(step: int, micro_batches: int = 3) -> int:
    """Target tokens of the toy's step, counted from 0."""
    return sum(toy_batch(step, m).num_targets for m in range(micro_batches))
