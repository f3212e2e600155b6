"""Gradient norms by module, where DeepSpeed spreads gradients over ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.support.distributed import run_distributed


def _train(output: str, deepspeed: str, log_every: int = 1) -> int:
    from pipeline.ranks.launch import init_distributed
    from tests.support.toy import toy_recipe, toy_trainer

    recipe = toy_recipe(Path(output), deepspeed=deepspeed, log_every=log_every)
    return toy_trainer(recipe, init_distributed(30)).train()


def norms(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def zero2(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = json.loads(Path("tests/support/zero3_gathers.json").read_text())
    config["zero_optimization"] = {"stage": 2}
    path = tmp_path_factory.mktemp("config") / "zero2_cpu.json"
    path.write_text(json.dumps(config))
    return str(path)


def test_norms_by_module_are_those_of_one_rank(tmp_path: Path, zero2: str) -> None:
    zero3 = "tests/support/zero3_gathers.json"
    runs = {"one": (1, zero3), "two": (2, zero3), "three": (3, zero3), "whole": (2, zero2)}
    for name, (ranks, config) in runs.items():
        run_distributed(_train, ranks, output=str(tmp_path / name), deepspeed=config)
    expected = norms(tmp_path / "one")
    assert {m for r in expected for m in r["module_norms"]} == {
        "encoder", "audio_projector", "speaker_projector", "lora",
    }  # fmt: skip
    for name in runs:
        for row, alone in zip(norms(tmp_path / name), expected, strict=True):
            parts = row["module_norms"]
            assert math.sqrt(sum(v * v for v in parts.values())) == pytest.approx(row["grad_norm"], rel=1e-5)
            assert parts == pytest.approx(alone["module_norms"], rel=1e-4), (name, row["step"])


def test_only_in_steps_that_are_logged(tmp_path: Path) -> None:
    run_distributed(_train, 1, output=str(tmp_path), deepspeed="tests/support/zero3_gathers.json", log_every=3)
    assert [bool(r["module_norms"]) for r in norms(tmp_path)] == [False, False, True, False, False, True]
