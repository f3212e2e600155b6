"""What a run reports: losses per dataset and mode, one record a step, one status line now and then."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.checkpoint.format import write_atomic


class LossTable:
    """Sums of token losses and numbers of target tokens, a cell for each dataset and mode.

    It is one flat list of numbers, so that a single all-reduce adds the tables of all ranks.
    """

    def __init__(self, datasets: Sequence[str], modes: Sequence[str]) -> None:
        self.cells = [(d, m) for d in dict.fromkeys(datasets) for m in modes]
        self._index = {cell: i for i, cell in enumerate(self.cells)}

    def zeros(self) -> list[float]:
        """An empty row of cells."""
        return [0.0] * len(self.cells)

    def add(self, row: list[float], batch: Any, value: float) -> None:
        """Add a micro-batch's value to its cell. An empty micro-batch has none: not even a loss that is not finite."""
        if batch.weight > 0:
            row[self.place(batch)] += value

    def place(self, batch: Any) -> int:
        """The cell of a micro-batch."""
        return self._index[batch.dataset, str(batch.mode)]

    def means(self, sums: Sequence[float], counts: Sequence[float]) -> dict[str, float]:
        """``dataset/mode`` → mean loss per target token, for the cells that were met."""
        return {f"{d}/{m}": s / n for (d, m), s, n in zip(self.cells, sums, counts, strict=True) if n}


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
    wait_seconds: float  # of which the slowest rank waited for data
    losses: dict[str, float] = field(default_factory=dict)  # per dataset/mode
    model_tflop: float = 0.0  # operations of valid positions, see flops.py
    mfu: float | None = None  # they and the computed ones, as shares of what the cards can do; None: card not known
    hfu: float | None = None
    peak_gib: float = 0.0  # largest memory of any rank so far: of its card, or of the process on a CPU
    skipped: bool = False  # its numbers were not finite: no update
    own_seconds: tuple[float, ...] = ()  # per rank: from step to step, without waiting for the others
    save_seconds: float = 0.0  # that training stood still for a checkpoint before this step
    module_norms: dict[str, float] = field(default_factory=dict)  # gradient norm by module, in steps that are logged


@dataclass(frozen=True, slots=True)
class StepSize:
    """What a global step holds, over all ranks."""

    positions: float
    audio_seconds: float
    model_flops: float
    hardware_flops: float
    stops: float  # ranks that were asked to stop
    failed_saves: float  # ranks whose save in the background failed
    waited: float  # the longest wait for data
    peak_gib: float  # the largest memory


class Log:
    """A JSON-lines file of a run; on resume, lines past the checkpoint are dropped, since they will come again."""

    def __init__(self, path: Path, resume_step: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= resume_step]
            write_atomic(path, "".join(f"{line}\n" for line in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def _whole_lines(path: Path) -> list[str]:
    """Lines of a log; one that a kill cut short is left out."""
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


class Status:
    """Averages since the last status line."""

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max_steps
        self._records: list[StepRecord] = []

    def add(self, record: StepRecord) -> None:
        """Take one step in."""
        self._records.append(record)

    def line(self) -> str:
        """The status line, and a fresh start."""
        records, self._records = self._records, []
        return status_line(records, self._max_steps)


def status_line(records: Sequence[StepRecord], max_steps: int) -> str:
    """Step, loss per target token, lr, gradient norm, speed, memory, time left.

    tokens/s are valid LLM positions, of all ranks. Where the card is not known, operations a second stand for MFU.
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
        f"step {last.step}/{max_steps}  loss {loss:.4f}  lr {last.lr:.2e}  grad {last.grad_norm:.3f}  "
        f"tokens/s {sum(r.positions for r in records) / seconds:,.0f}  "
        f"audio-h/h {sum(r.audio_seconds for r in records) / seconds:,.1f}  "
        f"{utilisation(records)}  mem {last.peak_gib:.1f}G  "
        f"wait {100 * sum(r.wait_seconds for r in records) / seconds:.0f}%  "
        f"step {seconds / len(records):.2f}s{more}  ETA {duration(left)}"
    )


def utilisation(records: Sequence[StepRecord]) -> str:
    """MFU and HFU over some steps; model operations a second where no peak is known."""
    seconds = sum(r.seconds for r in records)
    if records[-1].mfu is None:
        return f"{sum(r.model_tflop for r in records) / seconds:.3g} TFLOP/s"
    mfu, hfu = (sum((s or 0.0) * r.seconds for r in records for s in [getattr(r, n)]) / seconds for n in ("mfu", "hfu"))
    return f"MFU {100 * mfu:.1f}%  HFU {100 * hfu:.1f}%"


def peak_gib() -> float:
    """Largest memory of this process so far: of its card, what torch took; on a CPU, resident. Waits for no device."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def duration(seconds: float) -> str:
    """``1d02h03m``, ``2h03m`` or ``3m04s``."""
    s = max(0, round(seconds))
    days, hours, minutes = s // 86400, s // 3600 % 24, s // 60 % 60
    if days:
        return f"{days}d{hours:02d}h{minutes:02d}m"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{s % 60:02d}s"


def row(record: StepRecord) -> dict[str, Any]:
    """A record as it is logged, with the time of day."""
    values = {**asdict(record), "time": round(time.time(), 3)}
    values["own_seconds"] = [round(s, 4) for s in record.own_seconds]
    return finite(values)


def finite(value: Any) -> Any:
    """A row or a part of it with null for every number that is not finite: JSON knows none."""
    if isinstance(value, dict):
        return {name: finite(v) for name, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
