"""Output folder of decoding, shared by any number of processes that do not communicate.

Each process appends to its two files: ``parts/JOB.RANK-of-WORLD.jsonl`` the clips, ``….timing`` their cost. The process
that finds all clips of all jobs complete merges them into ``JOB.jsonl`` and writes ``done``. Merging is a pure function
of the parts, so it is safe if two processes do it at once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from pipeline.evaluation.files import read_json
from shards.errors import ScoreError
from shards.storage.local import atomic_file

PARTS = "parts"
DONE = "done"


@dataclass
class Timing:
    """Cost of decoding; over several processes the sum, and the largest peak memory."""

    clips: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0  # summed over processes
    peak_bytes: int = 0  # GPU memory, else memory of the process

    @property
    def real_time_factor(self) -> float | None:
        """Return seconds of one process per second of audio: below 1 is faster than real time."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds else None

    def add(self, other: Timing) -> None:
        """Add the cost of further work."""
        self.clips += other.clips
        self.audio_seconds += other.audio_seconds
        self.wall_seconds += other.wall_seconds
        self.peak_bytes = max(self.peak_bytes, other.peak_bytes)


@dataclass(frozen=True)
class DecodeSettings:
    """Settings that determine the output of a clip; stored in ``decode.json``.

    The batch size is one of them: a clip's text may depend on its neighbours, by the rounding of padded sums.
    """

    run: str
    weights: str  # sha256
    dataset: str
    fingerprint: str
    seed: int
    batch: int
    limit: int | None
    guards: dict[str, Any] = field(default_factory=dict)
    registration: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)  # empty: transformers
    context: list[str] = field(default_factory=list)  # terms of every prompt's line of context
    clip_context: dict[str, Any] = field(default_factory=dict)  # number and hash of terms of single clips


@dataclass(frozen=True)
class DecodeLabels:
    """Labels of the figures in tables; none of them changes the output."""

    run: str
    stage: int | None  # None: not a stage of this pipeline, such as a baseline
    test_set: str
    extractor: str
    hours: float | None  # of training data, if known


