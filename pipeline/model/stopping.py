"""Guards against text that never ends.

A model may repeat the same few tokens for ever. Two guards stop each answer of a batch:

- loop: the last tokens are one n-gram, repeated more often than in speech (Speaker-Reasoner: over 10 times);
- limit: a token count that grows with the audio, at a rate that no speaker reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.prompts import LEAST_TOKENS, TOKENS_PER_SECOND, answer_tokens


@dataclass(frozen=True)
class Guards:
    """Limits at which an answer is stopped."""

    tokens_per_second: float = TOKENS_PER_SECOND  # of audio, on top of `least_tokens`
    least_tokens: int = LEAST_TOKENS
    max_new_tokens: int = 2048  # of any answer
    repeats: int = 10  # times that an n-gram may follow itself
    longest: int = 64  # tokens of the longest n-gram that is searched for
    shortest_run: int = 16  # least tokens of a loop, so that "ha ha ha" does not count as one

    def limit(self, num_samples: int) -> int:
        """Return the most tokens for audio of this length."""
        wanted = answer_tokens(num_samples, self.tokens_per_second, self.least_tokens)
        return max(1, min(self.max_new_tokens, wanted))

    def runs(self) -> list[int]:
        """Return for n-grams of 1, 2, … tokens the length of run that is a loop, see :class:`LoopStoppingCriteria`."""
        return [max(p * self.repeats, self.shortest_run - p) for p in range(1, self.longest + 1)]


class LoopStoppingCriteria:
    """Stopping criterion of transformers' ``generate``: called after each token, returns which rows are finished.

    For each row and each n-gram length p it counts how long the tokens have equalled those p before them; an n-gram
    that occurs r times in a row makes a run of p · (r - 1). One comparison per step; no token leaves the device.
    """

    def __init__(
        self, limits: Sequence[int], eos: int, guards: Guards, interrupt: Callable[[], bool] | None = None
    ) -> None:
        """Take each row's limit in tokens; ``interrupt`` may end all rows."""
        self.limits = list(limits)
        self._interrupt = interrupt
        self._eos, self._guards = eos, guards
        self._state: tuple[Any, ...] | None = None

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """(B, tokens so far) → (B,) bool."""
        import torch

        device, steps = input_ids.device, input_ids.shape[1]
        if self._state is None:
            rows = len(self.limits)
            self._state = (
                torch.arange(1, self._guards.longest + 1, device=device),
                torch.tensor(self.limits, device=device),
                torch.zeros(rows, self._guards.longest, dtype=torch.long, device=device),  # runs
                torch.zeros(rows, dtype=torch.bool, device=device),  # finished
                torch.zeros(rows, dtype=torch.bool, device=device),  # by a loop
                torch.zeros(rows, dtype=torch.long, device=device),  # tokens when it finished
                torch.tensor(self._guards.runs(), device=device),
            )
        periods, limits, runs, finished, looped, lengths, needed = self._state
        last = input_ids[:, -1:]
        before = input_ids[:, (steps - 1 - periods).clamp(min=0)]
        runs = torch.where((last == before) & (periods < steps), runs + 1, 0)
        in_loop = (runs >= needed).any(1)
        ended = last[:, 0] == self._eos
        looped = looped | (in_loop & ~finished & ~ended)
        now = ended | looped | (limits <= steps)
        if self._interrupt is not None and self._interrupt():
            now = torch.ones_like(now)
        lengths = torch.where(now & ~finished, steps, lengths)
        finished = finished | now
        self._state = (periods, limits, runs, finished, looped, lengths, needed)
        return finished

    def ends(self) -> tuple[list[int], list[bool]]:
        """Return for each row the number of tokens, and whether a loop stopped it."""
        if self._state is None:
            return [0] * len(self.limits), [False] * len(self.limits)
        return self._state[5].tolist(), self._state[4].tolist()


class AnswerTokens:
    """The tokens of one answer, guarded as :class:`LoopStoppingCriteria` guards a batch, for an engine of its own."""

    def __init__(self, limit: int, eos: int, guards: Guards) -> None:
        """Take the limit in tokens."""
        self.ids: list[int] = []
        self.stop: Literal["end", "loop", "limit"] | None = None  # end, loop or limit, once it has ended
        self._limit, self._eos = limit, eos
        self._needed = guards.runs()
        self._lengths = [0] * len(self._needed)  # of the runs at the last token

    def extend(self, tokens: Sequence[int]) -> bool:
        """Add tokens up to where the answer ends; return whether it has ended."""
        for token in tokens:
            if self.stop:
                break
            self._add(token)
        return self.stop is not None

    def _add(self, token: int) -> None:
        before = self.ids
        looped = False
        for period in range(1, len(self._needed) + 1):
            if period <= len(before) and before[-period] == token:
                self._lengths[period - 1] += 1
                looped = looped or self._lengths[period - 1] >= self._needed[period - 1]
            else:
                self._lengths[period - 1] = 0
        before.append(token)
        if token == self._eos:
            self.stop = "end"
        elif looped:
            self.stop = "loop"
        elif len(before) >= self._limit:
            self.stop = "limit"
