from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.prompts import Part
from pipeline.ranks.memory import peak_bytes
from pipeline.train.loss_table import LossTable, PartTable
from pipeline.train.train_log import Log, StepRecord, duration, status_line
from shards.errors import StorageError
from tests.support.filesystems import mounted


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


def test_parts_of_dialogues_have_means_of_their_own() -> None:
    table, cpu = PartTable(), torch.device("cpu")
    places = [list(Part).index(p) for p in (Part.TEXT, Part.BOUNDARY, Part.BOUNDARY, Part.TIME)]
    dialogue = SimpleNamespace(parts=torch.tensor(places, dtype=torch.int8), weight=1.0)
    row = table.row(dialogue, torch.tensor([9.0, 1.0, 2.0, 0.5]), cpu)
    row = row + table.row(SimpleNamespace(**vars(dialogue) | {"weight": 0.0}), torch.tensor([float("nan")] * 4), cpu)
    row = row + table.row(batch("a", "no"), None, cpu)  # SpeakerLM's batches have no parts
    assert table.means(row.tolist()) == {"time": 0.5, "boundary": 1.5}
    assert table.means([0.0] * 6) == {}


def test_status_line_has_the_losses_of_parts() -> None:
    first, last = (dataclasses.replace(record(n), part_losses={"boundary": x}) for n, x in ((1, 2.0), (2, 1.0)))
    assert "  loss 2.0000  boundary 1.500  lr" in status_line([first, last], 100)


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


def test_a_log_of_validations_lists_no_step_twice(tmp_path: Path) -> None:
    """A process killed before its first save validates step 0 again, and the last validation may repeat one."""
    path = tmp_path / "validation.jsonl"
    path.write_text('{"step": 0}\n{"step": 0}\n{"step": 3, "lo')
    for loss in (1, 2):
        log = Log(path, 0, replaces=True)
        log.write({"step": 0, "loss": loss})
        log.write({"step": 3})
        log.write({"step": 3, "final": True})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 0, "loss": 2}, {"step": 3, "final": True}]


def test_error_of_writing_a_log_names_it(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "size=16k") as disk:
        log = Log(disk / "train.jsonl", 0)
        with pytest.raises(StorageError, match=r"train\.jsonl: No space left on device; free some space"):
            log.write({"step": 1, "text": "x" * 100_000})
