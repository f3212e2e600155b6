"""AISHELL-5 (openslr 159): 2–4 people talking in a car; first far-field microphone, and headsets if available.

::

    train/003/DA01.wav  DA01.TextGrid  DA02.wav …       headsets, one TextGrid per speaker; the digits are the seat
    train/003/DX01C01.wav … DX04C01.wav                 far-field; DX05C01, DX06C01 are the car stereo's echo reference
    dev/…  eval_track1/…  eval_track2/…                 also called Dev, Eval1, Eval2; without headsets

Manifests: ``train-far``, ``train-near``, ``dev-far``, ``eval1-far``, ``eval2-far``. The transcript of a far-field
recording is that of all TextGrids of its session. Speakers are identified by seat, so ids contain the session and the
person is unknown.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.meetings import Meetings, Track
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.textgrid import Tier

CORPUS = "aishell5"
SPLITS = {
    "train": ("train", "Train"),
    "dev": ("dev", "Dev"),
    "eval1": ("eval_track1", "Eval1", "eval1"),
    "eval2": ("eval_track2", "Eval2", "eval2"),
}
_FAR, _REFERENCE, _NEAR = re.compile(r"DX0[1-4]C\d+"), re.compile(r"DX0[5-9]C\d+"), re.compile(r"D[A-WYZ]\d+")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return the far and near manifests of every archive found."""
    found = []
    for split, names in SPLITS.items():
        folder = next((root / n for n in names if (root / n).is_dir()), None)
        if folder is not None:
            far, near = _split(folder, split, options)
            found.append(far.prepared(f"{split}-far"))
            if near.tracks:
                found.append(near.prepared(f"{split}-near"))
    if not found:
        raise corpus_not_found(root, "AISHELL-5", "train, dev, eval_track1 or eval_track2 (or Dev, Eval1, Eval2)")
    return found


def _split(folder: Path, split: str, options: PrepareOptions) -> tuple[Meetings, Meetings]:
    far, near = (Meetings(CORPUS, split, [], _speaker, options) for _ in range(2))
    far_tracks, near_tracks = [], []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        session = f"{split}-{place.name}"
        audio = {p.stem: p for p in sorted(place.glob("*.wav"))}
        grids = {p.stem: p for p in sorted(place.glob("*.TextGrid"))}
        microphones = [s for s in audio if _FAR.fullmatch(s)]
        for stem, path in audio.items():
            if _REFERENCE.fullmatch(stem):
                far.audit.skip("echo reference of the car stereo", str(path))
            elif _NEAR.fullmatch(stem):
                if stem in grids:
                    near_tracks.append(Track(f"{session}-{stem}", session, path, 0, (grids[stem],)))
                else:
                    near.audit.skip("audio without TextGrid", str(path))
        if not microphones or not grids:
            far.audit.skip("session without far-field audio or TextGrid", str(place))
            continue
        first = microphones[0]
        far_tracks.append(Track(f"{session}-{first}", session, audio[first], 0, tuple(grids.values())))
    far.tracks, near.tracks = far_tracks, near_tracks
    return far, near


def _speaker(track: Track, grid: Path, tier: Tier) -> SpeakerInfo | None:
    """Return the speaker of the file's seat; all its tiers belong to that speaker."""
    return SpeakerInfo(f"{CORPUS}:{track.session}:{grid.stem}", CORPUS, "zh")
