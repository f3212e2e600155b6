"""The audit of a manifest: what was skipped or changed, counted by reason, with examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

LISTED = 50  # examples kept of each reason
SKIPPED, CHANGED = "skipped", "changed"


class Audit:
    """Counts by reason, with the first examples of each reason."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {SKIPPED: Counter(), CHANGED: Counter()}
        self._examples: dict[str, list[str]] = {}

    def skip(self, reason: str, what: str) -> None:
        """Count something that the manifest does not contain."""
        self._note(SKIPPED, reason, what)

    def change(self, reason: str, what: str) -> None:
        """Count something that the manifest contains in a changed form."""
        self._note(CHANGED, reason, what)

    def _note(self, kind: str, reason: str, what: str) -> None:
        self._counts[kind][reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < LISTED:
            examples.append(what)

    def result(self) -> dict[str, Any]:
        """Return ``skipped`` and ``changed`` (reason → count) and ``examples`` (reason → at most 50 of them)."""
        counts = {kind: dict(sorted(counter.items())) for kind, counter in self._counts.items()}
        return counts | {"examples": dict(sorted(self._examples.items()))}
