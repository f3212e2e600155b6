"""Dialogues of a test set: what a Speaker-Reasoner run writes, as rows of the decoder.

They are rows of mode ``no``, since no speaker is registered, with ``"format": "speaker-reasoner"``: the scorer reads
labels, genders and times from the replies. A dialogue that ends without an answer has the lines that were understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.dialogue.build import DialogueRules
from pipeline.prompts import PromptTokenizer
from pipeline.reasoner.loop import LoopLimits, Outcome, ReasonerClip, reason
from pipeline.stages import STAGES, Task
from shards.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.reasoner.calls import Calls

ATTEMPTS = 4  # at a reply in the small decode of validation: the nearly greedy ones, and one that is warm
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Dialogues:
    """Settings of a run's dialogues."""

    stage: int
    task: Task
    rules: DialogueRules
    limits: LoopLimits

    def check(self, modes: Sequence[str]) -> None:
        """Raise ConfigError for modes that register speakers or have none."""
        if set(modes) != {"no"}:
            raise ConfigError(
                f"--modes {','.join(modes)}: dialogues of stage {self.stage} register no speaker; leave --modes out"
            )

    def described(self) -> dict[str, Any]:
        """Return what the text depends on, for decode.json."""
        return {"task": self.task.value, "numbered": self.rules.numbered, **asdict(self.limits)}

    def writer(self, model: Any, tokenizer: PromptTokenizer, calls: Calls | None = None) -> DialogueWriter:
        """Return what fills rows with the replies of a model; ``calls`` of one that ZeRO-3 partitions."""
        return DialogueWriter(self, model, tokenizer, calls)


class DialogueWriter:
    """Replies of a model in the dialogues of a batch."""

    def __init__(
        self, dialogues: Dialogues, model: Any, tokenizer: PromptTokenizer, calls: Calls | None = None
    ) -> None:
        from pipeline.reasoner.engine import SpeakerLMEngine

        self._settings, self._engine = dialogues, SpeakerLMEngine(model, tokenizer, calls=calls)

    def prepare(self, prompts: Sequence[Any]) -> Sequence[Any]:
        """Return the prompts: each question is encoded when it is asked."""
        return prompts

    def write(self, rows: Sequence[dict[str, Any]], prepared: Sequence[Any]) -> Rows:
        """Hold the dialogues and add what came of them."""
        clips = [ReasonerClip(r["key"], p.waveform, r["language"]) for r, p in zip(rows, prepared, strict=True)]
        settings = self._settings
        outcomes = reason(clips, self._engine, settings.rules, settings.limits, settings.task)
        return [{**row, **outcome_fields(outcome)} for row, outcome in zip(rows, outcomes, strict=True)]


def dialogues_of(recipe: Any, task: str, limits: LoopLimits) -> Dialogues | None:
    """Return the dialogues of a Speaker-Reasoner run; None for a run of SpeakerLM.

    Raises:
        ConfigError: a task that the stage was not trained for, or of a run that has no dialogues.
    """
    tasks = STAGES[recipe.stage].tasks if recipe.stage in STAGES else ()
    if not tasks:
        if task != "auto":
            raise ConfigError(f"--task {task}: a run of stage {recipe.stage} has no dialogues; leave --task out")
        return None
    chosen = Task(task) if task != "auto" else Task.REASON if Task.REASON in tasks else Task.SINGLE
    if chosen not in tasks:
        raise ConfigError(f"--task {task}: stage {recipe.stage} was trained for {', '.join(tasks)}")
    return Dialogues(recipe.stage, chosen, DialogueRules(numbered=recipe.data.dialogue.numbered), limits)


def small_dialogues(recipe: Any) -> Dialogues | None:
    """Return the dialogues of the small decode of validation; None for a run of SpeakerLM."""
    t = recipe.trainer
    return dialogues_of(recipe, "auto", LoopLimits(ATTEMPTS, max_new_tokens=t.decode_tokens, batch=t.decode_batch))


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a row that an outcome fills."""
    lines = "".join(f"{line}\n" for line in outcome.lines)
    fields = {
        "format": "speaker-reasoner",
        "raw": list(outcome.replies) if outcome.complete else f"<answer>\n{lines}</answer>",
        "stop": outcome.reason,
        "turns": outcome.turns,
        "attempts": outcome.attempts,
        "at_once": outcome.at_once,
        "covered": outcome.covered,
        "repairs": list(outcome.repairs),
        "rejected": list(outcome.rejected),
    }
    return fields if outcome.complete else {**fields, "replies": list(outcome.replies)}


def well_formed(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the percent of turns whose first reply passed all guards; the turn in which a dialogue ended counts."""
    turns = sum(row["turns"] + (row["stop"] != "answer" and row["attempts"] > 0) for row in rows)
    return 100 * sum(row["at_once"] for row in rows) / turns if turns else 0.0
