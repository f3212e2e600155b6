"""The interface of engines: prompts in, answers out, new prompts at any time.

An engine prepares prompts (its encoder may run), takes them under keys, and is stepped until they are answered. One
that answers token by token takes prompts that come later into the same batch; one that answers whole batches takes all
that wait. :func:`answer` and :func:`write` are the way of test sets and recordings, :mod:`pipeline.decode.requests` the
way of a service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pipeline.decode.generate import Answer
    from pipeline.model.stopping import Guards
    from pipeline.prompts import Prompt, PromptTokenizer

ENGINES = ("transformers", "vllm")
QUANTIZE = ("int8", "nf4")  # ways to make a model smaller while it is loaded
QUANTIZE_HELP = (
    "the LLM's linear layers in 8 bits (int8) or 4 (nf4), for less memory; int8 on a CPU is also faster, the others "
    "need bitsandbytes"
)


@dataclass(frozen=True, slots=True)
class Ready:
    """A prompt that an engine can take."""

    prompt: Prompt
    limit: int  # most tokens of its answer
    embeds: Any = None  # (n, H) LLM inputs on the host, of an engine whose LLM is not ours


class Engine(Protocol):
    """Writes answers to prompts."""

    tokenizer: PromptTokenizer
    guards: Guards

    def described(self) -> dict[str, Any]:
        """Return what the text depends on in addition to model and prompts, for decode.json; empty for transformers."""

    def prepare(self, prompts: Sequence[Prompt]) -> list[Ready]:
        """Compute what the LLM needs of each prompt, in their order. May run in a thread beside :meth:`step`.

        Raises:
            AudioError, SpeakerError, ModelError: a prompt that the model cannot take.
        """

    def add(self, key: str, ready: Ready) -> None:
        """Queue a prompt under a key that no other prompt has at the time."""

    def step(self) -> dict[str, Answer]:
        """Do some work; return the answers that it completed, by key. Without queued prompts it returns at once.

        Raises:
            AudioError, SpeakerError, ModelError: of one of the prompts; what is still queued has to be aborted.
        """

    def abort(self, key: str) -> None:
        """Drop a prompt, whose answer is no longer wanted. May be called from any thread, also during a step.

        An unknown key changes nothing.
        """

    def close(self) -> None:
        """Free the model's memory; the engine cannot be used afterwards."""


def answer(engine: Engine, prompts: Sequence[Prompt]) -> list[Answer]:
    """Answer a batch of prompts, in their order.

    Raises:
        AudioError, SpeakerError, ModelError: a prompt that the model cannot take.
    """
    return write(engine, engine.prepare(prompts))


def write(engine: Engine, ready: Sequence[Ready]) -> list[Answer]:
    """Answer a batch of prepared prompts, in their order. Nothing else may be queued.

    All are queued before the first step, so the answers are a function of the batch.
    """
    for number, one in enumerate(ready):
        engine.add(str(number), one)
    found: dict[str, Answer] = {}
    while len(found) < len(ready):
        found |= engine.step()
    return [found[str(number)] for number in range(len(ready))]
