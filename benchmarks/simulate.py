"""Hours of simulated conversation per core-hour, beside the floor: decoding the utterances and writing the FLAC.

    python benchmarks/simulate.py [--minutes 40] [--rounds 3] [--check]

Utterances are noise shaped like speech in length only (2–12 s, FLAC): what simulation costs does not depend on what is
said. Kinds are interleaved round by round and timed by CPU time of the process, so that other load on the machine
enters little. The floor decodes every utterance that a conversation uses once and encodes the mixture, without placing,
rooms or noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.manifests.manifest import Recording, SpeakerInfo
from shards.sample import SAMPLE_RATE, Segment
from shards.simulation.conversation import draw_layout
from shards.simulation.noise import open_noise
from shards.simulation.render import load_utterance, render
from shards.simulation.rooms import open_rooms
from shards.simulation.settings import SimulationSettings
from shards.simulation.utterance_pool import UtterancePool
from shards.sound.audio import encode_flac, load

SPEAKERS, UTTERANCES = 40, 10
TARGETS = {"dry": 500.0, "rooms and noise": 150.0}  # hours per core-hour


def make_sources(folder: Path) -> UtterancePool:
    """400 utterances of 40 speakers."""
    rng = np.random.default_rng(0)
    recordings = []
    for speaker in range(SPEAKERS):
        for number in range(UTTERANCES):
            seconds = float(rng.uniform(2, 12))
            path = folder / f"{speaker}-{number}.flac"
            wave = rng.standard_normal(round(seconds * SAMPLE_RATE)) * 0.05
            soundfile.write(path, np.convolve(wave, np.ones(4) / 4, "same"), SAMPLE_RATE)
            segment = (Segment(f"b:{speaker}", 0.0, seconds, "x"),)
            recordings.append(Recording(path.stem, "b", "all", path.stem, "en", str(path), segment, duration=seconds))
    return UtterancePool(recordings, [SpeakerInfo(f"b:{s}", "b", "en", None, f"{s}") for s in range(SPEAKERS)])


def kinds(folder: Path, sources: UtterancePool) -> dict[str, Callable[[int], int]]:
    """Name → function that makes conversation k and returns its samples."""
    noise = folder / "noise"
    noise.mkdir()
    rng = np.random.default_rng(1)
    for number in range(4):
        soundfile.write(noise / f"{number}.wav", rng.standard_normal(60 * SAMPLE_RATE) * 0.05, SAMPLE_RATE)
    rooms, sound = open_rooms("pyroomacoustics"), open_noise(str(noise))
    dry, wet = SimulationSettings(), replace(SimulationSettings(), rooms="pyroomacoustics", noise=str(noise))

    def floor(k: int) -> int:
        layout = draw_layout(sources, dry, 0, k)
        mixed = np.zeros(layout.num_samples, np.float32)
        for u in (p.utterance for t in layout.turns for p in t.pieces):
            wave = load(u.audio)[: len(mixed)]
            mixed[: len(wave)] += wave
        return len(encode_flac(mixed)) and layout.num_samples

    def simulated(settings: SimulationSettings, use_rooms: object, use_noise: object) -> Callable[[int], int]:
        def make(k: int) -> int:
            layout = draw_layout(sources, settings, 0, k)
            encode_flac(render(layout, settings, use_noise, use_rooms))  # type: ignore[arg-type]
            return layout.num_samples

        return make

    return {
        "floor": floor,
        "dry": simulated(dry, None, None),
        "rooms": simulated(wet, rooms, None),
        "rooms and noise": simulated(wet, rooms, sound),
    }


def measure(minutes: float, rounds: int) -> dict[str, list[float]]:
    """Kind → hours per core-hour of each round."""
    with tempfile.TemporaryDirectory() as name:
        made = kinds(Path(name), make_sources(Path(name)))
        count = max(1, round(minutes * 60 / 50 / rounds))
        found: dict[str, list[float]] = {kind: [] for kind in made}
        for kind in made.values():
            kind(10_000)  # imports and caches
        for turn in range(rounds):
            for kind, make in made.items():
                load_utterance.cache_clear()
                begin = time.process_time()
                samples = sum(make(turn * count + k) for k in range(count))
                found[kind].append(samples / SAMPLE_RATE / (time.process_time() - begin))
    return found


def main() -> int:
    """Print the figures of this benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=40, help="of audio of each kind")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = parser.parse_args()
    found = measure(args.minutes, args.rounds)
    floor = statistics.median(found["floor"])
    print(f"{'kind':<18}{'hours per core-hour':>20}{'lowest':>10}{'highest':>10}{'of the floor':>14}")
    for kind, rates in found.items():
        middle = statistics.median(rates)
        print(f"{kind:<18}{middle:>20.0f}{min(rates):>10.0f}{max(rates):>10.0f}{middle / floor:>14.2f}")
    figures = {kind: round(statistics.median(rates), 1) for kind, rates in found.items()}
    met = all(figures[kind] >= target for kind, target in TARGETS.items())
    print(json.dumps({"name": "simulate", "figures": figures, "targets": TARGETS, "met": met}))
    return 1 if args.check and not met else 0


if __name__ == "__main__":
    raise SystemExit(main())
