"""``speakerlm-shards simulate SOURCES… OUT``: conversations mixed from utterances of single speakers.

Writes ``OUT/audio/…/KEY.flac`` (16 kHz, 16 bit) and a manifest with exact times, speakers and words. Conversation k is
a pure function of (sources, settings, seed, k), so the number of workers changes nothing, a longer set begins with the
shorter one, and the same command goes on where it was interrupted. With ``--speakers 1-1`` it makes sets for plain
recognition.
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

from tqdm import tqdm

from shards.arguments import natural, positive
from shards.errors import ConfigError
from shards.manifests.manifest import (
    RECORDINGS,
    SPEAKERS,
    Recording,
    SpeakerInfo,
    read_manifest,
    read_speakers,
    write_manifest,
)
from shards.manifests.prepared import sorted_speakers
from shards.manifests.summary import Summary
from shards.sample import FORMAT_VERSION, SAMPLE_RATE
from shards.simulation.conversation import Fingerprint, Layout, draw
from shards.simulation.noise import open_noise
from shards.simulation.recorded_files import content_hashes
from shards.simulation.render import render
from shards.simulation.rooms import open_rooms
from shards.simulation.settings import SimulationSettings
from shards.simulation.turn_statistics import read_statistics
from shards.simulation.utterance_pool import UtterancePool
from shards.sound.audio import encode_flac
from shards.storage.local import LocalStorage
from shards.weights.fetch import sha256_of
from shards.workers import killed_workers_told

FILES_PER_FOLDER = 1000
_AT_ONCE = 4096  # conversations handed to the workers together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; their defaults are the paper's setting."""
    d = SimulationSettings()
    add = parser.add_argument
    pair: dict[str, Any] = {"type": _numbers, "metavar": "MIN-MAX"}
    whole: dict[str, Any] = {"type": _integers, "metavar": "MIN-MAX"}
    noises = "none, coloured, babble:MANIFEST (generated from voices of other persons), or a folder of recordings"
    disjoint = "simulated sets; no conversation has the speakers, words and order of one of theirs"
    add("sources", type=Path, nargs="+", help="manifest folders with single-speaker utterances")
    add("out", type=Path, help="folder for audio and manifest")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=positive, help="number of conversations")
    amount.add_argument("--hours", type=float, help="as many conversations as make up this much audio")
    add("--seed", type=natural, default=0)
    add("--split", default="train")
    add("--speakers", **whole, default=d.speakers)
    add("--seconds", **pair, default=d.seconds, help="length of the audio; MAX is a hard limit")
    add("--turns", **whole, help="default: as many as fill the length")
    add("--words-per-turn", **whole, default=d.utterances_per_turn, help="source utterances that make one turn")
    add("--word-gap", **pair, default=d.utterance_gap, help="seconds between them")
    add("--pause", type=float, default=d.pause, help="mean seconds between turns (exponential)")
    add("--overlap", type=float, default=d.overlap, help="probability that a turn begins before the last has ended")
    add("--overlap-seconds", type=float, default=d.overlap_seconds, help="mean (exponential)")
    real = "file made by the command statistics: pauses and overlaps of a real corpus instead of the three above"
    add("--statistics", type=Path, help=real)
    add("--concatenate", action="store_true", help="one turn right after the other, without pause and overlap")
    add("--edge", **pair, default=d.edge, help="seconds of silence at both ends")
    add("--gain-db", type=float, default=d.gain_db, help="speakers' levels differ by up to ± this")
    add("--same-language", action="store_true", help="a conversation is in one language")
    add("--rooms", default=d.rooms, help="none, pyroomacoustics, or a folder of recorded impulse responses")
    add("--noise", default=d.noise, help=noises)
    add("--snr", **pair, default=d.snr_db, help="dB, where noise is added")
    add("--disjoint-from", type=Path, nargs="+", default=[], metavar="SET", help=disjoint)
    add("--workers", type=positive, default=os.cpu_count() or 1)


def run(args: argparse.Namespace) -> int:
    """Draw, render, write, and print one line."""
    if args.concatenate and args.statistics:
        raise ConfigError("--concatenate and --statistics exclude each other")
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
    """Write a set of `count` conversations, or of at least `hours`; returns its audit."""
    settings.check()
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in out.absolute().name)
    avoid = frozenset(f for folder in disjoint_from for f in fingerprints(folder))
    work = _Work(tuple(sources), settings, seed, avoid, out / "audio", name, split)
    maker = _Maker(work)
    if count is None:
        count = _enough(maker, hours)
    counted, heard, known = Summary(), dict[str, SpeakerInfo](), {s.speaker: s for s in _speakers(sources)}
    seconds = 0.0

    def made() -> Iterator[Recording]:
        nonlocal seconds
        work.claim()  # here the manifest is being written, which only one process can do
        for recording in tqdm(_run(maker, count, workers), name, count, unit="conversation", disable=None):
            seconds += recording.duration or 0.0
            heard.update((s, known[s]) for s in recording.speakers if s in known)
            yield recording

    def audit() -> dict[str, Any]:
        return counted.result() | {
            "audio_hours": round(seconds / 3600, 4),
            "settings": asdict(settings),
            "seed": seed,
            "sources": [str(s) for s in sources],
            "made_by": "simulation: single-speaker utterances mixed after Landini et al. 2022",
        }

    write_manifest(out, counted.over(made()), sorted_speakers(heard), audit)
    return audit()


