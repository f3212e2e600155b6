"""``speakerlm-shards simulate SOURCES… OUT``: mix conversations from single-speaker utterances.

Writes ``OUT/audio/…/KEY.flac`` (16 kHz, 16 bit) and a manifest with exact times, speakers and words. Conversation k is
a pure function of (sources, settings, seed, k): results do not depend on the number of workers, a longer set starts
with the shorter one, and an interrupted command resumes. ``--speakers 1-1`` makes sets for speech recognition.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from shards.arguments import integer_range, natural, number_range, positive
from shards.errors import ConfigError
from shards.manifests.audit import SKIPPED, Audit
from shards.manifests.manifest import (
    RECORDINGS,
    SPEAKERS,
    Recording,
    SpeakerInfo,
    read_manifest,
    read_speakers,
    write_manifest,
)
from shards.manifests.prepare_types import sorted_speakers
from shards.manifests.summary import Summary
from shards.sample import FORMAT_VERSION, SAMPLE_RATE
from shards.simulation.conversation import Fingerprint, Layout, draw_layout
from shards.simulation.noise import open_noise
from shards.simulation.recorded_files import SilentFiles, content_hashes, file_hash
from shards.simulation.render import render
from shards.simulation.rooms import open_rooms
from shards.simulation.settings import SimulationSettings
from shards.simulation.turn_statistics import read_statistics
from shards.simulation.utterance_pool import UtterancePool
from shards.sound.audio import encode_flac
from shards.storage.local import LocalStorage
from shards.workers import progress, report_killed_workers

FILES_PER_FOLDER = 1000
SILENT = "silent recording of noise or a room"
_AT_ONCE = 4096  # conversations submitted to the workers per batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command; the defaults are the paper's setting."""
    d = SimulationSettings()
    add = parser.add_argument
    pair: dict[str, Any] = {"type": number_range, "metavar": "MIN-MAX"}
    whole: dict[str, Any] = {"type": integer_range, "metavar": "MIN-MAX"}
    noises = "none, coloured, babble:MANIFEST (mixed from voices of other persons), or a folder of recordings"
    disjoint = "simulated sets; no conversation repeats the speakers, words and order of one of theirs"
    add("sources", type=Path, nargs="+", help="manifest folders with single-speaker utterances")
    add("out", type=Path, help="output folder for audio and manifest")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=positive, help="number of conversations")
    amount.add_argument("--hours", type=float, help="hours of audio, instead of --count")
    add("--seed", type=natural, default=0, help="seed of all draws")
    add("--split", default="train", help="split in the manifest")
    add("--speakers", **whole, default=d.speakers, help="speakers per conversation")
    add("--seconds", **pair, default=d.seconds, help="length of a conversation; MAX is a hard limit")
    add("--turns", **whole, help="turns per conversation (default: as many as fill the length)")
    add("--words-per-turn", **whole, default=d.utterances_per_turn, help="source utterances per turn")
    add("--word-gap", **pair, default=d.utterance_gap, help="seconds between the utterances of a turn")
    add("--pause", type=float, default=d.pause, help="mean seconds between turns (exponential)")
    add("--overlap", type=float, default=d.overlap, help="probability that a turn overlaps the previous one")
    add("--overlap-seconds", type=float, default=d.overlap_seconds, help="mean seconds of an overlap (exponential)")
    real = "output of speakerlm-shards statistics: pauses and overlaps of a real corpus instead of the three above"
    add("--statistics", type=Path, help=real)
    add("--concatenate", action="store_true", help="turns without pauses and overlaps")
    add("--edge", **pair, default=d.edge, help="seconds of silence at both ends")
    add("--gain-db", type=float, default=d.gain_db, help="speaker levels are drawn from ± this")
    add("--same-language", action="store_true", help="only speakers of one language in a conversation")
    add("--rooms", default=d.rooms, help="none, pyroomacoustics, or a folder of recorded impulse responses")
    add("--noise", default=d.noise, help=noises)
    add("--snr", **pair, default=d.snr_db, help="signal-to-noise ratio in dB")
    add("--disjoint-from", type=Path, nargs="+", default=[], metavar="SET", help=disjoint)
    add("--workers", type=positive, default=os.cpu_count() or 1, help="worker processes")


