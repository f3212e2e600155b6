"""Calls of a model as an engine makes them: at once here, or by an agreement of several processes.

If ZeRO-3 partitions the model, each call gathers weights from all processes, which must then make the same calls in the
same order. Dialogues of several processes have unlike turns, so their engines ask before every call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum

import torch
from torch import Tensor


class Call(StrEnum):
    """Calls that gather the same weights whatever their input."""

    EMBED = "embed"  # token ids and audio, in one call of the encoder
    READ = "read"  # positions of one question through the LLM
    WRITE = "write"  # a token of each reply: its embedding, then the LLM


class Calls:
    """Makes every call at once."""

    encoder_calls: int | None = None  # of an EMBED; None: as the engine's rules say

    def mode(self) -> AbstractContextManager[None]:
        """Return the mode in which a model computes without gradients."""
        return torch.inference_mode()

    def make(self, call: Call, work: Callable[[], Tensor]) -> Tensor:
        """Make a call."""
        return work()
