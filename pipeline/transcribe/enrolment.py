"""Enrolment of people from clips, and speaker vectors of short windows of speech.

An enrolment clip is cut to its speech, in pieces of 2–10 s as for training (:mod:`shards.voices.enrolment`); the vector
is the unit-normalised mean of the pieces' vectors, over all clips of one name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.records import LONGEST_NAME, NO_NAME
from pipeline.prompts import NOT_ON_ONE_LINE
from pipeline.transcribe.audio_stream import Sound, blocks
from pipeline.transcribe.vad import WINDOW, Vad, speech
from shards.errors import ConfigError, SpeakerError
from shards.sample import SAMPLE_RATE
from shards.voices.features import log_mel, unit_norm

if TYPE_CHECKING:
    from shards.voices.extractors import Extractor

MIN_CLIP_S, MAX_CLIP_S = 2.0, 10.0  # the paper's enrolment clips, as in shards/voices/enrolment.py
WINDOW_S, HOP_S = 1.5, 0.75  # windows whose vectors distinguish speakers
LONGEST_S = 600.0  # of an enrolment clip; more is not read
# Cosines of CAM++ between means of windows of nine packaged speakers: 0.73 and more for one person, 0.57 and less for
# two, of whom the closest were both recorded through GSM; a label with seconds of speech only comes lower.
SAME_VOICE = 0.5


@dataclass(frozen=True)
class Enrolled:
    """Enrolled people in the given order."""

    names: tuple[str, ...]
    vectors: np.ndarray  # (n, dim) float32 of unit norm
    warnings: tuple[str, ...] = ()


def enrol(
    clips: Iterable[tuple[str, Path | Sound]],
    extractor: Extractor,
    vad: Callable[[], Vad],
    same_voice: float = SAME_VOICE,
) -> Enrolled:
    """Compute vectors of named people. Several clips of one name are averaged.

    Args:
        clips: name and audio.
        vad: returns a fresh detector.
        same_voice: cosine under which two stretches count as two people; used for warnings only.

    Raises:
        ConfigError: an empty name, or one that a prompt cannot hold.
        AudioError: a file that cannot be read.
        SpeakerError: a clip without speech.
    """
    pieces: dict[str, list[np.ndarray]] = {}
    warnings: list[str] = []
    means: dict[str, list[tuple[Path | Sound, np.ndarray]]] = {}
    for name, path in clips:
        check_name(name)
        cut = speech_pieces(path, vad())
        if not cut:
            raise SpeakerError(f"{path}: no speech to enrol {name} from; at least 0.25 s is needed, 2–10 s are better")
        if (seconds := sum(map(len, cut)) / SAMPLE_RATE) < MIN_CLIP_S:
            warnings.append(f"{path}: only {seconds:.1f} s of speech for {name}; 2–10 s make a better vector")
        if two_voices(np.concatenate(cut), extractor, same_voice):
            warnings.append(f"{path}: sounds like two people; {name}'s vector is a mixture, give a clip of one voice")
        vectors = extractor.embed(cut)
        for other, mean in means.get(name, []):
            if (similar := float(mean @ unit_norm(vectors.mean(0)))) < same_voice:
                warnings.append(f"{other} and {path}: both enrolled as {name}, but they sound unlike ({similar:.2f})")
        means.setdefault(name, []).append((path, unit_norm(vectors.mean(0))))
        pieces.setdefault(name, []).extend(vectors)
    names = tuple(pieces)
    vectors = (
        np.stack([unit_norm(np.mean(pieces[n], axis=0)) for n in names]) if names else np.zeros((0, extractor.dim))
    )
    warnings += alike(names, vectors, same_voice)
    return Enrolled(names, vectors.astype(np.float32), tuple(warnings))


def speech_pieces(source: Path | Sound, vad: Vad) -> list[np.ndarray]:
    """Return the speech of a clip, joined and cut evenly into pieces of 2–10 s, or one shorter piece."""
    read, total = [], 0.0
    for block in blocks(source):
        read.append(block)
        total += len(block) / SAMPLE_RATE
        if total >= LONGEST_S:
            break
    wave = np.concatenate(read)
    padded = np.pad(wave, (0, -len(wave) % WINDOW))
    spans = [(round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for a, b in speech(vad.probabilities(padded))]
    if not (parts := [wave[a:b] for a, b in spans if b > a]):
        return []
    said = np.concatenate(parts)
    count = max(1, int(np.ceil(len(said) / (MAX_CLIP_S * SAMPLE_RATE))))
    return np.array_split(said, count)


def two_voices(said: np.ndarray, extractor: Extractor, same_voice: float = SAME_VOICE) -> bool:
    """Whether speech splits into two clusters of different voices, each of two windows or more."""
    from scipy.cluster.hierarchy import fcluster, linkage

    vectors = windows(said, [(0.0, len(said) / SAMPLE_RATE)], extractor)[1]
    if len(vectors) < 4:
        return False
    groups = fcluster(linkage(vectors, "average", metric="cosine"), 2, "maxclust")
    if min(np.sum(groups == 1), np.sum(groups == 2)) < 2:
        return False
    first, second = (unit_norm(vectors[groups == g].mean(0)) for g in (1, 2))
    return float(first @ second) < same_voice


def windows(
    wave: np.ndarray, spans: Sequence[tuple[float, float]], extractor: Extractor
) -> tuple[np.ndarray, np.ndarray]:
    """Compute vectors of windows of 1.5 s every 0.75 s within each stretch of speech; a shorter stretch is one window.

    Returns:
        (n, 2) start and end of each window in seconds, (n, dim) unit vectors. Stretches under 0.2 s have none.
    """
    places: list[tuple[float, float]] = []
    for start, end in spans:
        if end - start < 0.2:
            continue
        count = max(1, int(np.ceil((end - start - WINDOW_S) / HOP_S)) + 1)
        starts = np.linspace(start, max(start, end - WINDOW_S), count)
        places += [(float(s), float(min(s + WINDOW_S, end))) for s in starts]
    if not places:
        return np.zeros((0, 2)), np.zeros((0, extractor.dim), np.float32)
    features = [log_mel(wave[round(a * SAMPLE_RATE) : round(b * SAMPLE_RATE)]) for a, b in places]
    return np.array(places), unit_norm(extractor.embed_features(features))


def check_name(name: str) -> None:
    """Raise ConfigError for a name that a prompt or a transcript cannot hold."""
    one_line = " ".join(NOT_ON_ONE_LINE.sub(" ", name).split())
    if not name or any(c in name for c in ":：<>;") or name != one_line:
        raise ConfigError(
            f"invalid name {name!r}: empty, with white space other than single spaces inside, with one of : < > ; or a "
            "control character"
        )
    if len(name) > LONGEST_NAME or name == NO_NAME:
        raise ConfigError(f"invalid name {name!r}: longer than {LONGEST_NAME} characters, or {NO_NAME}")


def alike(names: Sequence[str], vectors: np.ndarray, same_voice: float) -> list[str]:
    """Return warnings about names that sound like one person."""
    found = []
    for i in range(len(names)):
        for j in range(i):
            if (similar := float(vectors[i] @ vectors[j])) > (1 + same_voice) / 2:
                found.append(f"{names[j]} and {names[i]} sound like one person ({similar:.2f})")
    return found
