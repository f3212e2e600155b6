"""Which files of a folder are its transcripts.

- ``decode.json`` marks a folder of speakerlm-decode: its transcripts are those of one mode
- speakerlm-transcribe writes each recording in several formats: one of them is read, if all hold the same sessions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.decoded_folder import DESCRIPTION, decoded_files
from pipeline.evaluation.decoded_rows import has_clocks
from pipeline.evaluation.files import file_session, read_json, read_text
from shards.errors import ScoreError

# What speakerlm-transcribe writes, the most exact first.
TRANSCRIBED = (".seglst.json", ".json", ".srt", ".txt")


def folder_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files of a folder that end in one of these suffixes, sorted by name.

    Raises:
        ScoreError: it holds several modes of one test set.
    """
    if (folder / DESCRIPTION).is_file() and ".jsonl" in suffixes:
        found = decoded_files(folder)
        if len(found) > 1:
            names = ", ".join(f.name for f in found)
            raise ScoreError(f"{folder} holds {names}: name one of them, or score all with speakerlm-score decoded")
        return found
    found = sorted(f for f in folder.iterdir() if f.is_file() and suffix_of(f, suffixes))
    kinds = {suffix: [f for f in found if suffix_of(f, suffixes) == suffix] for suffix in suffixes}
    written = {s: kinds[s] for s in TRANSCRIBED if kinds.get(s)}
    if len(written) < 2 or sum(map(len, written.values())) < len(found) or not _is_transcribed(written):
        return found
    return next(iter(written.values()))


def suffix_of(path: Path, suffixes: Sequence[str]) -> str:
    """Return the longest of these suffixes that a file has; empty if it has none of them."""
    return max((s for s in suffixes if path.name.lower().endswith(s)), key=len, default="")


def is_transcript(content: Any) -> bool:
    """Whether parsed JSON has the shape of what speakerlm-transcribe writes."""
    return (
        isinstance(content, dict) and isinstance(content.get("turns"), list) and isinstance(content.get("audio"), str)
    )


def _is_transcribed(kinds: Mapping[str, Sequence[Path]]) -> bool:
    """Whether files of several formats hold the same sessions, each in the form of speakerlm-transcribe."""
    sessions = {frozenset(file_session(f, [suffix]) for f in found) for suffix, found in kinds.items()}
    return (
        len(sessions) == 1
        and all(is_transcript(read_json(f)) for f in kinds.get(".json", ()))
        and all(has_clocks(read_text(f)) for f in kinds.get(".txt", ()))
    )
