"""A model and data with SpeakerLM's names and calls but of a few numbers, for tests of the trainer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from pipeline.recipe.deepspeed import dtype_name, resolve_deepspeed
from pipeline.recipe.schema import (
    DataConfig,
    DatasetConfig,
    LlmConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    TrainerConfig,
)
from pipeline.stages import module_of, stage_of
from pipeline.train.engine import check_optimizer, initialize
from pipeline.train.run import Run
from pipeline.train.trainer import Trainer

_TRAINER: dict[str, Any] = {"validate_every": 3, "save_every": 3, "log_every": 2, "save_in_background": "never"}
WORDS, WIDTH = 11, 7  # odd, so that nothing divides evenly among ranks


class ToyLlm(nn.Module):
    """A frozen linear layer with a LoRA whose B is zero at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WORDS)
        self.lora_A = nn.Linear(WIDTH, 3, bias=False)
        self.lora_B = nn.Linear(3, WORDS, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


class ToyModel(nn.Module):
    """Sum of token losses from audio frames and one speaker vector."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 13), nn.Dropout(dropout), nn.Linear(13, WIDTH))
        self.audio_projector = nn.Linear(WIDTH, WIDTH)
        self.speaker_projector = nn.Linear(3, WIDTH)
        self.llm = ToyLlm()

    def forward(
        self, frames: Tensor, speaker: Tensor, target_ids: Tensor, weight: float, each_token: bool = False
    ) -> Any:
        dtype = self.encoder[0].weight.dtype
        hidden = self.audio_projector(self.encoder(frames.to(dtype))) + self.speaker_projector(speaker.to(dtype))
        logits = self.llm(hidden)[: len(target_ids)].float()
        if each_token:
            return SimpleNamespace(token_losses=nn.functional.cross_entropy(logits, target_ids, reduction="none"))
        loss = nn.functional.cross_entropy(logits, target_ids, reduction="sum") * weight + 0 * logits.sum()
        return SimpleNamespace(loss=loss)


@dataclass
class ToyBatch:
    """A micro-batch."""

    frames: Tensor
    speaker: Tensor
    target_ids: Tensor
    weight: float
    mode: str
    dataset: str
    keys: tuple[str, ...]
    audio_seconds: float = 1.0

    @property
    def num_targets(self) -> int:
        return len(self.target_ids) if self.weight else 0

    @property
    def num_positions(self) -> int:
        return self.num_targets

    def to(self, device: Any, non_blocking: bool = False) -> ToyBatch:
        return self

    @property
    def labels(self) -> Tensor:
        return torch.arange(len(self.target_ids)) % 3 == 0

    def exchanged(self) -> tuple[ToyBatch, Tensor]:
        affected = torch.full((len(self.target_ids),), self.mode != "no")
        return replace(self, speaker=self.speaker.roll(1)), affected

    def model_inputs(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("frames", "speaker", "target_ids", "weight")}


def toy_batch(step: int, m: int, weight: float = 1.0) -> ToyBatch:
    """Micro-batch m of a step: 1 to 13 targets, so that ranks differ."""
    g = torch.Generator().manual_seed(1000 * step + m)
    n = 1 + (step * 5 + m * 4) % 13
    frames, speaker = torch.randn(13, 5, generator=g), torch.randn(3, generator=g)
    targets = torch.randint(0, WORDS, (n,), generator=g)
    return ToyBatch(frames, speaker, targets, weight, ("no", "match", "over")[m % 3], "toy", (f"s{step}-{m}",))


@dataclass
class ToyStep:
    micro_batches: Sequence[ToyBatch]
    state: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)


class ToyData:
    """Step s holds micro-batches 0..M-1, the same on any world size."""

    train_names = ("toy",)
    validation_names = ("toy",)

    def __init__(self, ranks: Ranks, micro_batches: int) -> None:
        self.ranks, self.count = ranks, micro_batches

    def _mine(self, step: int) -> list[ToyBatch]:
        rounds = -(-self.count // self.ranks.world_size)
        numbers = [i * self.ranks.world_size + self.ranks.rank for i in range(rounds)]
        return [toy_batch(step, m if m < self.count else 0, float(m < self.count)) for m in numbers]

    def train(self, state: dict[str, Any] | None) -> Iterator[ToyStep]:
        step = state["next"] if state else 0
        while True:
            yield ToyStep(self._mine(step), {"next": step + 1})
            step += 1

    def merged_state(self, state: dict[str, Any]) -> dict[str, Any]:
        return state

    def validation(self) -> Iterator[tuple[list[ToyBatch], int]]:
        yield self._mine(999), 0


def toy_recipe(
    output: Path,
    stage: int = 4,
    steps: int = 6,
    micro_batches: int = 3,
    deepspeed: str = "tests/support/zero3_gathers.json",
    **trainer: Any,
) -> Recipe:
    """A recipe for the toy."""
    return Recipe(
        name="toy",
        stage=stage,
        output=str(output),
        init_from="somewhere",
        deepspeed=deepspeed,
        model=ModelConfig(llm=LlmConfig(checkpoint="none"), extractor="none"),
        data=DataConfig(train=[DatasetConfig(path="none")], micro_batches_per_step=micro_batches),
        optimizer=OptimizerConfig(start_lr=1e-3, peak_lr=1e-2, final_lr=1e-3, warmup_steps=2, weight_decay=0.1),
        trainer=TrainerConfig(**{**_TRAINER, "max_steps": steps, **trainer}),
    )


def toy_model(stage: int = 4, dropout: float = 0.0) -> ToyModel:
    """The same model on every rank, with the stage's trainable set."""
    torch.manual_seed(7)
    model = ToyModel(dropout)
    for name, p in model.named_parameters():
        p.requires_grad = module_of(name) in stage_of(stage).trains
    return model


def toy_trainer(
    recipe: Recipe, ranks: Ranks, dropout: float = 0.0, stop_after: int | None = None, bases: str = "toy"
) -> Trainer:
    """A trainer on a fresh engine; it resumes if the recipe's output holds a checkpoint."""
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    model = toy_model(recipe.stage, dropout).to(getattr(torch, dtype_name(ds_config)))
    engine = initialize(model, ds_config, recipe.optimizer.lr_factors)
    check_optimizer(engine, model)
    data = ToyData(ranks, recipe.data.micro_batches_per_step)
    return Trainer(Run(recipe, ranks, engine, data, StopRequest(), {"llm": bases}, None, stop_after))
