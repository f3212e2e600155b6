"""Error rates, one file each: errors of a session's hypothesis and the length of its reference.

A metric is a module here, or an entry point of group ``speakerlm.metrics``, with a function

    score(reference, hypothesis, tokens) -> (errors, length), or None if it is undefined for the session

Rows are :class:`pipeline.evaluation.records.SegLstRow` in time order; ``tokens(text)`` returns the normalised tokens of
a text. The figure of a set is the sum of errors over the sum of lengths (micro-average). CER, cpCER and saCER are
always scored (:mod:`pipeline.evaluation.session_scores`); others if they are asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.evaluation.records import SegLstRow
from shards.errors import ConfigError
from shards.plugins import load_plugin

GROUP = "metrics"

Tokenizer = Callable[[str], list[str]]
ScoreFunction = Callable[[Sequence[SegLstRow], Sequence[SegLstRow], Tokenizer], "tuple[float, float] | None"]


@dataclass(frozen=True)
class Metric:
    """A metric chosen by name."""

    name: str
    score: ScoreFunction


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors over a length; adds up."""

    errors: float = 0.0
    length: float = 0.0

    @property
    def percent(self) -> float | None:
        """Errors in percent of the length; ``None`` if the length is zero."""
        return 100 * self.errors / self.length if self.length else None

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(self.errors + other.errors, self.length + other.length)


def load_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Find metrics by name, each once.

    Raises:
        ConfigError: a name is unknown, or what it names has no function ``score``.
    """
    found = []
    for name in dict.fromkeys(n.replace("_", "-") for n in names):
        plugin = load_plugin(GROUP, name, __name__)
        if not callable(getattr(plugin, "score", None)):
            raise ConfigError(f"metric {name!r} ({plugin!r}) has no function score(reference, hypothesis, tokens)")
        found.append(Metric(name, plugin.score))
    return tuple(found)
