"""The folder that decoding writes into: what the clips were decoded with, which are there, what it cost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shards.errors import ScoreError


@dataclass
class Timing:
    """What decoding cost."""

    clips: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def real_time_factor(self) -> float | None:
        """Wall time over audio time: below 1 is faster than real time."""
        return self.wall_seconds / self.audio_seconds if self.audio_seconds else None


@dataclass(frozen=True)
class Settings:
    """What decides the output besides the clip. Stored beside it."""

    run: str
    weights: str  # sha256
    dataset: str
    fingerprint: str
    seed: int
    max_new_tokens: int
    registration: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What the figures are of: nothing that changes the output, everything that a table wants to say."""

    run: str
    stage: int
    test_set: str
    extractor: str
    hours: float | None  # of training data, where it can be told


@dataclass
class Output:
    """A folder of decoded clips and the file that describes it."""

    folder: Path
    settings: Settings
    about: About
    timings: dict[str, Timing]

    def write(self) -> None:
        """Write ``decode.json``, whole."""
        timing = {k: {**asdict(v), "real_time_factor": v.real_time_factor} for k, v in self.timings.items()}
        content = {"settings": asdict(self.settings), "about": asdict(self.about), "timing": timing}
        part = self.folder / "decode.json.part"
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / "decode.json")


def decoded_keys(path: Path) -> set[str]:
    """Keys already decoded; half a line at the end, left by a crash, is cut off."""
    if not path.exists():
        return set()
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as f:
            f.truncate(len(whole))
    return {json.loads(line)["key"] for line in whole.splitlines() if line.strip()}


def open_output(out: Path, settings: Settings) -> dict[str, Timing]:
    """Timings so far. Refuses a folder with output of other settings."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "decode.json"
    if not path.exists():
        if any(out.glob("*.jsonl")):
            raise ScoreError(f"{out} holds decoded clips but no decode.json; give an empty folder")
        return {}
    stored = json.loads(path.read_text(encoding="utf-8"))
    moved = {"run", "dataset"}  # a run or a dataset may move; hash and fingerprint tell what they are
    differing = [k for k, v in asdict(settings).items() if k not in moved and stored["settings"].get(k) != v]
    if differing:
        raise ScoreError(
            f"{out} holds clips decoded with another {', '.join(differing)}; give another folder or delete it"
        )
    kept = {"clips", "audio_seconds", "wall_seconds"}
    return {k: Timing(**{x: y for x, y in v.items() if x in kept}) for k, v in stored["timing"].items()}
