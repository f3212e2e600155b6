"""``speakerlm-shards simulate SOURCES… OUT``: conversations mixed from utterances of single speakers.

Writes ``OUT/audio/…/KEY.flac`` (16 kHz, 16 bit) and a manifest with exact times, speakers and words. Conversation k is
a pure function of (sources, settings, seed, k), so the number of workers changes nothing and a longer set begins with
the shorter one. With ``--speakers 1-1`` it makes sets for plain recognition.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shards.audio import encode_flac, load
from shards.conversation import Fingerprint, Layout, Settings, Sources, draw
from shards.corpora.prepare import summarize
from shards.errors import ConfigError, DataError
from shards.manifests import Recording, SpeakerInfo, read_manifest, read_speakers, write_manifest
from shards.rooms import Noise, add_noise, convolve, open_noise, room_responses
from shards.sample import SAMPLE_RATE

FILES_PER_FOLDER = 1000
PEAK = 0.98


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; their defaults are the paper's setting."""
    d = Settings()
    add = parser.add_argument
    pair: dict[str, Any] = {"type": _numbers, "metavar": "MIN-MAX"}
    whole: dict[str, Any] = {"type": _integers, "metavar": "MIN-MAX"}
    noises = "none, coloured, babble:MANIFEST (generated from voices of other persons), or a folder of recordings"
    disjoint = "simulated sets; no conversation has the speakers, words and order of one of theirs"
    add("sources", type=Path, nargs="+", help="manifest folders with single-speaker utterances")
    add("out", type=Path, help="folder for audio and manifest")
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--count", type=int, help="number of conversations")
    amount.add_argument("--hours", type=float, help="as many conversations as make up this much audio")
    add("--seed", type=int, default=0)
    add("--split", default="train")
    add("--speakers", **whole, default=d.speakers)
    add("--seconds", **pair, default=d.seconds, help="length of the audio; MAX is a hard limit")
    add("--turns", **whole, help="default: as many as fill the length")
    add("--words-per-turn", **whole, default=d.utterances_per_turn, help="source utterances that make one turn")
    add("--word-gap", **pair, default=d.utterance_gap, help="seconds between them")
    add("--pause", type=float, default=d.pause, help="mean seconds between turns (exponential)")
    add("--overlap", type=float, default=d.overlap, help="probability that a turn begins before the last has ended")
    add("--overlap-seconds", type=float, default=d.overlap_seconds, help="mean (exponential)")
    add("--edge", **pair, default=d.edge, help="seconds of silence at both ends")
    add("--gain-db", type=float, default=d.gain_db, help="speakers' levels differ by up to ± this")
    add("--same-language", action="store_true", help="a conversation is in one language")
    add("--rooms", choices=("none", "pyroomacoustics"), default=d.rooms)
    add("--noise", default=d.noise, help=noises)
    add("--snr", **pair, default=d.snr_db, help="dB, where noise is added")
    add("--disjoint-from", type=Path, nargs="+", default=[], metavar="SET", help=disjoint)
    add("--workers", type=int, default=os.cpu_count() or 1)


def run(args: argparse.Namespace) -> int:
    """Draw, render, write, and print one line."""
    settings = Settings(
        speakers=args.speakers,
        seconds=args.seconds,
        turns=args.turns,
        utterances_per_turn=args.words_per_turn,
        utterance_gap=args.word_gap,
        pause=args.pause,
        overlap=args.overlap,
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
        f"{args.out}: {audit['recordings']} conversations, {len(audit['speakers'])} speakers, "
        f"{audit['audio_hours']:.2f} h, {audit['overlap']:.1%} of speech overlapped"
    )
    return 0


def simulate(
    sources: Sequence[Path],
    out: Path,
    settings: Settings,
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
    speakers = _speakers(sources)
    recordings = [r for folder in sources for r in read_manifest(folder)]
    source = Sources(recordings, speakers)
    avoid = {f for folder in disjoint_from for f in fingerprints(folder)}
    layouts = list(_drawn(source, settings, seed, count, hours, avoid))
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in out.absolute().name)
    jobs = [(layout, settings, out / "audio", name, seed, split) for layout in layouts]
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            made = list(tqdm(pool.map(_make, jobs, chunksize=8), name, len(jobs), disable=None))
    else:
        made = [_make(job) for job in tqdm(jobs, name, disable=None)]
    heard = {s for r in made for s in r.speakers}
    audit = summarize(made) | {
        "audio_hours": round(sum(r.duration or 0.0 for r in made) / 3600, 4),
        "settings": asdict(settings),
        "seed": seed,
        "sources": [str(s) for s in sources],
        "made_by": "simulation: single-speaker utterances mixed after Landini et al. 2022",
    }
    write_manifest(out, made, [s for s in speakers if s.speaker in heard], audit)
    return audit


