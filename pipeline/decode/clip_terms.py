"""Terms of a test set's prompts: those of every clip, and those that a file names for single clips.

The file is JSON Lines, ``{"key": "clip-7", "terms": ["Zoe Li", "ZeRO-3"]}``, or a table of tabulators (``.tsv``), key
and terms with commas between them. A clip without a line has the terms of every clip alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.decode.context_line import check_terms, joined_terms, split_terms
from shards.errors import ConfigError

HELP = (
    'terms of single clips, with those of --context: a .jsonl file of {"key": …, "terms": […]}, or a .tsv file of keys '
    "and terms with commas between them"
)
OPTION = "--clip-context"
SHOWN = 5  # unknown keys that a message names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipTerms:
    """Terms of prompts by clip."""

    general: tuple[str, ...] = ()
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # key → terms that the file names

    @classmethod
    def read(cls, general: Sequence[str], path: Path | None) -> ClipTerms:
        """Read a file.

        Raises:
            ConfigError: it is missing or damaged, names a key twice or no clip, or terms that no line takes.
        """
        if path is None:
            return cls(tuple(general))
        own: dict[str, tuple[str, ...]] = {}
        for number, key, terms in _lines(path):
            if key in own:
                raise ConfigError(f"{OPTION} {path}: line {number} names {key!r} again; give a clip one line")
            own[key] = terms
            try:
                joined_terms(terms, general)
            except ConfigError as e:
                raise ConfigError(f"{OPTION} {path}: line {number}, {key!r}: {e}") from e
        if not own:
            raise ConfigError(f"{OPTION} {path} names no clip")
        return cls(tuple(general), own)

    def __bool__(self) -> bool:
        """Whether any prompt may have terms."""
        return bool(self.general or self.own)

    def of(self, key: str) -> tuple[str, ...]:
        """Return the terms of a clip's prompt: its own, then those of every clip."""
        return joined_terms(self.own.get(key, ()), self.general)

    def check(self, known: Collection[str], dataset: str) -> None:
        """Refuse keys that a test set does not have, and log how many clips have terms of their own.

        Raises:
            ConfigError: there are such keys. Counts them and names the first.
        """
        if not self.own:
            return
        if unknown := sorted(self.own.keys() - set(known)):
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            raise ConfigError(
                f"{OPTION}: {len(unknown)} of {len(self.own)} keys are not in {dataset}: "
                f"{', '.join(unknown[:SHOWN])}{more}; name clips as the test set does"
            )
        given = sum(map(len, self.own.values()))
        logger.info("%d of %d clips have terms of their own, %d in all", len(self.own), len(known), given)

    def described(self) -> dict[str, Any]:
        """Return what identifies the terms of single clips, for decode.json; empty without a file."""
        if not self.own:
            return {}
        content = json.dumps(dict(sorted(self.own.items())), ensure_ascii=False)
        return {"clips": len(self.own), "sha256": hashlib.sha256(content.encode()).hexdigest()}

    @property
    def label(self) -> str:
        """Suffix of the test set's name in tables of figures; empty without terms."""
        if self.own:
            return " (with context per clip)"
        return " (with context)" if self.general else ""


def _lines(path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield number, key and terms of a file's lines."""
    read = {".jsonl": _of_json, ".tsv": _of_table}.get(path.suffix)
    if read is None:
        raise ConfigError(f"{OPTION} {path}: expected a file .jsonl or .tsv")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror or e if isinstance(e, OSError) else f"not UTF-8 ({e})"
        raise ConfigError(f"{OPTION} {path}: {reason}") from e
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key, terms = read(line)
        except (ValueError, KeyError, TypeError, ConfigError) as e:
            raise ConfigError(f"{OPTION} {path}: line {number} gives no clip and its terms ({e})") from e
        yield number, key, terms


def _of_json(line: str) -> tuple[str, tuple[str, ...]]:
    row = json.loads(line)
    key, terms = row["key"], row["terms"]
    if not (isinstance(key, str) and isinstance(terms, list) and all(isinstance(t, str) for t in terms)):
        raise TypeError("expected a text 'key' and a list 'terms' of texts")
    return key, check_terms(terms)


def _of_table(line: str) -> tuple[str, tuple[str, ...]]:
    key, tab, terms = line.partition("\t")
    if not (key.strip() and tab):
        raise ValueError("expected KEY, a tabulator, and terms")
    return key.strip(), split_terms(terms)
