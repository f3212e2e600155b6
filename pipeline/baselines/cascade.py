"""SD+ASR: a recogniser and a diarizer over a test set, joined by time → rows as `speakerlm-decode` writes them

``OUT/no.jsonl`` has one row per clip: the text as ``spk0 [0.0, 1.1]: hello``, so that scoring finds times and DER, and
the words and turns that it was joined from. ``OUT/seglst.json`` is the same for other tools, ``OUT/turns.rttm`` the
diarizer's own output, ``OUT/reference.json`` the reference as SegLST. Like decoding it resumes after a stop, and any
number of processes share the work.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.baselines.interfaces import DiarizedTurn, Diarizer, Recogniser
from pipeline.baselines.join_words import join
from pipeline.decode.store import DecodeFolder, DecodeLabels, DecodeSettings, Timing
from pipeline.evaluation.formats import dumps, read
from pipeline.evaluation.records import SegLstRow, in_time_order
from pipeline.ranks.memory import peak_bytes
from shards.errors import ConfigError, DataError
from shards.sample import SAMPLE_RATE
from shards.workers import progress

JOB = "no"  # no speaker is registered


@dataclass(frozen=True)
class CascadeClip:
    """Audio and its metadata."""

    row: dict[str, Any]  # of the output, without what the systems add
    wave: Callable[[], np.ndarray]  # reads (n,) float32 at 16 kHz


@dataclass(frozen=True)
class CascadeTestSet:
    """Clips to transcribe, and their fingerprint."""

    name: str
    url: str
    fingerprint: str
    keys: tuple[str, ...]
    clips: Callable[[Sequence[str]], Iterator[CascadeClip]]


@dataclass(frozen=True)
class Cascade:
    """A recogniser, a diarizer and the recogniser's language."""

    recogniser: Recogniser
    diarizer: Diarizer
    language: str = "auto"  # auto: the recogniser detects it; data: the clip's own; else one code for all
    details: str = ""  # what else decides the output: where weights came from, thresholds, a known number of people

    @property
    def id(self) -> str:
        """Name in tables."""
        return f"{self.diarizer.id} + {self.recogniser.id}"

    def transcribe(
        self, session: str, wave: np.ndarray, language: str | None = None
    ) -> tuple[list[SegLstRow], list[DiarizedTurn]]:
        """Segments with times, and the diarizer's own turns."""
        turns = self.diarizer.turns(wave, session)
        return join(session, self.recogniser.words(wave, language), turns), turns


def run(
    cascade: Cascade, tests: CascadeTestSet, out: Path, limit: int | None = None, rank: int = 0, world: int = 1
) -> Timing | None:
    """Transcribe this process's share of a test set; None while other processes are still at work.

    Raises:
        ScoreError: `out` holds output of another cascade or test set.
    """
    identity = f"{cascade.id}, language {cascade.language}, {cascade.details}"
    settings = DecodeSettings(
        cascade.id, hashlib.sha256(identity.encode()).hexdigest(), tests.url, tests.fingerprint, 0, 1, limit
    )
    output = DecodeFolder(out, settings, DecodeLabels(cascade.id, None, tests.name, cascade.diarizer.id, None))
    keys = tests.keys[:limit]
    done = output.rows(JOB).keys()
    todo = [k for k in keys[rank::world] if k not in done]
    with output.part(JOB, rank, world) as part, progress(total=len(todo), unit="clip", disable=rank != 0) as bar:
        for clip in tests.clips(todo):
            began = time.monotonic()
            row = _row(cascade, clip)
            part.append([row], Timing(1, row["duration"], time.monotonic() - began, peak_bytes()))
            bar.update()
    timings = output.merge({JOB: keys})
    if timings is None:
        return None
    _write_other_formats(out)
    return timings[JOB]


def _row(cascade: Cascade, clip: CascadeClip) -> dict[str, Any]:
    wave = clip.wave()
    own = clip.row.get("language")
    language = {"auto": None, "data": own if own and len(own) == 2 else None}.get(cascade.language, cascade.language)
    segments, turns = cascade.transcribe(clip.row["key"], wave, language)
    return {
        **clip.row,
        "duration": len(wave) / SAMPLE_RATE,
        "mode": JOB,
        "n_ov": None,
        "names": [],
        "raw": as_text(segments),
        "stop": "end",
        "hypothesis": [{"speaker": s.speaker, "start": s.start, "end": s.end, "text": s.text} for s in segments],
        "turns": [asdict(t) for t in turns],
    }


