"""The four stages of the SpeakerLM paper as four rows of data (arXiv 2508.06372, "Multi-stage training").

A row says which modules are trained, whether the prompt carries a registration, where the weights come from, and what
builds the model and its batches. Sizes, datasets and step counts belong to the recipe. There is one trainer for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from shards.errors import ConfigError

MODULES = ("encoder", "audio_projector", "speaker_projector", "lora")


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


STAGES = {
    s.number: s
    for s in (
        Stage(1, "asr", frozenset({"encoder", "audio_projector", "lora"}), False, "ASR corpora", None),
        Stage(2, "align", frozenset({"audio_projector", "speaker_projector"}), True, "simulated SDR", 1),
        Stage(3, "acoustics", frozenset({"encoder", "audio_projector", "speaker_projector"}), True, "real SDR", 2),
        Stage(4, "joint", frozenset(MODULES), True, "real SDR", 3),
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


def stage_of(number: int) -> Stage:
    """Return the row of a recipe's ``stage``."""
    return CORRECTION if number == CORRECTION.number else STAGES[number]


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
