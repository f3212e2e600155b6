"""AliMeeting (openslr 119): meetings of 2–4 people, far field (first channel) and headsets.

::

    Train_Ali_far/{audio_dir/R0003_M0046_MS002.wav, textgrid_dir/R0003_M0046.TextGrid}             8 channels
    Train_Ali_near/{audio_dir/R0003_M0046_F_SPK0093.wav, textgrid_dir/R0003_M0046_F_SPK0093.TextGrid}
    Eval_Ali/{Eval_Ali_far,Eval_Ali_near}/…   Test_Ali/{Test_Ali_far,Test_Ali_near}/…              or without this level

One manifest per archive found: ``train-far``, ``train-near``, ``eval-far`` … Names of far-field TextGrids lack the
array's suffix, their tiers are ``R…_M…_F_SPK1953`` or ``F_SPK1953``; of headsets the file name has speaker and gender.
Speaker ids identify persons and are the same near and far. Lhotse's recipe is not used: it drops unreadable files
without a count, and whole sessions if their TextGrid has a reversed interval.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from shards.manifests.audio_files import audio_by_stem
from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.meetings import Meetings, Track, first_with_prefix
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.textgrid import Tier

CORPUS = "alimeeting"
LICENCE = "cc-by-sa-4.0"  # as https://openslr.org/119 states it
_SPEAKER = re.compile(r"(?:.*_)?(?P<gender>[FM])_(?P<speaker>SPK\d+)")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return one manifest per archive found."""
    found = []
    for split in ("train", "eval", "test"):
        for microphone in ("far", "near"):
            name = f"{split.capitalize()}_Ali_{microphone}"
            places = (root / name, root / f"{split.capitalize()}_Ali" / name)
            folder = next((f for f in places if f.is_dir()), None)
            if folder is not None:
                found.append(_archive(folder, split, microphone == "near", options).prepared(f"{split}-{microphone}"))
    if not found:
        raise corpus_not_found(root, "AliMeeting", "Train_Ali_far, Train_Ali_near, Eval_Ali or Test_Ali")
    return found


def _archive(folder: Path, split: str, near: bool, options: PrepareOptions) -> Meetings:
    meetings = Meetings(CORPUS, split, [], partial(_speaker, near=near), options)
    audio = audio_by_stem(folder / "audio_dir", meetings.audit)
    unused = dict(audio)
    tracks = []
    for grid in sorted((folder / "textgrid_dir").glob("*.TextGrid")):
        stem = first_with_prefix(audio, grid.stem)
        if stem is None:
            meetings.audit.skip("TextGrid without audio", str(grid))
            continue
        unused.pop(stem, None)
        session = "_".join(grid.stem.split("_")[:2])
        tracks.append(Track(stem, session, audio[stem], 0, (grid,)))
    for path in unused.values():
        meetings.audit.skip("audio without TextGrid", str(path))
    meetings.tracks = tracks
    return meetings


def _speaker(track: Track, grid: Path, tier: Tier, *, near: bool) -> SpeakerInfo | None:
    match = _SPEAKER.fullmatch(grid.stem if near else tier.name)
    if match is None:
        return None
    speaker = f"{CORPUS}:{match['speaker']}"
    return SpeakerInfo(speaker, CORPUS, "zh", match["gender"].lower(), speaker)
