"""People who are tones, and an engine of dialogues that hears their pitch and uses the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.reasoner.loop import Request
from pipeline.transcribe.reasoner import ReasonerOptions, ReasonerTranscriber
from pipeline.transcribe.transcript import Transcript
from shards.manifests.clips import ClipRule
from shards.sample import SAMPLE_RATE

SHORT = ClipRule((8.0, 10.0), (6.0, 12.0))
ANNA, BERT, CARL = 200, 500, 900  # Hz: how people sound here


def tone(pitch: int, seconds: float) -> np.ndarray:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def record(path: Path, turns: Sequence[tuple[int, float]]) -> list[tuple[int, float, float]]:
    """Write a recording; returns who speaks from when to when. A pause of half a second is before each turn."""
    parts, at, said = [np.random.default_rng(0).normal(0, 1e-4, SAMPLE_RATE).astype(np.float32)], 1.0, []
    for pitch, seconds in turns:
        parts += [np.zeros(SAMPLE_RATE // 2, np.float32), tone(pitch, seconds)]
        said.append((pitch, at + 0.5, at + 0.5 + seconds))
        at += 0.5 + seconds
    soundfile.write(path, np.concatenate([*parts, np.zeros(SAMPLE_RATE, np.float32)]), SAMPLE_RATE, subtype="FLOAT")
    return said


def pitch_of(wave: np.ndarray) -> int:
    found = np.abs(np.fft.rfft(wave)).argmax() * SAMPLE_RATE / len(wave)
    return min((ANNA, BERT, CARL), key=lambda p: abs(p - found))


class Listener:
    """An engine with perfect ears: one observation, the lines of the clip, known people by their sound."""

    def __init__(self, gender: str = "Speaker") -> None:
        self.requests: list[Request] = []
        self.open: set[str] = set()
        self._gender = gender

    def answer(self, requests: Sequence[Request]) -> list[str | None]:
        self.requests += requests
        self.open |= {r.clip.key for r in requests}
        return [self._reply(r) for r in requests]

    def release(self, key: str) -> None:
        self.open.discard(key)

    def _reply(self, request: Request) -> str:
        wave = request.clip.audio
        if not request.replies:
            return f"<think>People.</think><box>[0.0, {len(wave) / SAMPLE_RATE:.2f}]</box>"
        numbers: dict[int, int] = {}
        for known in request.clip.known:
            numbers.setdefault(pitch_of(known.audio), int(known.label.split()[1]))
        lines = []
        for start, stop in loud(wave):
            pitch = pitch_of(wave[start:stop])
            number = numbers.setdefault(pitch, len(set(numbers.values())) + 1)
            lines.append(f"{self._gender} {number} [{start / 16000:.2f}, {stop / 16000:.2f}]: I am {pitch}")
        return "<answer>\n" + "\n".join(lines) + "\n</answer>"


def loud(wave: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of sound of 0.1 s or more."""
    frames = np.abs(wave[: len(wave) // 160 * 160]).reshape(-1, 160).max(1) > 0.05
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    return [(a * 160, b * 160) for a, b in edges.reshape(-1, 2) if b - a >= 10]


def transcriber(engine: Listener, **options: Any) -> ReasonerTranscriber:
    return ReasonerTranscriber(engine, ReasonerOptions(**{"rule": SHORT, "vad": "energy", **options}))


TURNS = [(ANNA, 2.0), (BERT, 2.5), (ANNA, 1.5), (CARL, 2.0), (CARL, 1.5), (BERT, 2.0), (CARL, 3.0), (ANNA, 2.0)] * 2


def people(transcript: Transcript) -> dict[str, set[str]]:
    """Name → what was said under it: it is how the person sounds."""
    found: dict[str, set[str]] = {}
    for turn in transcript.turns:
        found.setdefault(turn.speaker or "", set()).add(turn.text)
    return found
