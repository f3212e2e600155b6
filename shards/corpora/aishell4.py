"""AISHELL-4 (openslr 111): meetings of 4–8 people, recorded by an eight-microphone array; first channel.

::

    train_L/{wav/20200706_L_R001S01C01.flac, TextGrid/20200706_L_R001S01C01.TextGrid}    train_M  train_S  test

Manifests: ``train`` (the three together) and ``test``. Tier names identify speakers within a session only, so speaker
ids contain the session and the person is unknown; the name may end with the gender (``001-M``). ``*.1channel.wav`` next
to the recordings are skipped. Lhotse's recipe is not used: it numbers speakers in order of reading and drops sessions
that it cannot parse without a count.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.manifests.corpus_source import corpus_not_found
from shards.manifests.manifest import SpeakerInfo
from shards.manifests.meetings import Meetings, Track
from shards.manifests.prepare_types import Prepared, PrepareOptions
from shards.manifests.textgrid import NON_SPEAKER_TIERS, Tier

CORPUS = "aishell4"
LICENCE = "cc-by-sa-4.0"  # as https://openslr.org/111 states it
SPLITS = {"train": ("train_L", "train_M", "train_S"), "test": ("test",)}
_GENDER = re.compile(r"\d-([FM])$")


def prepare(root: Path, out: Path, options: PrepareOptions) -> list[Prepared]:
    """Return the manifests of the archives found."""
    found = []
    for split, names in SPLITS.items():
        folders = [root / n for n in names if (root / n).is_dir()]
        if folders:
            found.append(_split(folders, split, options).prepared(split))
    if not found:
        raise corpus_not_found(root, "AISHELL-4", "train_L, train_M, train_S or test, each with wav and TextGrid")
    return found


def _split(folders: list[Path], split: str, options: PrepareOptions) -> Meetings:
    meetings = Meetings(CORPUS, split, [], _speaker, options)
    tracks = []
    for folder in folders:
        grids = {p.stem: p for p in sorted((folder / "TextGrid").glob("*.TextGrid"))}
        for path in sorted((folder / "wav").glob("*")):
            if path.name.endswith(".1channel.wav"):
                meetings.audit.skip("one-channel copy of a recording", str(path))
            elif path.suffix in (".flac", ".wav"):
                grid = grids.pop(path.stem, None)
                if grid is None:
                    meetings.audit.skip("audio without TextGrid", str(path))
                else:
                    tracks.append(Track(path.stem, path.stem, path, 0, (grid,)))
        for grid in grids.values():
            meetings.audit.skip("TextGrid without audio", str(grid))
    meetings.tracks = tracks
    return meetings


def _speaker(track: Track, grid: Path, tier: Tier) -> SpeakerInfo | None:
    if tier.name.lower() in NON_SPEAKER_TIERS:
        return None
    name = "_".join(tier.name.split())
    gender = _GENDER.search(name)
    return SpeakerInfo(f"{CORPUS}:{track.session}:{name}", CORPUS, "zh", gender[1].lower() if gender else None)
