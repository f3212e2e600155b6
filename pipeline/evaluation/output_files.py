"""Files with texts of other systems: one session per text file, named by it, or JSON Lines of many.

A JSON line has ``session_id`` or ``key``, and ``raw`` or ``text``: a text, a list of replies, or the system's JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.evaluation.decoded_rows import raw_text, reference, rows
from pipeline.evaluation.files import file_session, read_text
from pipeline.evaluation.output_reading import Notes, Rows
from pipeline.evaluation.outputs import sniff
from pipeline.evaluation.records import SegLstRow
from shards.errors import ScoreError

# Keys of JSON that this project writes, and of SegLST: it is not looked into.
_OWN = re.compile(r'"(?:session_id|session|audio)"\s*:')


@dataclass(frozen=True)
class OutputFormat:
    """A transcript format whose files hold texts of one system."""

    parse: Callable[[str, str], tuple[Rows, Notes]]
    READS: ClassVar[tuple[str, ...]] = (".txt", ".json", ".jsonl", ".xml", ".log")
    BY_NAME: ClassVar[bool] = True

    def read(self, path: Path) -> list[SegLstRow]:
        """Read the hypotheses of a file.

        Raises:
            ScoreError: a JSON line is damaged; names it.
        """
        return [row for session, text in _texts(path) for row in self.parse(session, text)[0]]

    def read_reference(self, path: Path) -> list[SegLstRow]:
        """Read the references of a file; a line without one gives its text.

        Raises:
            ScoreError: a JSON line is damaged; names it.
        """
        if path.suffix.lower() != ".jsonl":
            return self.read(path)
        found: list[SegLstRow] = []
        for where, row in rows(path):
            own = "reference" in row
            found += reference(row, where) if own else self.parse(row["key"], raw_text(row, where))[0]
        return found

    def notes(self, path: Path) -> dict[str, Notes]:
        """Return session → what was not in the expected form, without sessions where all was."""
        found = {session: self.parse(session, text)[1] for session, text in _texts(path)}
        return {session: notes for session, notes in found.items() if notes}


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() != ".jsonl":
        yield file_session(path, OutputFormat.READS), read_text(path)
        return
    for where, row in rows(path):
        yield row["key"], raw_text(row, where)


def sniffed(files: Sequence[Path]) -> str | None:
    """Return the system that most of these files are of, by their marks; None if no system is.

    Rows that speakerlm-decode wrote, or that name their format, are not looked into.
    """
    return sniff(text for file in files for text in _unlabelled(file))


def _unlabelled(file: Path) -> Iterator[str]:
    try:
        if file.suffix.lower() == ".jsonl":
            for where, row in rows(file):
                yield "" if "mode" in row or "format" in row else raw_text(row, where)
            return
        text = read_text(file)
    except ScoreError:
        return  # the reader of its format gives the error
    if not (file.suffix.lower() == ".json" and _OWN.search(text)):
        yield text