def as_text(segments: Sequence[SegLstRow]) -> str:
    """One line per segment: ``spk0 [0.00, 1.10]: hello``, or without times if it has none."""

    def label(s: SegLstRow) -> str:
        return f"{s.speaker} [{s.start:.2f}, {s.end:.2f}]: " if s.timed else f"{s.speaker}: "

    return "\n".join((label(s) if s.speaker else "") + s.text for s in segments)


def _write_other_formats(out: Path) -> None:
    """Write the rows in formats that other tools read."""
    lines = (out / f"{JOB}.jsonl").read_text(encoding="utf-8").split("\n")  # JSON may hold other ends of lines
    rows = [json.loads(line) for line in lines if line]

    def segments(field: str) -> list[SegLstRow]:
        turns = [(r["key"], t) for r in rows for t in r[field]]
        return [SegLstRow(k, t["speaker"], t.get("text", ""), t["start"], t["end"]) for k, t in turns]

    texts = {
        "seglst.json": dumps(segments("hypothesis"), "seglst"),
        "reference.json": dumps(segments("reference"), "seglst"),
        "turns.rttm": dumps(segments("turns"), "rttm") if any(r["turns"] for r in rows) else "",
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", newline="")


def packed(url: str) -> CascadeTestSet:
    """A packed dataset; speakers of the reference are called by first appearance, as in mode ``no``.

    Raises:
        StorageError, ShardError: it cannot be opened.
    """
    from pipeline.prompts import Mode, speaker_labels
    from shards.dataset.dataset import open_dataset
    from shards.dataset.reader import read_sample
    from shards.sound.audio import decode

    dataset = open_dataset(url)
    places = {
        key: (shard, row)
        for shard in range(len(dataset.shards))
        for row, key in enumerate(dataset.index(shard)["key"].to_pylist())
    }

    def clips(keys: Sequence[str]) -> Iterator[CascadeClip]:
        for key in keys:
            sample = read_sample(dataset, *places[key])
            labels = speaker_labels(Mode.NO, sample.segments)
            about = {k: getattr(sample, k) for k in ("key", "session", "corpus", "split", "language")}
            reference = [{**asdict(s), "speaker": labels[s.speaker]} for s in sample.segments]
            yield CascadeClip({**about, "reference": reference}, lambda s=sample: decode(s.audio))  # type: ignore[misc]

    return CascadeTestSet(dataset.name, dataset.url, dataset.fingerprint(), tuple(sorted(places)), clips)


def recordings(paths: Sequence[Path], reference: Path | None, language: str | None = None) -> CascadeTestSet:
    """Audio files, each a session by its name without suffix, and their reference in any format that is read.

    Raises:
        ConfigError: two files of one name.
        DataError: the reference has none of their sessions.
        ScoreError: the reference cannot be read.
    """
    from shards.sound.audio import load

    files = {p.stem: p for p in paths}
    if len(files) < len(paths):
        raise ConfigError("two recordings have the same name without suffix and would be one session: rename one")
    known: dict[str, list[SegLstRow]] = {name: [] for name in files}
    for segment in read(reference, side="reference") if reference else []:
        if segment.session in known:
            known[segment.session].append(segment)
    if reference and not any(known.values()):
        raise DataError(f"{reference}: has no session of {', '.join(sorted(files)[:5])}")
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {files[name].stat().st_size}\n".encode() + files[name].read_bytes()[:65536])

    def clips(keys: Sequence[str]) -> Iterator[CascadeClip]:
        for key in keys:
            turns = [
                {"speaker": s.speaker, "start": s.start, "end": s.end, "text": s.text}
                for s in in_time_order(known[key])
            ]
            about = {"key": key, "session": key, "corpus": files[key].parent.name, "split": "?", "language": language}
            yield CascadeClip({**about, "reference": turns}, lambda k=key: load(files[k]))  # type: ignore[misc]

    name = ", ".join(sorted(files)[:3])
    return CascadeTestSet(name, str(paths[0].parent), digest.hexdigest(), tuple(sorted(files)), clips)
