"""Records of steps: ``train.jsonl`` and status lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.checkpoint.format import write_atomic
from shards.storage.local import storage_errors


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of ``train.jsonl``; sums are over all ranks."""

    step: int  # updates made, this one included
    loss: float  # per target token
    lr: float
    grad_norm: float  # before clipping
    targets: int
    positions: int  # LLM positions, prompts included
    audio_seconds: float
    seconds: float  # wall time of the step
    wait_seconds: float  # part of it in which the slowest rank waited for data
    losses: dict[str, float] = field(default_factory=dict)  # per dataset/mode
    part_losses: dict[str, float] = field(default_factory=dict)  # of dialogues: label, time, boundary; unweighted
    model_tflop: float = 0.0  # operations of valid positions, see flops.py
    mfu: float | None = None  # model_tflop as a share of the cards' peak; None: card not known
    hfu: float | None = None  # the same of all operations that are computed
    peak_gib: float = 0.0  # largest memory of any rank so far: of its card, or of the process on a CPU
    skipped: bool = False  # its numbers were not finite: no update
    own_seconds: tuple[float, ...] = ()  # per rank: from step to step, without waiting for the others
    save_seconds: float = 0.0  # for which a checkpoint before this step blocked training
    module_norms: dict[str, float] = field(default_factory=dict)  # gradient norm by module, in steps that are logged


class Log:
    """A JSON-lines file of a run; on resume, lines of steps that will be repeated are dropped.

    Args:
        resume_step: the last step that will not be repeated.
        replaces: a line replaces earlier ones of its step, such as one of a process that was killed before it saved.
    """

    def __init__(self, path: Path, resume_step: int, replaces: bool = False) -> None:
        self._path, self._replaces = path, replaces
        path.parent.mkdir(parents=True, exist_ok=True)
        self._keep(lambda step: step <= resume_step)

    def write(self, row: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            StorageError: the disk is full, or another error of the operating system.
        """
        if self._replaces:
            self._keep(lambda step: step != row["step"])
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _keep(self, wanted: Callable[[int], bool]) -> None:
        """Drop lines of other steps, and an incomplete last line; rewrite the file only if there are any."""
        if not self._path.exists():
            return
        kept = "".join(f"{line}\n" for line in _whole_lines(self._path) if wanted(json.loads(line)["step"]))
        if kept.encode() != self._path.read_bytes():
            write_atomic(self._path, kept)


def _whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a log; a killed process may have left the last one incomplete."""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


class Status:
    """Averages since the last status line."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._records: list[StepRecord] = []

    def add(self, record: StepRecord) -> None:
        """Add a step."""
        self._records.append(record)

    def line(self) -> str:
        """Return the status line of the steps since the last one."""
        records, self._records = self._records, []
        return status_line(records, self._max_steps)


def status_line(records: Sequence[StepRecord], max_steps: int) -> str:
    """Format step, loss per target token, lr, gradient norm, speed, memory, time left.

    tokens/s are valid LLM positions of all ranks. If the card is unknown, operations per second replace MFU.
    """
    last = records[-1]
    seconds = sum(r.seconds for r in records)
    learnt = [r for r in records if not r.skipped]
    targets = sum(r.targets for r in learnt)
    loss = sum(r.loss * r.targets for r in learnt) / targets if targets else math.nan
    saving = sum(r.save_seconds for r in records)
    more = f"  save {100 * saving / (seconds + saving):.1f}%" if saving else ""
    more += f"  skipped {len(records) - len(learnt)}" if len(learnt) < len(records) else ""
    left = (max_steps - last.step) * seconds / len(records)
    return (
        f"step {last.step}/{max_steps}  loss {loss:.4f}{_parts(learnt)}  lr {last.lr:.2e}  grad {last.grad_norm:.3f}  "
        f"tokens/s {sum(r.positions for r in records) / seconds:,.0f}  "
        f"audio-h/h {sum(r.audio_seconds for r in records) / seconds:,.1f}  "
        f"{utilisation(records)}  mem {last.peak_gib:.1f}G  "
        f"wait {100 * sum(r.wait_seconds for r in records) / seconds:.0f}%  "
        f"step {seconds / len(records):.2f}s{more}  ETA {duration(left)}"
    )


def _parts(records: Sequence[StepRecord]) -> str:
    """Format the mean losses of parts of dialogues, in steps that have them."""
    found = {
        part: [r.part_losses[part] for r in records if part in r.part_losses] for r in records for part in r.part_losses
    }
    return "".join(f"  {part} {sum(values) / len(values):.3f}" for part, values in found.items())


def utilisation(records: Sequence[StepRecord]) -> str:
    """Format MFU and HFU over some steps, or model operations per second if no peak is known."""
    seconds = sum(r.seconds for r in records)
    if records[-1].mfu is None:
        return f"{sum(r.model_tflop for r in records) / seconds:.3g} TFLOP/s"
    mfu, hfu = (sum((s or 0.0) * r.seconds for r in records for s in [getattr(r, n)]) / seconds for n in ("mfu", "hfu"))
    return f"MFU {100 * mfu:.1f}%  HFU {100 * hfu:.1f}%"


def duration(seconds: float) -> str:
    """``1d02h03m``, ``2h03m`` or ``3m04s``."""
    s = max(0, round(seconds))
    days, hours, minutes = s // 86400, s // 3600 % 24, s // 60 % 60
    if days:
        return f"{days}d{hours:02d}h{minutes:02d}m"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{s % 60:02d}s"


def log_row(record: StepRecord) -> dict[str, Any]:
    """Return a record as a row of ``train.jsonl``, with the time."""
    values = {**asdict(record), "time": round(time.time(), 3)}
    values["own_seconds"] = [round(s, 4) for s in record.own_seconds]
    return finite(values)


def finite(value: Any) -> Any:
    """Return a row, or a part of it, with None for every number that is not finite: JSON has no such numbers."""
    if isinstance(value, dict):
        return {name: finite(v) for name, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
