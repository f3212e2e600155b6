"""Error rates, one file each: errors of a session's hypothesis and the length of its reference.

A metric is a module here, or an entry point of group ``speakerlm.metrics``, with a function

    score(reference, hypothesis, tokens) -> (errors, length), or None if it is undefined for the session

Rows are :class:`pipeline.evaluation.records.SegLstRow` in time order; ``tokens(text)`` returns the normalised tokens of
a text. The figure of a set is the sum of errors over the sum of lengths (micro-average), in percent, or in ``UNIT`` if
the module has one, such as ``UNIT = "s"``. ``OF_ENDS = True`` says that it depends on where turns end, so that its
figure is marked as coarse where a system gives starts only. CER, cpCER and saCER are always scored
(:mod:`pipeline.evaluation.session_scores`); others if they are asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.evaluation.records import SegLstRow
from shards.errors import ConfigError
from shards.plugins import load_plugin

GROUP = "metrics"
PERCENT = "%"

Tokenizer = Callable[[str], list[str]]
ScoreFunction = Callable[[Sequence[SegLstRow], Sequence[SegLstRow], Tokenizer], "tuple[float, float] | None"]


class Coarse(float):
    """A figure of turns whose ends a system does not give; shown with a mark."""


@dataclass(frozen=True)
class Metric:
    """A metric chosen by name."""

    name: str
    score: ScoreFunction
    unit: str = PERCENT
    of_ends: bool = False  # depends on where turns end

    @property
    def title(self) -> str:
        """Name with its unit, unless that is percent."""
        return self.name if self.unit == PERCENT else f"{self.name}, {self.unit}"


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors over a length; adds up."""

    errors: float = 0.0
    length: float = 0.0
    unit: str = PERCENT
    coarse: bool = False  # of turns whose ends are not the system's

    @property
    def figure(self) -> float | None:
        """Errors over the length, in the unit; ``None`` if the length is zero."""
        scale = 100 if self.unit == PERCENT else 1
        if not self.length:
            return None
        figure = scale * self.errors / self.length
        return Coarse(figure) if self.coarse else figure

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(self.errors + other.errors, self.length + other.length, self.unit, self.coarse or other.coarse)


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
        of_ends = bool(getattr(plugin, "OF_ENDS", False))
        found.append(Metric(name, plugin.score, getattr(plugin, "UNIT", PERCENT), of_ends))
    return tuple(found)


def describe(title: str) -> str | None:
    """Return the first line of a metric's docstring as its definition; ``None`` if it is unknown or has none.

    Args:
        title: :attr:`Metric.title`, as in score rows.
    """
    try:
        about = load_plugin(GROUP, title.partition(", ")[0], __name__).__doc__
    except ConfigError:  # rows may be of a machine with more packages
        return None
    return about.strip().partition("\n")[0] if about else None
