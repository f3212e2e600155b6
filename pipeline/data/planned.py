"""Records of a plan: samples, micro-batches and global steps, as planned before any audio is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.data.augment import Noises
from pipeline.data.registration import VectorSource
from pipeline.dialogue.build import CacheEntry
from pipeline.flops import Load
from pipeline.frames import Stride, audio_positions, encoder_frames
from pipeline.prompts import Mode
from pipeline.recipe.schema import DataConfig, Recipe
from pipeline.stages import STAGES, Task


@dataclass(frozen=True, slots=True)
class CachedClip:
    """An earlier clip of a sample's session, and the entries that a cache takes from it."""

    shard: int
    row: int
    key: str
    num_samples: int
    entries: tuple[CacheEntry, ...]


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """A sample, its random draws, and its cost."""

    dataset: int  # number of the dataset in the plan
    shard: int
    row: int
    key: str
    session: str
    epoch: int
    mode: Mode | Task
    names: tuple[str, ...]  # registered, in prompt order
    sources: tuple[VectorSource, ...]  # where their vectors are
    target_names: dict[str, str]  # speaker id of the clip → registered name
    positions: int  # LLM positions, prompt and target
    frames: int  # encoder frames
    targets: int  # target tokens
    num_samples: int  # audio at 16 kHz, at its speed
    speed: float
    seed: int  # of noise and masks
    slices: tuple[int, ...] = ()  # of a dialogue: samples of each audio in order; else there is one, the whole
    cached: tuple[CachedClip, ...] = ()
    language: str = "und"
    context: tuple[str, ...] = ()  # terms of the prompt's line of context

    @property
    def audio_lengths(self) -> tuple[int, ...]:
        """Samples of each audio that the encoder hears."""
        return self.slices or (self.num_samples,)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Samples of one dataset and one mode, and spares for samples whose bytes are damaged."""

    dataset: int
    mode: Mode | Task
    samples: tuple[PlannedSample, ...]
    spares: tuple[PlannedSample, ...] = ()

    def load(self, stride: Stride, calls: int = 1) -> Load:
        """Return the sizes that its cost depends on; ``stride`` of the audio projector, ``calls`` of the encoder."""
        return Load(
            samples=tuple(p.positions for p in self.samples),
            frames=tuple(encoder_frames(n) for p in self.samples for n in p.audio_lengths),
            audio_positions=sum(audio_positions(n, stride) for p in self.samples for n in p.audio_lengths),
            speakers=max(1, sum(len(p.names) for p in self.samples)),
            targets=sum(p.targets for p in self.samples),
            calls=calls,
        )


@dataclass(frozen=True, slots=True)
class GlobalStep:
    """Micro-batches of all ranks for one optimizer update."""

    step: int  # counted from 1
    micro_batches: tuple[MicroBatch | None, ...]  # always M; None only where a finite plan has ended
    state: dict[str, Any] = field(repr=False)  # to continue after this step


@dataclass(frozen=True)
class PlanSettings:
    """Settings that a plan depends on. All of them are checked on resume."""

    seed: int
    registration: bool  # False: a bare transcript is the target
    stride: Stride  # of the audio projector, or the base
    tokenizer: str  # hash
    data: DataConfig
    epochs: int | None = None  # None: without end
    modes: tuple[Mode | Task, ...] | None = None  # every sample once in each of these; None: one drawn mode
    n_ov: int | None = None  # distractors in Over; None: drawn
    noise: str | None = None  # hash of the noise files
    frame_multiple: int = 1  # that rows of encoder frames are padded to
    tasks: tuple[Task, ...] = ()  # of the stage; none: SpeakerLM
    cache: bool = False  # whether the stage shows entries of a speaker cache

    @classmethod
    def of(cls, recipe: Recipe, tokenizer: str) -> PlanSettings:
        """Settings of a recipe's training plan; ``tokenizer`` is its hash.

        Raises:
            ConfigError: ``data.augment.noise`` names a folder without recordings.
        """
        noise = recipe.data.augment.noise
        return cls(
            seed=recipe.seed,
            registration=STAGES[recipe.stage].registration,
            tasks=STAGES[recipe.stage].tasks,
            cache=STAGES[recipe.stage].cache,
            stride=recipe.model.stride,
            tokenizer=tokenizer,
            data=recipe.data,
            noise=Noises(noise).fingerprint if noise else None,
            frame_multiple=recipe.model.encoder.frame_multiple,
        )
