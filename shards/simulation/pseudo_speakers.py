"""``speakerlm-shards pseudo-speakers MANIFEST OUT``: speed-perturbed copies of recordings as additional speakers.

Resampling shifts pitch and formants like another vocal tract, as in Kaldi's speed perturbation for speaker recognition
(Yamamoto et al. 2019, "Speaker augmentation and bandwidth extension for deep speaker embedding"). The pseudo-speaker of
``it-menardi`` at 1.14 is ``it-menardi@1.14``, of an unknown person: two versions of a voice may occur in a
conversation, and are registered together only if their vectors differ enough.

Recordings can be selected by key, to withhold takes or voices from training. The recordings at speed 1 are those of
MANIFEST; their audio is not copied.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from shards.arguments import positive
from shards.errors import ConfigError, ManifestError
from shards.manifests.manifest import Recording, SpeakerInfo, read_manifest, read_speakers, write_manifest
from shards.manifests.prepare_types import sorted_speakers
from shards.manifests.summary import Summary
from shards.sample import SAMPLE_RATE, is_known
from shards.sound.audio import encode_flac, load
from shards.workers import progress, report_killed_workers

SLOWEST, FASTEST = 0.5, 2.0
PEAK = 0.98


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    glob: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "GLOB"}
    add("manifest", type=Path, help="manifest folder of recordings with one speaker each")
    add("out", type=Path, help="output folder for audio and manifest")
    add("--speeds", type=float, nargs="+", default=[], help="such as 0.88 1.14; larger is faster and higher in pitch")
    add("--only", **glob, help="keys of the recordings to use, such as 'it-*' (default: all)")
    add("--without", **glob, help="keys of the recordings to skip")
    add("--workers", type=positive, default=os.cpu_count() or 1, help="worker processes")


def run(args: argparse.Namespace) -> int:
    """Write the manifest and print a summary."""
    audit = pseudo_speakers(args.manifest, args.out, args.speeds, args.only, args.without, args.workers)
    print(
        f"{args.out}: {audit['recordings']} recordings, {audit['num_speakers']} speakers, "
        f"{audit['pseudo_speakers']} of them pseudo-speakers, {audit['hours']:.2f} h"
    )
    return 0


def pseudo_speakers(
    manifest: Path,
    out: Path,
    speeds: Sequence[float] = (),
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Write the selected recordings of a manifest and their versions at other speeds; returns the audit.

    Args:
        speeds: factors of pitch and tempo; not 1, which is always included.
        only: globs of keys to use; empty: all.
        without: globs of keys to skip.

    Raises:
        ConfigError: a speed is 1 or out of range, or a glob matches no key.
        ManifestError: a recording has several speakers or an unknown one.
    """
    if wrong := [s for s in speeds if not SLOWEST <= s <= FASTEST or s == 1.0]:
        raise ConfigError(f"--speeds: {wrong[0]:g} must be between {SLOWEST} and {FASTEST} and not 1")
    chosen = chosen_by_key(list(read_manifest(manifest)), only, without)
    for recording in chosen:
        if len(recording.speakers) != 1 or not is_known(recording.speakers[0]):
            raise ManifestError(f"{manifest}: {recording.key} does not have exactly one known speaker")
    known = {s.speaker: s for s in read_speakers(manifest)}
    counted, heard = Summary(), dict[str, SpeakerInfo]()
    jobs = [(r, speed, out / "audio") for r in chosen for speed in dict.fromkeys(speeds)]

    def made() -> Iterator[Recording]:
        with report_killed_workers(), ProcessPoolExecutor(max(1, workers)) as pool:
            changed = progress(pool.map(_make, jobs, chunksize=16), "audio", len(jobs))
            for recording in (*chosen, *changed):
                (speaker,) = recording.speakers
                voice = known.get(speaker.partition("@")[0])
                if speaker in known:
                    heard[speaker] = known[speaker]
                elif voice is not None:
                    heard[speaker] = replace(voice, speaker=speaker, person=None)
                yield recording

    def audit() -> dict[str, Any]:
        return counted.result() | {
            "speeds": sorted(set(speeds)),
            "pseudo_speakers": sum("@" in s for s in heard),
            "only": list(only),
            "without": list(without),
            "made_by": f"pseudo-speakers: recordings of {manifest} resampled, pitch and formants moved with the tempo",
        }

    write_manifest(out, counted.counting(made()), sorted_speakers(heard), audit)
    return audit()


def chosen_by_key(
    recordings: Sequence[Recording], only: Sequence[str] = (), without: Sequence[str] = ()
) -> list[Recording]:
    """Select the recordings whose key matches a glob of `only` (empty: all) and no glob of `without`.

    Raises:
        ConfigError: a glob matches no key, or no recording is left.
    """
    for glob in (*only, *without):
        if not any(fnmatchcase(r.key, glob) for r in recordings):
            raise ConfigError(f"no key of the manifest matches {glob!r}")
    taken = [r for r in recordings if not only or any(fnmatchcase(r.key, g) for g in only)]
    taken = [r for r in taken if not any(fnmatchcase(r.key, g) for g in without)]
    if not taken:
        raise ConfigError("--only and --without leave no recording")
    return taken


def change_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """Resample (n,) at 16 kHz to about (n / speed,): tempo and frequencies times `speed`."""
    changed = np.asarray(soxr.resample(wave, SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ"), np.float32)
    peak = float(np.abs(changed).max(initial=0.0))
    return changed * np.float32(PEAK / peak) if peak > PEAK else changed


def _speed_label(speed: float) -> str:
    """Format a speed for names: at least two decimals, all if it has more, so that labels are unique."""
    short = f"{speed:.2f}"
    return short if float(short) == speed else repr(speed)


def _make(job: tuple[Recording, float, Path]) -> Recording:
    """Write a recording at another speed."""
    recording, speed, folder = job
    wave = load(recording.audio, channel=recording.channel, start=recording.start, duration=recording.duration)
    wave = change_speed(wave, speed)
    name = f"x{_speed_label(speed).replace('.', '')}"  # keys contain no dot
    path = folder / name / f"{recording.key}-{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_flac(wave))
    seconds = len(wave) / SAMPLE_RATE
    segments = tuple(
        replace(s, speaker=f"{s.speaker}@{_speed_label(speed)}", start=s.start / speed, end=min(s.end / speed, seconds))
        for s in recording.segments
    )
    return replace(
        recording,
        key=path.stem,
        session=path.stem,
        audio=str(path.absolute()),
        segments=segments,
        start=0.0,
        duration=seconds,
        channel=None,
        sources=(recording.key, *recording.sources),
    )
