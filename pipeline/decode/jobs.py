"""The jobs of a decoding: one output file per mode, and per range of distractors."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.evaluation.decoded_rows import MODES
from shards.errors import ConfigError

PAPER_BINS = ("1-10", "10-20", "20-30", "30-40", "40-50", "50-60", "60-70", "70-80", "80-90", "90-100")


@dataclass(frozen=True)
class DecodeJob:
    """One output file: a mode, and for Over-Regist the range of distractors."""

    mode: str
    n_ov: tuple[int, int] | None = None
    name: str = ""  # file name without .jsonl

    @property
    def range(self) -> str | None:
        """Range of distractors as text, such as ``1-50``."""
        return f"{self.n_ov[0]}-{self.n_ov[1]}" if self.n_ov else None


def jobs_of(modes: str, n_ov: str) -> list[DecodeJob]:
    """Parse modes such as ``asr,no,over`` and ranges such as ``1-50`` (or several, or ``paper``) into jobs.

    Raises:
        ConfigError: an unknown mode, or an invalid range.
    """
    jobs = []
    for mode in [m.strip() for m in modes.split(",") if m.strip()]:
        if mode not in MODES:
            raise ConfigError(f"--modes: unknown mode {mode!r}, known: {', '.join(MODES)}")
        if mode != "over":
            jobs.append(DecodeJob(mode, None, mode))
            continue
        ranges = PAPER_BINS if n_ov == "paper" else tuple(part.strip() for part in n_ov.split(","))
        for text in ranges:
            jobs.append(DecodeJob("over", _range(text), "over" if len(ranges) == 1 else f"over-{text}"))
    if not jobs:
        raise ConfigError("--modes names no mode")
    return jobs


def default_modes(stage: int) -> str:
    """Return the modes that a stage was trained for."""
    from pipeline.stages import STAGES

    if STAGES[stage].tasks:
        return "no"
    return "no,match,over" if STAGES[stage].registration else "asr"


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.strip().partition("-")
    if not (low.isdecimal() and (high or low).isdecimal() and 1 <= int(low) <= int(high or low)):
        raise ConfigError(f"--n-ov: {text!r} is not a range such as 1-50")
    return int(low), int(high or low)