def _drawn(
    source: Sources, settings: Settings, seed: int, count: int | None, hours: float | None, avoid: set[Fingerprint]
) -> Iterator[Layout]:
    if count is None and hours is None:
        raise ConfigError("say how much: a count or hours")
    samples = 0.0
    for number in itertools.count():
        if (count is not None and number >= count) or (hours is not None and samples >= hours * 3600 * SAMPLE_RATE):
            return
        layout = draw(source, settings, seed, number, avoid)
        samples += layout.num_samples
        yield layout


def render(layout: Layout, settings: Settings, noise: Noise | None = None) -> np.ndarray:
    """The sound of a conversation: (num_samples,) float32 in [-1, 1]."""
    rng = np.random.default_rng(layout.sound_seed)
    cast = list(layout.gains_db)
    stems = {speaker: np.zeros(layout.num_samples, np.float32) for speaker in cast}
    spoken = np.zeros(layout.num_samples, bool)
    for turn in layout.turns:
        for piece in turn.pieces:
            u = piece.utterance
            wave = _utterance(u.audio, u.channel, u.start, u.num_samples)
            stems[turn.speaker][piece.start : piece.start + len(wave)] += wave
            spoken[piece.start : piece.start + u.num_samples] = True
    if settings.rooms == "pyroomacoustics":
        for speaker, response in zip(cast, room_responses(rng, len(cast)), strict=True):
            stems[speaker] = convolve(stems[speaker], response)[: layout.num_samples]
    mixed = sum((stems[s] * np.float32(10 ** (layout.gains_db[s] / 20)) for s in cast), np.zeros(1, np.float32))
    if noise is not None:
        persons = {p.utterance.person for t in layout.turns for p in t.pieces}
        snr = rng.uniform(*settings.snr_db)
        mixed = add_noise(mixed, noise(rng, layout.num_samples, persons), spoken, snr)
    peak = float(np.abs(mixed).max())
    return mixed * np.float32(PEAK / peak) if peak > PEAK else mixed


def _make(job: tuple[Layout, Settings, Path, str, int, str]) -> Recording:
    layout, settings, folder, name, seed, split = job
    key = f"{name}-{seed}-{layout.number:07d}"
    path = folder / f"{layout.number // FILES_PER_FOLDER:04d}" / f"{key}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_flac(render(layout, settings, _noise(settings.noise))))
    return Recording(
        key=key,
        corpus=name,
        split=split,
        session=key,
        language=layout.language,
        audio=str(path.absolute()),
        segments=layout.segments,
        duration=layout.num_samples / SAMPLE_RATE,
        sources=tuple(dict.fromkeys(p.utterance.key for t in layout.turns for p in t.pieces)),
    )


@lru_cache(maxsize=2048)
def _utterance(audio: str, channel: int | None, start: float, num_samples: int) -> np.ndarray:
    return load(audio, channel=channel, start=start, duration=num_samples / SAMPLE_RATE)[:num_samples]


@lru_cache(maxsize=1)
def _noise(kind: str) -> Noise | None:
    return open_noise(kind)


def fingerprints(folder: Path) -> set[Fingerprint]:
    """Who says what in which order, of every recording of a set."""
    return {tuple((s.speaker, s.text) for s in r.segments) for r in read_manifest(folder)}


def check_disjoint(folders: Sequence[Path]) -> None:
    """Raise :class:`DataError` where two sets share speakers, words and order, or the very same audio file bytes."""
    seen: dict[object, tuple[Path, str]] = {}
    for folder in folders:
        for recording in read_manifest(folder):
            audio = hashlib.sha256(Path(recording.audio).read_bytes()).digest()
            for mark in (audio, tuple((s.speaker, s.text) for s in recording.segments)):
                other, key = seen.setdefault(mark, (folder, recording.key))
                if other != folder:
                    raise DataError(f"{folder}: {recording.key} repeats {key} of {other}; make it --disjoint-from that")


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
