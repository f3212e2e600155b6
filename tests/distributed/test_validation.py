"""Validation of a real model in ZeRO-3 partitions: the same figures on any number of ranks and by any way to decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ranks.stop import REQUEUE
from tests.support.distributed import report, run_distributed, run_ranks
from tests.support.training import make_parts, tiny_recipe

DECODE = {"decode_clips": 2, "decode_batch": 2, "decode_tokens": 24, "validation_share": 1.0}
pytestmark = pytest.mark.timeout(600)  # five runs before the first test
OFTEN = {"validate_every": 2, "save_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three steps that differ in how they decode, on two ranks and on one."""
    made = tmp_path_factory.mktemp("validation")
    run_distributed(make_parts, 1, folder=str(made / "parts"))
    two = {
        "silent": OFTEN,
        "local": {**DECODE, **OFTEN, "decode_how": "local"},
        "together": {**DECODE, "decode_how": "together"},
        "poor": {**DECODE, **OFTEN, "validation_share": 1e-9},
    }
    run_distributed(_train, 2, 280, parts=str(made / "parts"), runs=str(made), settings=two)
    run_distributed(_train, 1, 200, parts=str(made / "parts"), runs=str(made), settings={"alone": {**DECODE, **OFTEN}})
    return made


def _train(parts: str, runs: str, settings: dict[str, dict[str, Any]]) -> int:
    from pipeline.model.stopping import Guards
    from pipeline.train.run_stage import run_stage

    Guards.limit = lambda self, num_samples: 6 + num_samples % 17  # type: ignore[method-assign]  # unequal work
    for name, trainer in settings.items():
        recipe = tiny_recipe(Path(parts), Path(runs) / name, **trainer)
        if code := run_stage(recipe):
            return code
    return 0


def rows(run: Path, log: str = "validation") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"{log}.jsonl").read_text().splitlines()]


def answers(run: Path, step: int) -> dict[tuple[str, str], tuple[str, int]]:
    """(mode, key) → what the model wrote, and how many tokens."""
    lines = [
        json.loads(line)
        for path in (run / "decoded" / f"step-{step:08d}").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    return {(r["mode"], r["key"]): (r["raw"], r["tokens"]) for r in lines}


def test_losses_and_gain_do_not_depend_on_the_number_of_ranks(folder: Path) -> None:
    for one, two in zip(rows(folder / "alone"), rows(folder / "silent"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-5)
        gains = [r["registration_gain"] for r in (one, two)]
        assert gains[0]["targets"] == gains[1]["targets"] > 0
        assert gains[0] == pytest.approx(gains[1], rel=1e-3, abs=1e-6)
        assert gains[0]["names"] != 0.0
    assert [r["step"] for r in rows(folder / "silent")] == [0, 2, 3]


def test_every_way_to_decode_says_the_same(folder: Path) -> None:
    for step in (0, 3):
        local, together, alone = (answers(folder / name, step) for name in ("local", "together", "alone"))
        assert len(local) == 6
        assert {mode for mode, _ in local} == {"no", "match", "over"}
        assert local == together == alone
    assert len({tokens for _, tokens in answers(folder / "local", 3).values()}) > 1, "no answer was longer than another"
    scores = [rows(folder / name)[-1]["scores"] for name in ("local", "together", "alone")]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["all"]["clips"] == 6
    assert scores[0]["no"]["sacer"] is None
    assert all(scores[0][mode][rate] > 0 for mode in ("match", "over", "all") for rate in ("cer", "cpcer", "sacer"))


def test_decoding_changes_nothing_in_training(folder: Path) -> None:
    expected = [(r["step"], r["loss"], r["grad_norm"]) for r in rows(folder / "silent", "train")]
    for name in ("local", "together", "poor"):
        assert [(r["step"], r["loss"], r["grad_norm"]) for r in rows(folder / name, "train")] == expected


def test_a_decode_that_costs_too_much_is_skipped_except_the_last(folder: Path) -> None:
    first, second, last = rows(folder / "poor")
    for row in (first, second):
        assert row["scores"] is None
        assert "trainer.validation_share" in row["decode_left_out"]
    assert last["scores"]["all"]["clips"] == 6
    assert 0 < rows(folder / "local")[-1]["share"] < 1
    assert rows(folder / "local")[-1]["decode_seconds"] > 0


def test_checkpoints_carry_the_figures(folder: Path) -> None:
    manifest = json.loads((folder / "local" / "checkpoints" / "step-00000002" / "manifest.json").read_text())
    row = rows(folder / "local")[1]
    assert manifest["validation"] == {
        "loss": row["loss"],
        **{r: row["scores"]["all"][r] for r in ("cer", "cpcer", "sacer")},
    }


def _train_and_stop(parts: str, output: str, how: str, stop: bool) -> int:
    """On rank 1 a stop request comes while it decodes for the second time."""
    from pipeline.ranks.stop import StopRequest
    from pipeline.train.run_stage import run_stage
    from pipeline.train.validation_decode import ValidationDecode

    calls: list[int] = []
    real = ValidationDecode.decode_batch

    def answer(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if stop and self._ranks.rank == 1 and len(calls) == 1:
            request.signal = 15
        return real(self, *arguments)

    ValidationDecode.decode_batch = answer  # type: ignore[method-assign]
    install = StopRequest.install

    def remembered(self: StopRequest) -> StopRequest:
        nonlocal request
        request = install(self)
        return request

    request: Any = None
    StopRequest.install = remembered  # type: ignore[method-assign]
    return run_stage(tiny_recipe(Path(parts), Path(output), **{**DECODE, "decode_how": how}))


@pytest.mark.parametrize("how", ["local", "together"])
def test_a_stop_during_the_decode(folder: Path, tmp_path: Path, how: str) -> None:
    arguments = {"parts": str(folder / "parts"), "output": str(tmp_path), "how": how}
    fates = run_ranks(_train_and_stop, 2, 120, **arguments, stop=True)
    assert [f.code for f in fates] == [REQUEUE, REQUEUE], report(fates)
    assert not (tmp_path / "validation.jsonl").exists()
    run_distributed(_train_and_stop, 2, 120, **arguments, stop=False)
    assert [r["step"] for r in rows(tmp_path)] == [0, 3]
    assert (tmp_path / "done").exists()


def test_a_log_for_each_rank(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {"logged": {}}
    arguments: dict[str, Any] = {"parts": str(folder / "parts"), "runs": str(tmp_path), "settings": settings}
    first, second = run_distributed(_train, 2, 120, **arguments)
    logs = [(tmp_path / "logged" / "logs" / f"rank-000{r}.log").read_text() for r in (0, 1)]
    assert "trainable set:" in logs[0]
    assert "stage 4 is done" in logs[0]
    assert "stage 4 is done" in first
    assert all(f"rank {r} of 2 on " in logs[r] for r in (0, 1))
    assert "trainable set:" not in logs[1] + second
    run_distributed(_train, 1, 120, **arguments)
    again = (tmp_path / "logged" / "logs" / "rank-0000.log").read_text()
    assert again.startswith(logs[0])
    assert "is already done" in again[len(logs[0]) :]
