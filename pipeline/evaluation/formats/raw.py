"""Model output: serialized text (``NAME: text``) in ``.txt`` files, or JSON Lines of speakerlm-decode and others.

A text file is one session of the file's name; the .txt files of speakerlm-transcribe are read too. A JSON line has
``session_id`` or ``key`` and ``raw`` or ``text``, and may hold the reference too
(:mod:`pipeline.evaluation.decoded_rows`).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluation.decoded_rows import hypothesis, output_notes, parsed_file, reference, rows
from pipeline.evaluation.records import SegLstRow

READS = (".txt", ".jsonl")


def read(path: Path) -> list[SegLstRow]:
    """Read the hypotheses of a file.

    Raises:
        ScoreError: a JSON line is damaged; names it.
    """
    if path.suffix.lower() != ".jsonl":
        return list(parsed_file(path)[0])
    return [r for where, row in rows(path) for r in hypothesis(row, where)[0]]


def read_reference(path: Path) -> list[SegLstRow]:
    """Read the references of a file; a line without one gives its text.

    Raises:
        ScoreError: a JSON line is damaged; names it.
    """
    if path.suffix.lower() != ".jsonl":
        return read(path)
    found: list[SegLstRow] = []
    for where, row in rows(path):
        found += reference(row, where) if "reference" in row else hypothesis(row, where)[0]
    return found


def notes(path: Path) -> dict[str, tuple[str, ...]]:
    """Return session → notes of the parser, without sessions that have none."""
    return output_notes(path)
