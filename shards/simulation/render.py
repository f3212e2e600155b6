"""Rendering of simulated conversations: utterances, rooms and noise mixed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from shards.sample import SAMPLE_RATE
from shards.simulation.conversation import Layout
from shards.simulation.noise import Noise, add_noise
from shards.simulation.rooms import Rooms, convolve
from shards.simulation.settings import SimulationSettings
from shards.sound.audio import load

PEAK = 0.98


def render(
    layout: Layout, settings: SimulationSettings, noise: Noise | None = None, rooms: Rooms | None = None
) -> np.ndarray:
    """Mix a conversation: (num_samples,) float32 in [-1, 1]."""
    rng = np.random.default_rng(layout.sound_seed)
    cast = list(layout.gains_db)
    stems = {speaker: np.zeros(layout.num_samples, np.float32) for speaker in cast}
    spoken = np.zeros(layout.num_samples, bool)
    for turn in layout.turns:
        for piece in turn.pieces:
            u = piece.utterance
            wave = load_utterance(u.audio, u.channel, u.start, u.num_samples)
            stems[turn.speaker][piece.start : piece.start + len(wave)] += wave
            spoken[piece.start : piece.start + u.num_samples] = True
    if rooms is not None:
        for speaker, response in zip(cast, rooms(rng, len(cast)), strict=True):
            stems[speaker] = convolve(stems[speaker], response)[: layout.num_samples]
    mixed = sum((stems[s] * np.float32(10 ** (layout.gains_db[s] / 20)) for s in cast), np.zeros(1, np.float32))
    if noise is not None:
        persons = {p.utterance.person for t in layout.turns for p in t.pieces}
        snr = rng.uniform(*settings.snr_db)
        mixed = add_noise(mixed, noise(rng, layout.num_samples, persons), spoken, snr)
    peak = float(np.abs(mixed).max())
    return mixed * np.float32(PEAK / peak) if peak > PEAK else mixed


@lru_cache(maxsize=2048)
def load_utterance(audio: str, channel: int | None, start: float, num_samples: int) -> np.ndarray:
    """Load the audio of a source utterance, (num_samples,) float32; recent ones are cached."""
    return load(audio, channel=channel, start=start, duration=num_samples / SAMPLE_RATE)[:num_samples]
