"""Resume, elasticity and parity of the trainer on a toy model, on two and one gloo processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.cpu_adam import compiled_adam, use_adam
from tests.support.distributed import report, run_distributed, run_ranks


def train_straight_and_in_two_parts(folder: str, deepspeed: str = "tests/support/zero3_gathers.json") -> None:
    """6 steps at once; and 3 steps, a new engine, 3 steps."""
    from pipeline.ranks.launch import init_distributed
    from tests.support.toy import toy_recipe, toy_trainer

    ranks = init_distributed(60)
    for name, parts in (("straight", (None,)), ("parts", (3, None))):
        for stop_after in parts:
            recipe = toy_recipe(Path(folder) / name, deepspeed=deepspeed)
            assert toy_trainer(recipe, ranks, dropout=0.3, stop_after=stop_after).train() == 0


def resume_alone(folder: str) -> None:
    """The second half of a run that two ranks began, on one rank."""
    from pipeline.ranks.launch import init_distributed
    from tests.support.toy import toy_recipe, toy_trainer

    assert toy_trainer(toy_recipe(Path(folder)), init_distributed(60), dropout=0.3).train() == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_distributed(train_straight_and_in_two_parts, 2, folder=str(folder))
    return folder


def losses(run: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows]


def weights(run: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(run / "weights" / "model.safetensors")


def test_resumed_run_is_bit_equal(runs: Path) -> None:
    assert [s for s, *_ in losses(runs / "straight")] == [1, 2, 3, 4, 5, 6]
    assert losses(runs / "straight") == losses(runs / "parts")
    a, b = weights(runs / "straight"), weights(runs / "parts")
    assert a.keys() == b.keys()
    assert all((a[name] == b[name]).all() for name in a)


def offloaded(folder: str, adam: str) -> None:
    """The same with Adam on the host, which was compiled before."""
    use_adam(adam)
    train_straight_and_in_two_parts(folder, "ds_configs/zero3_offload.json")
    import deepspeed

    assert deepspeed.ops.adam.cpu_adam.DeepSpeedCPUAdam.optimizer_id > 0, "another optimizer made the updates"


@pytest.mark.timeout(4000)
@pytest.mark.parametrize("deepspeed", ["zero3", "zero2", "zero3_offload"])
def test_resumed_run_is_bit_equal_in_bf16(tmp_path: Path, deepspeed: str) -> None:
    """The configurations for GPUs, as far as a CPU can run them: state and weights come from the fp32 masters.

    With zero3_offload.json the Adam of the host makes the updates, but there is no device whose memory it spares.
    """
    if deepspeed == "zero3_offload":
        run_distributed(offloaded, 2, folder=str(tmp_path), adam=str(compiled_adam()))
    else:
        config = f"ds_configs/{deepspeed}.json"
        run_distributed(train_straight_and_in_two_parts, 2, folder=str(tmp_path), deepspeed=config)
    assert losses(tmp_path / "straight") == losses(tmp_path / "parts")
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "parts")
    assert all((a[name] == b[name]).all() for name in a)
    assert any((p != p.bfloat16().float()).any() for p in a.values()), "the weights are not those of the masters"


def train_with_round_robin_gradients(folder: str) -> None:
    """A configuration that a recipe cannot have."""
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from tests.support import toy

    def resolve(*arguments: Any) -> dict[str, Any]:
        config = resolve_deepspeed(*arguments)
        config["zero_optimization"]["round_robin_gradients"] = True
        return config

    toy.resolve_deepspeed = resolve
    train_straight_and_in_two_parts(folder, "ds_configs/zero2.json")


def test_master_of_another_weight_is_never_saved(tmp_path: Path) -> None:
    """DeepSpeed 0.19 mixes up the fp32 copies of ZeRO-2 with round_robin_gradients."""
    fates = run_ranks(train_with_round_robin_gradients, 2, folder=str(tmp_path))
    assert all(f.code == 1 and "does not belong to the weight" in f.output for f in fates), report(fates)
    assert not list(tmp_path.glob("*/checkpoints/step-*"))


def test_another_world_size_continues_with_the_same_samples(runs: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(runs / "straight", half)
    shutil.rmtree(half / "checkpoints" / "step-00000006")
    (half / "done").unlink()
    run_distributed(resume_alone, 1, folder=str(half))
    for (s, x, n), (t, y, m) in zip(losses(half), losses(runs / "straight"), strict=True):
        assert s == t
        assert x == pytest.approx(y, rel=1e-5)
        assert n == pytest.approx(m, rel=1e-4)


def test_finished_run(runs: Path) -> None:
    done = json.loads((runs / "parts" / "done").read_text())
    assert (done["stage"], done["step"]) == (4, 6)
    names = set(weights(runs / "parts"))
    assert not [n for n in names if n.startswith("llm.base")]
    assert {"encoder.0.weight", "llm.lora_A.weight", "llm.lora_B.weight", "speaker_projector.bias"} <= names
    rows = [json.loads(line) for line in (runs / "parts" / "validation.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 3, 6]
    assert rows[-1]["loss"] < rows[0]["loss"] + 1