def run(args: argparse.Namespace) -> int:
    """Write the set and print a summary."""
    if args.concatenate and args.statistics:
        raise ConfigError("--concatenate and --statistics cannot be combined")
    settings = SimulationSettings(
        speakers=args.speakers,
        seconds=args.seconds,
        turns=args.turns,
        utterances_per_turn=args.words_per_turn,
        utterance_gap=args.word_gap,
        pause=0.0 if args.concatenate else args.pause,
        overlap=0.0 if args.concatenate else args.overlap,
        statistics=read_statistics(args.statistics) if args.statistics else None,
        overlap_seconds=args.overlap_seconds,
        edge=args.edge,
        gain_db=args.gain_db,
        same_language=args.same_language,
        rooms=args.rooms,
        noise=args.noise,
        snr_db=args.snr,
    )
    audit = simulate(
        args.sources,
        args.out,
        settings,
        seed=args.seed,
        count=args.count,
        hours=args.hours,
        split=args.split,
        disjoint_from=args.disjoint_from,
        workers=args.workers,
    )
    print(
        f"{args.out}: {audit['recordings']} conversations, {audit['num_speakers']} speakers, "
        f"{audit['audio_hours']:.2f} h, {audit['overlap']:.1%} of speech overlapped"
        + (
            f", {silent} silent recordings of noise or rooms not used"
            if (silent := sum(audit[SKIPPED].values()))
            else ""
        )
    )
    return 0


