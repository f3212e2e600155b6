"""The audit of a manifest: what was skipped or changed, counted by reason, with examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

LISTED = 50  # examples kept of each reason
MOST_KEYS = 100  # unknown keys counted by name; a file whose keys are data has millions
SKIPPED, CHANGED = "skipped", "changed"


class Audit:
    """Counts by reason, with the first examples of each reason."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {SKIPPED: Counter(), CHANGED: Counter()}
        self._examples: dict[str, list[str]] = {}
        self._keys = 0

    def skip(self, reason: str, what: str) -> None:
        """Count something that the manifest does not contain."""
        self._note(SKIPPED, reason, what)

    def change(self, reason: str, what: str) -> None:
        """Count something that the manifest contains in a changed form."""
        self._note(CHANGED, reason, what)

    def unknown_key(self, key: str, where: str) -> None:
        """Count a key of a row that no reader knows; its value is not in the manifest."""
        reason = f"unknown key {key[:40]!r}"
        if reason not in self._counts[SKIPPED]:
            self._keys += 1
            if self._keys > MOST_KEYS:
                reason = "other unknown key"
        self.skip(reason, where)

    def _note(self, kind: str, reason: str, what: str) -> None:
        self._counts[kind][reason] += 1
        examples = self._examples.setdefault(reason, [])
        if len(examples) < LISTED:
            examples.append(what.encode(errors="backslashreplace").decode())  # what it names may be no text

    def result(self) -> dict[str, Any]:
        """Return ``skipped`` and ``changed`` (reason → count) and ``examples`` (reason → at most 50 of them)."""
        counts = {kind: dict(sorted(counter.items())) for kind, counter in self._counts.items()}
        return counts | {"examples": dict(sorted(self._examples.items()))}
