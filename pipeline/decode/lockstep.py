"""Calls of a model in dialogues that are held during training: watched, or by all ranks in lockstep.

If ZeRO-3 partitions the model, a call gathers weights from all ranks, and dialogues of the ranks have unlike turns.
Before every call the ranks therefore agree, by a sum over them, which call is made next. A rank that does not want it
makes it on a stand-in input. A rank whose dialogues have ended keeps taking part until no rank wants a call. So ranks
with one turn, many turns or no clip cannot wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from pipeline.ranks.collectives import all_reduce_sum
from pipeline.ranks.launch import Ranks
from pipeline.reasoner.calls import Call, Calls
from pipeline.reasoner.writing import new_cache, next_logits, token_logits

_SAMPLES = 8000  # of a stand-in's audio


class Stopped(Exception):
    """A stop was requested; the dialogues are dropped."""


class Watched(Calls):
    """Calls of a whole model; a stop request ends the dialogues at the next one."""

    def __init__(self, interrupt: Callable[[], bool]) -> None:
        """Take a function that is called before each call, and returns whether to stop."""
        self._interrupt = interrupt

    def make(self, call: Call, work: Callable[[], Tensor]) -> Tensor:
        """See :class:`Calls`.

        Raises:
            Stopped: a stop was requested.
        """
        if self._interrupt():
            raise Stopped
        return work()

    def finish(self) -> None:
        """Do nothing: no rank waits for this one."""


class Lockstep(Watched):
    """Calls of a partitioned model, the same on every rank in the same order."""

    encoder_calls = 1

    def __init__(self, interrupt: Callable[[], bool], ranks: Ranks, model: Any, pad: int) -> None:
        """Take the partitioned model and the token of its audio positions. All ranks must make one of these."""
        super().__init__(interrupt)
        self._ranks, self._model, self._pad = ranks, model, pad

    def mode(self) -> AbstractContextManager[None]:
        """Return ``no_grad``: parameters that are gathered in inference mode could not be trained afterwards."""
        return torch.no_grad()

    def make(self, call: Call, work: Callable[[], Tensor]) -> Tensor:
        """Take part in calls of other ranks until this one's turn has come.

        Raises:
            Stopped: a stop was requested on any rank; all ranks get it at the same call.
        """
        while (chosen := self._agree(call)) is not call:
            assert chosen is not None  # this rank wants one
            self._stand_in(chosen)
        return work()

    def finish(self) -> None:
        """Take part in calls of other ranks until none wants one; every rank ends its dialogues with this.

        Raises:
            Stopped: a stop was requested on any rank.
        """
        with self.mode():
            while (chosen := self._agree(None)) is not None:
                self._stand_in(chosen)

    def _agree(self, call: Call | None) -> Call | None:
        """Return the first call in the order of :class:`Call` that any rank wants; None if none wants one."""
        wishes = [*(float(c is call) for c in Call), float(self._interrupt())]
        *wanted, stop = all_reduce_sum(self._ranks, wishes)
        if stop:
            raise Stopped
        return next((c for c, ranks in zip(Call, wanted, strict=True) if ranks), None)

    def _stand_in(self, call: Call) -> None:
        """Make a call on half a second of silence, or on one token after nothing."""
        model, device = self._model, self._model.device
        one = torch.ones(1, 1, dtype=torch.long, device=device)
        if call is Call.EMBED:
            positions = model.positions(_SAMPLES)
            model.embed(
                (torch.zeros(1, _SAMPLES, device=device),),
                torch.tensor([_SAMPLES]),
                torch.full((positions,), self._pad, device=device),
                torch.arange(positions, device=device),
                torch.zeros(1, model.config.speaker_dim, device=device),
                torch.zeros(0, dtype=torch.long, device=device),
            )
        elif call is Call.READ:
            width = model.llm.config.get_text_config().hidden_size
            nothing = torch.zeros(1, 1, width, device=device, dtype=next(model.llm.parameters()).dtype)
            next_logits(model.llm, nothing, one, one - 1, new_cache())
        else:
            token_logits(model.llm, one * self._pad, one, one - 1, new_cache())
