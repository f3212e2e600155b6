"""Which step comes next, where a few run at a time, and how long all of them will take.

A step runs behind those that it needs. Of those that may run, the one with the longest path of steps behind it comes
first (list scheduling), so that what the last steps wait for is not begun late.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Schedule:
    """Steps by name, those in the front first where nothing else decides."""

    seconds: Mapping[str, float]  # that each takes; 0: not known
    needs: Mapping[str, frozenset[str]]  # names of the steps that each needs, all of them in front of it
    path: dict[str, float] = field(init=False, default_factory=dict)  # seconds from its start to the end of all behind

    def __post_init__(self) -> None:
        """Compute the paths from the last step to the first."""
        for name in reversed(list(self.seconds)):
            behind = (self.path[other] for other in self.path if name in self.needs[other])
            self.path[name] = self.seconds[name] + max(behind, default=0.0)

    def ready(self, waiting: Collection[str], ended: Collection[str]) -> str | None:
        """Return the waiting step to start next, None if each needs one that has not ended."""
        able = (name for name in waiting if self.needs[name] <= set(ended))
        return max(able, key=lambda name: self.path[name], default=None)

    def left(
        self, waiting: Collection[str], ended: Collection[str], running: Mapping[str, float], at_once: int
    ) -> float:
        """Return the seconds until all steps have ended.

        Args:
            running: name → seconds until it ends.
            at_once: steps that run at the same time.
        """
        todo, done, ends, now = list(waiting), set(ended), dict(running), 0.0
        while todo or ends:
            while len(ends) < at_once and (name := self.ready(todo, done)):
                todo.remove(name)
                ends[name] = now + self.seconds[name]
            name = min(ends, key=lambda n: ends[n])
            now = ends.pop(name)
            done.add(name)
        return now