class DecodeFolder:
    """A folder of decoded clips."""

    def __init__(
        self,
        folder: Path,
        settings: DecodeSettings,
        about: DecodeLabels,
        ranges: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Create the folder, or continue in one of the same settings.

        Args:
            ranges: job → its range of distractors, for Over-Regist; others may be added later.

        Raises:
            ScoreError: the folder holds output of other settings, is damaged, or cannot be created.
        """
        self.folder = folder
        try:
            (folder / PARTS).mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise ScoreError(f"{folder}: {e.strerror or e}; name a folder that can be written") from e
        path = folder / "decode.json"
        if path.exists():
            stored = _read_description(path)
            _check_same(folder, stored, settings)
            known = stored.get("ranges", {})
            if other := [job for job, drawn in ranges.items() if known.get(job, drawn) != drawn]:
                raise ScoreError(
                    f"{folder} holds {other[0]} with {known[other[0]]} distractors, not {ranges[other[0]]}; give "
                    "another folder or delete it"
                )
            if not ranges.items() <= known.items():
                _write(path, {**stored, "ranges": {**known, **ranges}})
        elif any(folder.glob("*.jsonl")):
            raise ScoreError(f"{folder} holds decoded clips but no decode.json; give an empty folder")
        else:
            content = {"settings": asdict(settings), "about": asdict(about), "ranges": dict(ranges), "timing": {}}
            _write(path, content)

    def rows(self, job: str) -> dict[str, str]:
        """Return key → line of every decoded clip of a job, of all processes.

        Raises:
            ScoreError: a line is damaged.
        """
        found: dict[str, str] = {}
        for path in self._files(job):
            for line, row in _objects(path, "key"):
                found.setdefault(row["key"], line)
        return found

    @contextmanager
    def part(self, job: str, rank: int, world: int) -> Iterator[Part]:
        """Open this process's files of a job to append to; a partial last line, left by a crash, is cut off."""
        stem = self.folder / PARTS / f"{job}.{rank}-of-{world}"
        clips, timing = stem.with_name(stem.name + ".jsonl"), stem.with_name(stem.name + ".timing")
        for path in (clips, timing):
            _cut_half_line(path)
        with clips.open("a", encoding="utf-8") as a, timing.open("a", encoding="utf-8") as b:
            yield Part(a, b)

    def merge(self, wanted: dict[str, Sequence[str]]) -> dict[str, Timing] | None:
        """Write every job's file once all clips are decoded.

        Args:
            wanted: job → keys of its clips, in the order in which they are written.

        Returns:
            Timing by job; None while clips are missing.
        """
        found = {job: self.rows(job) for job in wanted}
        if any(key not in found[job] for job, keys in wanted.items() for key in keys):
            return None
        timings = {job: self._timing(job) for job in wanted}
        if not (self.folder / PARTS).exists():  # another process has merged them
            return None
        content = _read_description(self.folder / "decode.json")
        for job, keys in wanted.items():
            timing = timings[job]
            if timing.clips:
                content["timing"][job] = {**asdict(timing), "real_time_factor": timing.real_time_factor}
            _replace(self.folder / f"{job}.jsonl", "".join(found[job][key] + "\n" for key in keys))
        _write(self.folder / "decode.json", content)
        _replace(self.folder / DONE, json.dumps(list(wanted)) + "\n")
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        kept = {f.name for f in fields(Timing)}
        return {j: Timing(**{k: v for k, v in t.items() if k in kept}) for j, t in content["timing"].items()}

    def _files(self, job: str) -> list[Path]:
        whole = self.folder / f"{job}.jsonl"
        return [p for p in (whole, *sorted((self.folder / PARTS).glob(f"{job}.*-of-*.jsonl"))) if p.exists()]

    def _timing(self, job: str) -> Timing:
        total = Timing()
        for path in sorted((self.folder / PARTS).glob(f"{job}.*-of-*.timing")):
            for _, row in _objects(path, *(f.name for f in fields(Timing))):
                total.add(Timing(**row))
        return total


@dataclass
class Part:
    """The open files of one process."""

    clips: IO[str]
    timing: IO[str]

    def append(self, rows: Sequence[dict[str, Any]], timing: Timing) -> None:
        """Append a batch and flush it to the operating system."""
        self.clips.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.timing.write(json.dumps(asdict(timing)) + "\n")
        self.clips.flush()
        self.timing.flush()


def _check_same(folder: Path, stored: dict[str, Any], settings: DecodeSettings) -> None:
    moved = {"run", "dataset"}  # a run or a dataset may move; hash and fingerprint identify them
    # Folders of before these existed lack them.
    kept = {"engine": {}, "context": [], "clip_context": {}} | stored.get("settings", {})
    differing = [k for k, v in asdict(settings).items() if k not in moved and kept.get(k) != v]
    if differing:
        raise ScoreError(
            f"{folder} holds clips decoded with another {', '.join(differing)}; give another folder or delete it"
        )


def _read_description(path: Path) -> dict[str, Any]:
    """Read ``decode.json`` as :class:`DecodeFolder` writes it."""
    content = read_json(path)
    parts = content if isinstance(content, dict) else {}
    if not all(isinstance(parts.get(name, {}), dict) for name in ("settings", "ranges")) or "timing" not in parts:
        raise ScoreError(f"{path} does not describe decoded clips; delete its folder, or give another")
    return parts


def _objects(path: Path, *wanted: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield whole lines, and the wanted fields of each."""
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            row = json.loads(line)
            yield line, {name: row[name] for name in wanted}
        except (ValueError, KeyError, TypeError) as e:
            raise ScoreError(
                f"{path}: line {number} is damaged ({e}); delete {path.with_suffix('.*')}, its clips are decoded again"
            ) from e


def _whole_lines(path: Path) -> list[str]:
    """Return complete lines: another process may be writing the last one. Empty if the file has been merged."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text[: text.rfind("\n") + 1].split("\n") if line.strip()]


def _cut_half_line(path: Path) -> None:
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def _write(path: Path, content: dict[str, Any]) -> None:
    _replace(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _replace(path: Path, text: str) -> None:
    """Write atomically; safe if other processes write the same file."""
    with atomic_file(path, wait=True) as file:
        file.write(text.encode())
