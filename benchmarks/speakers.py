"""Separability of real voices: cosines and equal error rate of clips, within languages and across them.

    python benchmarks/speakers.py PROMPTS [--extractor campplus] [--clips 16] [--check]

PROMPTS is the manifest of that name which ``speakerlm-shards prepare packaged-speech CACHE OUT`` makes: nine people,
ten voices, six languages. Clips are cut as enrolment cuts them (2–10 s). A trial is a pair of clips. Pairs of one
person in two languages are shown by themselves and are in no error rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.voices.enrolment import Enroller

TARGETS = {"eer_percent": 1.0, "eer_same_language_percent": 1.0}  # at most
KINDS = ("same voice", "same person, other language", "other person, same language", "other person, other language")


@dataclass(frozen=True)
class Voice:
    """Clips of one speaker id."""

    person: str
    language: str
    vectors: np.ndarray  # (clips, dim) of unit norm


def read_voices(enroller: Enroller, clips: int) -> dict[str, Voice]:
    """Speaker id → voice, at most `clips` clips each."""
    from shards.voices.enrolment import load_clip

    voices = {}
    for speaker in enroller.heard():
        waves = [load_clip(c) for c in enroller.clips(speaker)[:clips]]
        info = enroller.speakers[speaker]
        voices[speaker] = Voice(info.person or speaker, info.language, enroller.extractor.embed(waves))
    return voices


def cosines(voices: Mapping[str, Voice]) -> dict[str, np.ndarray]:
    """Kind of pair → cosine of every pair of clips."""
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for voice in voices.values():
        upper = np.triu_indices(len(voice.vectors), 1)
        found["same voice"].append((voice.vectors @ voice.vectors.T)[upper])
    for a, b in itertools.combinations(voices.values(), 2):
        who = "same person" if a.person == b.person else "other person"
        where = "same language" if a.language == b.language else "other language"
        kind = f"{who}, {where}" if f"{who}, {where}" in KINDS else "same voice"
        found[kind].append((a.vectors @ b.vectors.T).ravel())
    return {kind: np.concatenate(values) if values else np.zeros(0) for kind, values in found.items()}


def equal_error_rate(same: np.ndarray, different: np.ndarray) -> tuple[float, float]:
    """(rate, threshold) where as many same pairs lie below as different ones lie above."""
    points = np.unique(np.concatenate([same, different]))
    missed = np.searchsorted(np.sort(same), points) / len(same)
    accepted = 1 - np.searchsorted(np.sort(different), points) / len(different)
    best = int(np.argmin(np.abs(missed - accepted)))
    return float((missed[best] + accepted[best]) / 2), float(points[best])


def summary(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Error rates over all pairs of different persons, and over those of one language and of two."""
    same, _, near, far = (found[kind] for kind in KINDS)
    figures = {"mean_same": float(same.mean()), "mean_different": float(np.concatenate([near, far]).mean())}
    rates = {"eer": np.concatenate([near, far]), "eer_same_language": near, "eer_other_language": far}
    for name, different in rates.items():
        rate, threshold = equal_error_rate(same, different)
        figures |= {f"{name}_percent": 100 * rate, f"{name}_threshold": threshold}
    return {k: round(v, 4) for k, v in figures.items()}


def main() -> int:
    """Print the figures of this benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--extractor", default="campplus")
    parser.add_argument("--clips", type=int, default=16, help="of each voice")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    args = parser.parse_args()
    voices = read_voices(Enroller([args.prompts], args.extractor), args.clips)
    found = cosines(voices)
    print(f"{'pairs of clips':<32}{'number':>8}{'mean':>8}{'lowest':>8}{'5 %':>8}{'95 %':>8}{'highest':>8}")
    for kind, values in found.items():
        if len(values):
            marks = [values.mean(), values.min(), *np.percentile(values, [5, 95]), values.max()]
            print(f"{kind:<32}{len(values):>8}" + "".join(f"{m:>8.2f}" for m in marks))
    figures = summary(found)
    met = all(figures[name] <= target for name, target in TARGETS.items())
    print(json.dumps({"name": "speakers", "figures": figures, "targets": TARGETS, "met": met}))
    return 1 if args.check and not met else 0


if __name__ == "__main__":
    raise SystemExit(main())
