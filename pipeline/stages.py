"""The stages of both papers as rows of data: SpeakerLM's four (arXiv 2508.06372, "Multi-stage training"), and the three
of Speaker-Reasoner (arXiv 2604.03074).

A row says which modules are trained, whether the prompt carries a registration, where the weights come from, and what
builds the model and its batches. Sizes, datasets and step counts belong to the recipe. There is one trainer for all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pkgutil import resolve_name
from typing import Any

from shards.errors import ConfigError

MODULES = ("encoder", "audio_projector", "speaker_projector", "lora")


class Base(StrEnum):
    """The model that a recipe trains, ``model.base``."""

    SPEAKERLM = "speakerlm"  # encoder, projectors and a causal LM of one's choice
    QWEN2_5_OMNI = "qwen2.5-omni"  # Speaker-Reasoner's own: the thinker of Qwen2.5-Omni,
    QWEN3_OMNI = "qwen3-omni"  # and that of Qwen3-Omni, a mixture of experts


class Task(StrEnum):
    """Task of a Speaker-Reasoner dialogue."""

    REASON = "reason"  # Speaker-Reasoner: summary, observations one by one, transcript with times
    SINGLE = "single"  # the same transcript in one turn
    COUNT = "count"  # how many speak
    GENDERS = "genders"  # who speaks, by label and gender


@dataclass
class Checkpointing:
    """Activations that backward computes again: a setting of the recipe and of the model. By default it keeps all."""

    encoder: bool = False  # those of the encoder and of the audio projector, block by block
    llm_every: int = 0  # those of every n-th layer of the LLM; 1: of all, 0: of none

    @classmethod
    def of(cls, value: Any) -> Checkpointing:
        """Read a setting: this type, a mapping of its fields, or true and false for all and none."""
        if isinstance(value, Mapping):
            return cls(**value)
        return value if isinstance(value, cls) else cls(bool(value), int(bool(value)))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def again(self, layers: int) -> float:
        """Return the share of an LLM's layers that are computed again."""
        return -(-layers // self.llm_every) / layers if self.llm_every and layers else 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One row.

    ``model``, ``data`` and ``meter`` are names ``module:object``, imported by :meth:`load` where they are needed.
    """

    number: int
    name: str
    trains: frozenset[str]  # of MODULES
    registration: bool  # False: the prompt is "Transcribe the speech." and targets have no speaker names
    corpora: str  # what the paper trains on here; the recipe lists the datasets
    starts_from: int | None  # the stage whose weights it continues; None: the public checkpoints
    tasks: tuple[Task, ...] = ()  # of Speaker-Reasoner's dialogues; none: SpeakerLM's prompts
    cache: bool = False  # dialogues show entries of a speaker cache
    model: str = "pipeline.model.build:build_model"
    data: str = "pipeline.train.stage_data:StageData"  # of :class:`pipeline.train.run.Data`
    meter: str | None = "pipeline.flops:Meter.of"  # None: its operations are not counted

    def __post_init__(self) -> None:
        unknown = self.trains - set(MODULES)
        if unknown:
            raise ValueError(f"stage {self.number} trains unknown modules {sorted(unknown)}")

    @staticmethod
    def load(name: str) -> Any:
        """Import the object that a row names as ``module:object``."""
        return resolve_name(name)


REASONER = 10  # Speaker-Reasoner's stages R1 to R3 are 11 to 13
_DIALOGUE = frozenset({"encoder", "audio_projector", "lora"})  # no dialogue has speaker vectors
STAGES = {
    s.number: s
    for s in (
        Stage(1, "asr", frozenset({"encoder", "audio_projector", "lora"}), False, "ASR corpora", None),
        Stage(2, "align", frozenset({"audio_projector", "speaker_projector"}), True, "simulated SDR", 1),
        Stage(3, "acoustics", frozenset({"encoder", "audio_projector", "speaker_projector"}), True, "real SDR", 2),
        Stage(4, "joint", frozenset(MODULES), True, "real SDR", 3),
        # Numbers are REASONER + the paper's. It starts from a general audio LLM, here R1 from SpeakerLM's stage 1.
        Stage(11, "reasoner-base", _DIALOGUE, False, "real SDR", 1, (Task.SINGLE, Task.COUNT, Task.GENDERS)),
        Stage(12, "reasoner-turns", _DIALOGUE, False, "real SDR", 11, (Task.REASON, Task.SINGLE)),
        Stage(13, "reasoner-cache", _DIALOGUE, False, "real SDR", 12, (Task.REASON,), cache=True),
    )
}

# Not in the paper's chain: the LLM of its SD+ASR+LLM baseline, fine-tuned on transcripts.
CORRECTION = Stage(
    0,
    "correction",
    frozenset({"lora"}),
    registration=False,
    corpora="pairs of transcripts",
    starts_from=None,
    model="pipeline.model.corrector:build_corrector",
    data="pipeline.data.transcript_pairs:PairData",
    meter=None,
)


def stage_number(text: str) -> int:
    """Return the number of a stage as people write it: ``2``, or ``R2`` for Speaker-Reasoner's second, which is 12.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"\s*([Rr]?)(\d{1,3})\s*", text)
    if not match:
        raise ConfigError(f"stage {text!r}: write one, such as 2, or R2 for Speaker-Reasoner's")
    return int(match[2]) + (REASONER if match[1] else 0)


def stage_of(number: int, base: str = Base.SPEAKERLM) -> Stage:
    """Return the row of a recipe's ``stage``, as a model of this base is trained.

    A thinker hears already, so its encoder stays frozen with the rest of it: its LoRA alone learns, and R1 starts from
    the public checkpoint.
    """
    row = CORRECTION if number == CORRECTION.number else STAGES[number]
    if base == Base.SPEAKERLM:
        return row
    before = row.starts_from if row.starts_from is not None and row.starts_from > REASONER else None
    builder = "pipeline.model.thinker:build_thinker"
    return replace(row, trains=frozenset({"lora"}), starts_from=before, model=builder)


def check_speech(number: int, what: str) -> None:
    """Raise ConfigError if a recipe or run does not train SpeakerLM."""
    if number == CORRECTION.number:
        raise ConfigError(f"{what} is of stage 0, a corrector of text: `speakerlm-baseline correct --llm` takes it")


def module_of(parameter: str) -> str:
    """Return the module of MODULES, or ``"llm"``, that a parameter of SpeakerLM belongs to, from its dotted name."""
    if ".lora_" in parameter:
        return "lora"
    head = parameter.split(".", 1)[0]
    return head if head in MODULES else "llm"
