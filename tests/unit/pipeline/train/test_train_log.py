from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ranks.memory import peak_bytes
from pipeline.train.loss_table import LossTable
from pipeline.train.train_log import Log, StepRecord, duration, status_line


def record(step: int, loss: float = 2.0, targets: int = 10) -> StepRecord:
    return StepRecord(step, loss, 1e-4, 0.5, targets, 600, 36.0, 2.0, 0.5)


def batch(dataset: str, mode: str, weight: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(dataset=dataset, mode=mode, weight=weight)


def test_losses_add_up_per_dataset_and_mode() -> None:
    table = LossTable(["a", "b"])
    sums, counts = table.zeros(), table.zeros()
    for b, loss, n in ((batch("a", "no"), 6.0, 2), (batch("a", "no"), 3.0, 1), (batch("b", "over"), 5.0, 5)):
        table.add(sums, b, loss)
        table.add(counts, b, n)
    assert table.means(sums, counts) == {"a/no": 3.0, "b/over": 1.0}


def test_an_empty_micro_batch_counts_for_nothing() -> None:
    table = LossTable(["a"])
    sums = table.zeros()
    table.add(sums, batch("", "match", weight=0.0), float("nan"))
    assert sums == table.zeros()


def test_status_line_weighs_losses_by_target_tokens() -> None:
    line = status_line([record(9, loss=1.0, targets=30), record(10, loss=5.0, targets=10)], 100)
    assert "step 10/100  loss 2.0000  lr 1.00e-04  grad 0.500" in line
    assert "tokens/s 300  audio-h/h 18.0  0 TFLOP/s  mem 0.0G  wait 25%  step 2.00s  ETA 3m00s" in line


def test_utilisation_is_weighed_by_time() -> None:
    fast = dataclasses.replace(record(1), seconds=1.0, model_tflop=40.0, mfu=0.4, hfu=0.5, peak_gib=3.0)
    slow = dataclasses.replace(record(2), seconds=3.0, model_tflop=60.0, mfu=0.2, hfu=0.3, peak_gib=70.25)
    assert "  MFU 25.0%  HFU 35.0%  mem 70.2G  wait" in status_line([fast, slow], 100)
    unknown = [dataclasses.replace(r, mfu=None) for r in (fast, slow)]
    assert "  25 TFLOP/s  " in status_line(unknown, 100)


def test_peak_memory_of_this_process() -> None:
    before = peak_bytes(reserved=True)
    held = bytearray(b"x") * (200 << 20)
    assert peak_bytes(reserved=True) >= max(before, len(held))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0m00s"), (184, "3m04s"), (7380, "2h03m"), (93780, "1d02h03m")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_past_the_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log = Log(path, 0)
    for step in (1, 2, 3):
        log.write({"step": step})
    with path.open("a") as f:
        f.write('{"step": 4, "lo')
    Log(path, 2).write({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]
