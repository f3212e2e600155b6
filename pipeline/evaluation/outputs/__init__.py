"""Texts of other systems, one file each, found by file name.

A module has ``parse(session, text) -> (rows, notes)``, which never raises and loses no character, and ``sniff(text)``,
whether a text has the marks of this format. Its name is that of a transcript format
(:mod:`pipeline.evaluation.formats`) and of ``"format"`` in a row of decoded clips.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from pipeline.evaluation.output_reading import Notes, Rows
from shards.errors import ScoreError


@functools.cache
def outputs() -> dict[str, Any]:
    """Import all: name → module."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}


def parse_output(kind: str, session: str, text: str) -> tuple[Rows, Notes]:
    """Parse a system's text.

    Raises:
        ScoreError: no such format.
    """
    if kind not in outputs():
        raise ScoreError(f"session {session}: unknown format {kind!r} of a text; known: {', '.join(outputs())}")
    rows, notes = outputs()[kind].parse(session, text)
    return rows, notes


def sniff(texts: Iterable[str]) -> str | None:
    """Return the format of most of the texts that are not blank; None if no format has more than half of them."""
    votes: dict[str | None, int] = {}
    for text in filter(str.strip, texts):
        found = [name for name, module in outputs().items() if module.sniff(text)]
        kind = found[0] if len(found) == 1 else None
        votes[kind] = votes.get(kind, 0) + 1
    best = max(votes, key=lambda k: votes[k], default=None)
    return best if 2 * votes.get(best, 0) > sum(votes.values()) else None