@dataclass(frozen=True)
class _Work:
    """Everything that a conversation is a function of, but its number."""

    sources: tuple[Path, ...]
    settings: SimulationSettings
    seed: int
    avoid: frozenset[Fingerprint]
    folder: Path
    name: str
    split: str

    def path(self, number: int) -> Path:
        """Where conversation `number` goes."""
        return self.folder / f"{number // FILES_PER_FOLDER:04d}" / f"{self.name}-{self.seed}-{number:07d}.flac"

    def claim(self) -> None:
        """Make the folder this work's: what another one left there goes, what is this one's own is kept and used."""
        hashes = [sha256_of(s / name) for s in self.sources for name in (RECORDINGS, SPEAKERS)]  # words, and persons
        hashes += content_hashes(self.settings.noise, self.settings.rooms)
        avoid = hashlib.sha256(repr(sorted(self.avoid)).encode()).hexdigest()
        told = json.dumps([asdict(self.settings), self.seed, hashes, avoid, FORMAT_VERSION], sort_keys=True)
        stamp, storage = f"{self.name}.made-from", LocalStorage(self.folder)
        mark = hashlib.sha256(told.encode()).hexdigest().encode()
        if not storage.exists(stamp) or storage.read(stamp) != mark:
            (self.folder.parent / RECORDINGS).unlink(missing_ok=True)  # it would name audio of this work as its own
            for path in self.folder.glob(f"*/{self.name}-*.flac"):
                path.unlink()
            storage.write_atomic(stamp, mark)


class _Maker:
    """Makes conversations one by one."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.sources = UtterancePool((r for s in work.sources for r in read_manifest(s)), _speakers(work.sources))
        self._noise, self._rooms = open_noise(work.settings.noise), open_rooms(work.settings.rooms)

    def layout(self, number: int) -> Layout:
        """Who says what, and when."""
        return draw(self.sources, self.work.settings, self.work.seed, number, self.work.avoid)

    def __call__(self, number: int) -> Recording:
        """Render conversation `number` unless it is there."""
        work, layout, path = self.work, self.layout(number), self.work.path(number)
        if not path.is_file():
            sound = encode_flac(render(layout, work.settings, self._noise, self._rooms))
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(sound)  # not synced: a file that a power failure cut fails when it is packed
            temporary.rename(path)
        return Recording(
            key=path.stem,
            corpus=work.name,
            split=work.split,
            session=path.stem,
            language=layout.language,
            audio=str(path.absolute()),
            segments=layout.segments,
            duration=layout.num_samples / SAMPLE_RATE,
            sources=tuple(dict.fromkeys(p.utterance.key for t in layout.turns for p in t.pieces)),
        )


def _enough(maker: _Maker, hours: float | None) -> int:
    """How many conversations make up `hours`; where their lengths are drawn, by drawing them."""
    if hours is None:
        raise ConfigError("say how much: a count or hours")
    settings, samples = maker.work.settings, hours * 3600 * SAMPLE_RATE
    if settings.turns is None and settings.seconds[0] == settings.seconds[1]:
        return math.ceil(samples / round(settings.seconds[0] * SAMPLE_RATE))
    number = 0
    while samples > 0:
        samples -= maker.layout(number).num_samples
        number += 1
    return number


def _run(maker: _Maker, count: int, workers: int) -> Iterator[Recording]:
    if workers <= 1:
        yield from map(maker, range(count))
        return
    global _maker  # noqa: PLW0603 (forked workers share the sources, which may be a million utterances, by it)
    _maker = maker
    try:
        with killed_workers_told(), ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            for first in range(0, count, _AT_ONCE):
                yield from pool.map(_make, range(first, min(count, first + _AT_ONCE)), chunksize=8)
    finally:
        _maker = None


_maker: _Maker | None = None


def _make(number: int) -> Recording:
    assert _maker is not None
    return _maker(number)


def fingerprints(folder: Path) -> set[Fingerprint]:
    """Who says what in which order, of every recording of a set."""
    return {tuple((s.speaker, s.text) for s in r.segments) for r in read_manifest(folder)}


def _speakers(sources: Sequence[Path]) -> list[SpeakerInfo]:
    return list({s.speaker: s for folder in sources for s in read_speakers(folder)}.values())


def _numbers(text: str) -> tuple[float, float]:
    first, dash, last = text.partition("-")
    try:
        return float(first), float(last if dash else first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range like 2-4") from error


def _integers(text: str) -> tuple[int, int]:
    first, last = _numbers(text)
    if not (first.is_integer() and last.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of whole numbers like 2-4")
    return int(first), int(last)
