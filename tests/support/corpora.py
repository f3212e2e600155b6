"""Small trees in the layouts of public corpora: noise as audio, TextGrid files, and runs of ``prepare``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from shards.cli import main
from shards.manifests.manifest import Recording, SpeakerInfo, read_manifest, read_speakers

Marks = Mapping[str, Iterable[tuple[float, float, str]]]  # tier → (start, end, mark)


def audio(path: Path, seconds: float, channels: int = 1, rate: int = 16_000) -> Path:
    """Write noise whose channel c has the level 0.01 · (c + 1), so that channels can be recognized."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    wave = rng.standard_normal((round(seconds * rate), channels)) * 0.01 * np.arange(1, channels + 1)
    soundfile.write(path, wave, rate)
    return path


def long_grid(tiers: Marks, end: float = 60.0) -> str:
    """Format tiers as a TextGrid in the long format."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {end} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for i, (name, found) in enumerate(tiers.items(), 1):
        marks = list(found)
        lines += [f"    item [{i}]:", '        class = "IntervalTier" ', f'        name = "{name}" ']
        lines += ["        xmin = 0 ", f"        xmax = {end} ", f"        intervals: size = {len(marks)} "]
        for j, (first, last, mark) in enumerate(marks, 1):
            quoted = mark.replace('"', '""')
            lines += [f"        intervals [{j}]:", f"            xmin = {first} ", f"            xmax = {last} "]
            lines += [f'            text = "{quoted}" ']
    return "\n".join(lines) + "\n"


def short_grid(tiers: Marks, end: float = 60.0) -> str:
    """Format tiers as a TextGrid in the short format."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end}", "<exists>", f"{len(tiers)}"]
    for name, found in tiers.items():
        marks = list(found)
        lines += ['"IntervalTier"', f'"{name}"', "0", f"{end}", f"{len(marks)}"]
        for first, last, mark in marks:
            lines += [f"{first}", f"{last}", '"' + mark.replace('"', '""') + '"']
    return "\n".join(lines) + "\n"


def grid(path: Path, tiers: Marks, end: float = 60.0, encoding: str = "utf-8") -> Path:
    """Write a TextGrid in the long format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(long_grid(tiers, end).encode(encoding))
    return path


class Manifest:
    """A manifest that `prepare` wrote."""

    def __init__(self, folder: Path) -> None:
        self.recordings: dict[str, Recording] = {r.key: r for r in read_manifest(folder)}
        self.speakers: dict[str, SpeakerInfo] = {s.speaker: s for s in read_speakers(folder)}
        self.audit: dict[str, Any] = json.loads((folder / "audit.json").read_text())

    def texts(self, key: str) -> list[tuple[str, str]]:
        """Return (speaker, text) of a recording's segments."""
        return [(s.speaker, s.text) for s in self.recordings[key].segments]


def prepare(corpus: str, root: Path, out: Path, *options: str) -> dict[str, Manifest]:
    """Run the command and return the manifests by name."""
    assert main(["prepare", corpus, str(root), str(out), "--workers", "2", *options]) == 0
    return {p.parent.name: Manifest(p.parent) for p in sorted(out.glob("*/recordings.jsonl"))}


def librispeech(root: Path) -> Path:
    """Write a small LibriSpeech with one text that has no audio; returns its folder."""
    base = root / "LibriSpeech"
    for key in ("84-121123-0000", "84-121123-0001"):
        audio(base / f"dev-clean/84/121123/{key}.flac", 3)
    lines = ["84-121123-0000 GO DO YOU HEAR", "84-121123-0001 IT'S PETER", "84-121123-0002 NOT THERE"]
    (base / "dev-clean/84/121123/84-121123.trans.txt").write_text("\n".join(lines) + "\n")
    (base / "SPEAKERS.TXT").write_text(";ID | SEX\n84   | F | dev-clean        | 8.02  | Christie Nowak\n")
    return base


def listing(root: Path, name: str, field: str, segments: list[dict[str, object]], subset: str) -> None:
    """Write a WenetSpeech or GigaSpeech list that names one existing and one missing long file."""
    audio(root / "audio/train/Y1.flac", 30)
    entries = [
        {"aid": "Y1", "path": "audio/train/Y1.flac", "duration": 30.0, "segments": segments, "md5": "x"},
        {
            "aid": "Y2",
            "path": "audio/train/Y2.opus",
            "duration": 9.0,
            "segments": [{"sid": "Y2_1", "begin_time": 0, "end_time": 2, field: "一", "subsets": [subset]}],
        },
    ]
    (root / name).write_text(json.dumps({"dataset": "x", "audios": entries}, ensure_ascii=False))
