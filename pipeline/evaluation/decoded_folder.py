"""Folders that speakerlm-decode wrote: ``decode.json`` and one ``MODE.jsonl`` per registration mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.decoded_rows import MODES, decoded_session, rows
from pipeline.evaluation.files import read_json
from pipeline.evaluation.records import SessionTranscript
from shards.errors import ScoreError

DESCRIPTION = "decode.json"


@dataclass(frozen=True)
class DecodedFile:
    """Clips of one mode, at least one."""

    path: Path
    clips: tuple[dict[str, Any], ...]
    sessions: tuple[SessionTranscript, ...]  # of the clips, in their order

    @property
    def mode(self) -> str:
        """Registration mode of all clips."""
        return str(self.clips[0]["mode"])


@dataclass(frozen=True)
class DecodedFolder:
    """Everything in a folder, read once."""

    path: Path
    description: dict[str, Any]  # of decode.json: run, stage, test_set, extractor, hours; may be empty
    files: tuple[DecodedFile, ...]

    @property
    def test_set(self) -> str | None:
        """Name of the test set, if decode.json has one."""
        return self.description.get("test_set")

    @property
    def stage(self) -> int | None:
        """Training stage of the run."""
        return self.description.get("stage")


def read_folder(folder: Path) -> DecodedFolder:
    """Read the description and all clips; files without clips are skipped.

    Raises:
        ScoreError: the folder holds no decoded clips, or a file is damaged; names the line.
    """
    description = read_description(folder)
    files = []
    for path in decoded_files(folder):
        found = list(_checked(path))
        if found:
            files.append(DecodedFile(path, tuple(row for row, _ in found), tuple(session for _, session in found)))
    return DecodedFolder(folder, description, tuple(files))


def read_decoded(path: Path) -> list[dict[str, Any]]:
    """Read the rows of one file of the decoder, complete and all of one mode.

    Raises:
        ScoreError: the file is missing, or a row is damaged; names the line.
    """
    return [row for row, _ in _checked(path)]


def _checked(path: Path) -> list[tuple[dict[str, Any], SessionTranscript]]:
    if not path.exists():
        raise ScoreError(f"no decoded output at {path}; run speakerlm-decode first")
    found: list[tuple[dict[str, Any], SessionTranscript]] = []
    for where, row in rows(path):
        if row.get("mode") not in MODES:
            raise ScoreError(f"{where}: unknown mode {row.get('mode')!r}, known: {', '.join(MODES)}; decode it again")
        if found and row["mode"] != found[0][0]["mode"]:
            raise ScoreError(f"{where}: mode {row['mode']} in a file of mode {found[0][0]['mode']}")
        if not isinstance(row.get("n_ov"), int | None):
            raise ScoreError(f"{where}: n_ov {row['n_ov']!r} is not a number of speakers")
        found.append((row, decoded_session(row, where)))
    return found


def decoded_files(folder: Path) -> list[Path]:
    """List the files that the decoder wrote, in the order of :data:`MODES`, Over-Regist by its range.

    Raises:
        ScoreError: the folder has no such file.
    """
    files = [p for p in folder.glob("*.jsonl") if p.stem.split("-")[0] in MODES]
    if not files:
        raise ScoreError(f"no {', '.join(f'{m}.jsonl' for m in MODES)} in {folder}; run speakerlm-decode first")

    def order(path: Path) -> tuple[int, int, str]:
        mode, *numbers = path.stem.split("-")
        return MODES.index(mode), int(numbers[0]) if numbers and numbers[0].isdigit() else 0, path.stem

    return sorted(files, key=order)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``decode.json`` says of the clips; empty without that file.

    Raises:
        ScoreError: it is damaged.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        return {}
    content = read_json(path)
    about = content.get("about", {}) if isinstance(content, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("stage"), int | None):
        raise ScoreError(f"{path} does not describe decoded clips; decode them again")
    return about


def n_ov_range(path: Path, clips: Sequence[dict[str, Any]]) -> str | None:
    """Return the range in the file's name, else that of the clips (a small bank gives fewer than were asked for)."""
    _, _, named = path.stem.partition("-")
    drawn = [c["n_ov"] for c in clips if c.get("n_ov") is not None]
    return named or (f"{min(drawn)}-{max(drawn)}" if drawn else None)