def simulate(
    sources: Sequence[Path],
    out: Path,
    settings: SimulationSettings,
    *,
    seed: int = 0,
    count: int | None = None,
    hours: float | None = None,
    split: str = "train",
    disjoint_from: Sequence[Path] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Write a set of `count` conversations, or of at least `hours` of audio; returns its audit."""
    settings.check()
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in out.absolute().name)
    avoid = frozenset(f for folder in disjoint_from for f in fingerprints(folder))
    spec = _SetSpec(tuple(sources), settings, seed, avoid, out / "audio", name, split)
    renderer = _Renderer(spec)
    if count is None:
        count = _count_for_hours(renderer, hours)
    counted, heard, known = Summary(), dict[str, SpeakerInfo](), {s.speaker: s for s in _speakers(sources)}
    seconds = 0.0

    def made() -> Iterator[Recording]:
        nonlocal seconds
        spec.claim()  # while the manifest is locked: only one process can write it
        for recording in progress(_run(renderer, count, workers), name, count, unit="conversation"):
            seconds += recording.duration or 0.0
            heard.update((s, known[s]) for s in recording.speakers if s in known)
            yield recording

    def silent_files() -> dict[str, Any]:
        silent = Audit()
        for name in spec.silent_files.names():
            silent.skip(SILENT, name)
        return silent.result()

    def audit() -> dict[str, Any]:
        return (
            counted.result()
            | {
                "audio_hours": round(seconds / 3600, 4),
                "settings": asdict(settings),
                "seed": seed,
                "sources": [str(s) for s in sources],
                "made_by": "simulation: single-speaker utterances mixed after Landini et al. 2022",
            }
            | silent_files()
        )

    write_manifest(out, counted.counting(made()), sorted_speakers(heard), audit)
    return audit()


@dataclass(frozen=True)
class _SetSpec:
    """Everything that determines a set's conversations, given their number."""

    sources: tuple[Path, ...]
    settings: SimulationSettings
    seed: int
    avoid: frozenset[Fingerprint]
    folder: Path
    name: str
    split: str

    @property
    def silent_files(self) -> SilentFiles:
        """Silent recordings of noise and rooms that were drawn."""
        return SilentFiles(self.folder / f"{self.name}.silent")

    def path(self, number: int) -> Path:
        """Return the audio file of conversation `number`."""
        return self.folder / f"{number // FILES_PER_FOLDER:04d}" / f"{self.name}-{self.seed}-{number:07d}.flac"

    def claim(self) -> None:
        """Assign the folder to this set: keep audio of the same sources and settings, delete any other."""
        hashes = [file_hash(s / name) for s in self.sources for name in (RECORDINGS, SPEAKERS)]  # texts and persons
        hashes += content_hashes(self.settings.noise, self.settings.rooms)
        avoid = hashlib.sha256(repr(sorted(self.avoid)).encode()).hexdigest()
        identity = json.dumps([asdict(self.settings), self.seed, hashes, avoid, FORMAT_VERSION], sort_keys=True)
        stamp, storage = f"{self.name}.made-from", LocalStorage(self.folder)
        mark = hashlib.sha256(identity.encode()).hexdigest().encode()
        if not storage.exists(stamp) or storage.read(stamp) != mark:
            (self.folder.parent / RECORDINGS).unlink(missing_ok=True)  # or the former manifest would refer to new audio
            for path in (*self.folder.glob(f"*/{self.name}-*.flac"), self.silent_files.path):
                path.unlink(missing_ok=True)
            storage.write_atomic(stamp, mark)


class _Renderer:
    """Renders the conversations of a set."""

    def __init__(self, spec: _SetSpec) -> None:
        self.spec = spec
        self.pool = UtterancePool((r for s in spec.sources for r in read_manifest(s)), _speakers(spec.sources))
        report = spec.silent_files
        self._noise, self._rooms = open_noise(spec.settings.noise, report), open_rooms(spec.settings.rooms, report)

    def layout(self, number: int) -> Layout:
        """Draw the layout of conversation `number`."""
        return draw_layout(self.pool, self.spec.settings, self.spec.seed, number, self.spec.avoid)

    def __call__(self, number: int) -> Recording:
        """Return conversation `number`, rendered unless its file exists."""
        spec, layout, path = self.spec, self.layout(number), self.spec.path(number)
        if not path.is_file():
            sound = encode_flac(render(layout, spec.settings, self._noise, self._rooms))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(sound)  # not synced: packing detects a file truncated by a power failure
            temporary.rename(path)
        return Recording(
            key=path.stem,
            corpus=spec.name,
            split=spec.split,
            session=path.stem,
            language=layout.language,
            audio=str(path.absolute()),
            segments=layout.segments,
            duration=layout.num_samples / SAMPLE_RATE,
            sources=tuple(dict.fromkeys(p.utterance.key for t in layout.turns for p in t.pieces)),
        )


def _count_for_hours(renderer: _Renderer, hours: float | None) -> int:
    """Return the number of conversations that make up `hours`; variable lengths are drawn for it."""
    if hours is None:
        raise ConfigError("a count or hours is required")
    settings, samples = renderer.spec.settings, hours * 3600 * SAMPLE_RATE
    if settings.turns is None and settings.seconds[0] == settings.seconds[1]:
        return math.ceil(samples / round(settings.seconds[0] * SAMPLE_RATE))
    number = 0
    while samples > 0:
        samples -= renderer.layout(number).num_samples
        number += 1
    return number


def _run(renderer: _Renderer, count: int, workers: int) -> Iterator[Recording]:
    if workers <= 1:
        yield from map(renderer, range(count))
        return
    global _renderer  # noqa: PLW0603 (forked workers share the utterance pool, which may be large)
    _renderer = renderer
    try:
        with report_killed_workers(), ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            for first in range(0, count, _AT_ONCE):
                yield from pool.map(_render_one, range(first, min(count, first + _AT_ONCE)), chunksize=8)
    finally:
        _renderer = None


_renderer: _Renderer | None = None


def _render_one(number: int) -> Recording:
    assert _renderer is not None
    return _renderer(number)


def fingerprints(folder: Path) -> set[Fingerprint]:
    """Return the speakers and texts in order of every recording of a set."""
    return {tuple((s.speaker, s.text) for s in r.segments) for r in read_manifest(folder)}


def _speakers(sources: Sequence[Path]) -> list[SpeakerInfo]:
    return list({s.speaker: s for folder in sources for s in read_speakers(folder)}.values())
