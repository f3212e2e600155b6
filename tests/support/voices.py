"""Real voices for tests: telephone prompts out of packages, and conversations that are put together of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.decode.generate import Answer
from pipeline.prompts import Prompt
from shards.corpora.packaged_speech import NOT_SPEECH, PACKAGES, VOICES
from shards.sample import SAMPLE_RATE
from shards.sound.audio import load
from shards.voices.extractors import Extractor, load_extractor
from shards.weights.fetch import fetch_debian
from tests.support.speech import package_cache

PEOPLE = ("it-carlo", "fr-june", "ru-ivrvoice")


@cache
def extractor() -> Extractor:
    """CAM++ with its real weights."""
    return load_extractor("campplus", cache=package_cache())


@cache
def clips(person: str) -> tuple[np.ndarray, ...]:
    """Speech of one person, 16 kHz, in pieces of 2–8 s, in a fixed order."""
    pytest.importorskip("av")
    voice = next(v for v in VOICES if v.name == person)
    package = next(p for p in PACKAGES if p.name == voice.package)
    folder = fetch_debian([package], package_cache())[package.name] / "usr/share" / voice.folder
    sizes = {p: p.stat().st_size / 8000 for p in sorted(folder.rglob(f"*{voice.suffix}"))}  # G.722: 64 kbit/s
    chosen = [p for p, seconds in sizes.items() if 2 <= seconds <= 8 and not _no_speech(p, folder)]
    random.Random(0).shuffle(chosen)
    return tuple(load(p) for p in chosen[:40])


def _no_speech(path: Path, folder: Path) -> bool:
    return NOT_SPEECH.fullmatch(path.relative_to(folder).with_suffix("").as_posix()) is not None


@dataclass(frozen=True)
class Said:
    """A turn of a conversation; times in seconds."""

    person: str
    start: float
    end: float


def talk(
    people: Sequence[str], turns: int, seed: int = 0, gap: tuple[float, float] = (0.3, 0.8)
) -> tuple[np.ndarray, list[Said]]:
    """People taking turns with pauses between them. The first three clips of each are left for enrolment."""
    rng = random.Random(seed)
    parts: list[np.ndarray] = []
    said: list[Said] = []
    clock, used, last = 0.0, dict.fromkeys(people, 3), ""
    for _ in range(turns):
        person = rng.choice([p for p in people if p != last] or list(people))
        wave = clips(person)[used[person] % 40]
        used[person] += 1
        pause = rng.uniform(*gap)
        parts += [np.zeros(round(pause * SAMPLE_RATE), np.float32), wave]
        start = sum(map(len, parts[:-1])) / SAMPLE_RATE
        clock = start + len(wave) / SAMPLE_RATE
        said.append(Said(person, start, clock))
        last = person
    noise = np.random.default_rng(seed).normal(0, 3e-4, sum(map(len, parts)))
    return (np.concatenate(parts) + noise).astype(np.float32), said


def enrolment(folder: Path, person: str, first: int = 0, count: int = 1) -> Path:
    """A file of a person's speech that no conversation holds."""
    path = folder / f"{person}-{first}.wav"
    soundfile.write(path, np.concatenate(clips(person)[first : first + count]), SAMPLE_RATE)
    return path


class Reference:
    """Plays the model: the true turns of the chunk that it is shown, as ``spk0`` … or by a name for each person.

    A turn's text is the letter x, twelve times per second of it within the chunk.
    """

    def __init__(self, wave: np.ndarray, said: Sequence[Said], names: dict[str, str] | None = None) -> None:
        self.wave, self.said, self.names = wave, said, names
        self.prompts: list[Prompt] = []
        self.written: list[Said] = []  # turns in the order in which they were answered

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        self.prompts += prompts
        return [self._answer(p.waveform) for p in prompts]

    def _answer(self, wave: np.ndarray) -> Answer:
        places = np.flatnonzero(np.abs(self.wave - wave[0]) < 1e-4)
        start = next(p for p in places if np.allclose(self.wave[p : p + 99], wave[:99], atol=1e-4)) / SAMPLE_RATE
        end = start + len(wave) / SAMPLE_RATE
        inside = [Said(s.person, max(s.start, start), min(s.end, end)) for s in self.said]
        inside = [s for s in inside if s.end - s.start > 0.3]
        labels = {p: f"spk{i}" for i, p in enumerate(dict.fromkeys(s.person for s in inside))}
        labels |= self.names or {}
        self.written += inside
        lines = [f"{labels[s.person]}: {'x' * round(12 * (s.end - s.start))}" for s in inside]
        return Answer("\n".join(lines), "end", 1)
