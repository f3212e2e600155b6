"""The four stages of the SpeakerLM paper as four rows of data (arXiv 2508.06372, "Multi-stage training").

A stage says which modules learn, whether the prompt carries a registration, and where its weights come from. Sizes,
datasets and step counts are the recipe's. There is one trainer; nothing else in the code asks which stage it is in.
"""

from __future__ import annotations

from dataclasses import dataclass

from shards.errors import ConfigError

MODULES = ("encoder", "audio_projector", "speaker_projector", "lora")


@dataclass(frozen=True, slots=True)
class Stage:
    """One row."""

    number: int
    name: str
    trains: frozenset[str]  # of MODULES
    registration: bool  # False: the prompt is "Transcribe the speech." and targets name nobody
    data: str  # what the paper trains on here; the recipe says which datasets that are
    starts_from: int | None  # the stage whose weights it continues; None: the public checkpoints

    def __post_init__(self) -> None:
        unknown = self.trains - set(MODULES)
        if unknown:
            raise ValueError(f"stage {self.number} trains unknown modules {sorted(unknown)}")


STAGES = {
    s.number: s
    for s in (
        Stage(1, "asr", frozenset({"encoder", "audio_projector", "lora"}), False, "ASR corpora", None),
        Stage(2, "align", frozenset({"audio_projector", "speaker_projector"}), True, "simulated SDR", 1),
        Stage(3, "acoustics", frozenset({"encoder", "audio_projector", "speaker_projector"}), True, "real SDR", 2),
        Stage(4, "joint", frozenset(MODULES), True, "real SDR", 3),
    )
}

# Not of the paper's chain: the LLM of its SD+ASR+LLM baseline, fine-tuned on transcripts; pipeline/baselines/corrector.
CORRECTION = Stage(0, "correction", frozenset({"lora"}), False, "pairs of transcripts", None)


def stage_of(number: int) -> Stage:
    """The row of a recipe's ``stage``."""
    return CORRECTION if number == CORRECTION.number else STAGES[number]


def check_speech(number: int, what: str) -> None:
    """Raise ConfigError where a recipe or run trains no SpeakerLM."""
    if number == CORRECTION.number:
        raise ConfigError(f"{what} is of stage 0, a corrector of text: `speakerlm-baseline correct --llm` takes it")


def module_of(parameter: str) -> str:
    """The module of MODULES, or ``"llm"``, that a parameter of SpeakerLM belongs to, from its dotted name."""
    if ".lora_" in parameter:
        return "lora"
    head = parameter.split(".", 1)[0]
    return head if head in MODULES else "llm"
