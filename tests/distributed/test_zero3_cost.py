"""What ZeRO costs the host: hooks, module fetches, collectives, counted. The values are those of DeepSpeed alone."""

from __future__ import annotations

import json

import pytest

from tests.support.distributed import run_distributed

LAYERS, BLOCKS, LATE = 3, 4, 2


def _count(name: str) -> None:
    """Two steps to record the trace, then count."""
    from benchmarks.support.host_step import HostStep, build_model, hooks
    from pipeline.ranks.launch import init_distributed

    ranks = init_distributed(60)
    model = build_model(True, LAYERS, BLOCKS, LATE)
    step = HostStep.of(name, model, ranks.world_size)
    for _ in range(3):
        step.run()
    found = {"hooks": hooks(model), "collectives": step.collectives()}
    print(json.dumps(found | ({"fetches": step.fetches()} if name == "zero3" else {})))


def counted(name: str) -> dict:
    (first, _) = run_distributed(_count, 2, name=name)
    return json.loads(next(line for line in first.splitlines() if line.startswith('{"hooks"')))


def test_zero3_hooks_layers_and_gathers_in_buckets() -> None:
    found = counted("zero3")
    # Called: the model, the encoder, the projector's 2 layers, norm and convolution (and the projector itself), the
    # speaker projector, frontend, LLM, its decoder, embedding, layers, norm, rotary embedding, output layer.
    units = LAYERS + 15
    assert found["hooks"] <= 4 * units + 1
    assert found["fetches"] <= 2 * units
    sent = found["collectives"]
    assert sent["step"] <= 10  # buckets of what stays whole, the norm, the overflow; not one a tensor
    assert sent["forward"] <= LAYERS + 6
    assert sent["backward"] <= LAYERS + 12  # buckets of gradients too


def test_zero2_gathers_in_buckets() -> None:
    sent = counted("zero2")["collectives"]
    assert sent["forward"] == 0
    assert sent["backward"] + sent["step"] <= 16


def _compare(whole: int) -> None:
    """Losses, norms and weights of steps, one of them skipped, with DeepSpeed's own hooks and gathers and with ours."""
    import torch
    from deepspeed.utils import safe_get_full_fp32_param

    from benchmarks.support import host_step
    from pipeline.ranks.launch import init_distributed
    from pipeline.train import engine

    ranks = init_distributed(60)
    host_step.WHOLE = whole
    fewer, rows = engine.lighten, []
    for lighten in (lambda _: None, fewer):
        engine.lighten = lighten
        step = host_step.HostStep.of("zero3", host_step.build_model(True, LAYERS, BLOCKS, LATE), ranks.world_size)
        losses, norms = [], []
        for i in range(6):
            torch.manual_seed(10 * i + ranks.rank)
            loss = step.forward()
            step.backward(loss * (1e3 if i != 3 else float("nan")))
            step.step()
            losses.append(loss.item())
            norms += [float(step.engine.get_global_grad_norm())] if i != 3 else []
        trained = [p for p in step.engine.module.parameters() if p.requires_grad]
        sums = [float(safe_get_full_fp32_param(p).double().sum()) for p in trained]
        step.engine.module.eval()
        with torch.no_grad():
            losses.append(step.forward().item())
        rows.append((losses, norms, sums))
        engine.release(step.engine)
    # Rounding alone: a processor's kernels add in an order that depends on a tensor's address.
    assert rows[1][0][0] == pytest.approx(rows[0][0][0], rel=1e-6), "the loss before any gradient"
    # DeepSpeed's hooks split a tensor that several modules read, so its gradients are summed in another order, and
    # Adam's first steps have the gradients' signs.
    for theirs, ours in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert len(set(rows[1][0])) > 4, "nothing was learnt"
    print("equal")


@pytest.mark.parametrize("whole", [30_000, 300, 0], ids=["all that is trained whole", "some", "nothing"])
def test_values_are_those_of_deepspeeds_own_hooks(whole: int) -> None:
    assert all("equal" in output for output in run_distributed(_compare, 2, whole=whole))


def _norms_and_collectives(stage: int) -> None:
    """Collectives that the norms of a step's gradients cost."""
    import deepspeed.comm as dist
    import torch

    from benchmarks.support import host_step
    from pipeline.ranks.launch import init_distributed
    from pipeline.train.engine import initialize
    from pipeline.train.gradients import module_norms

    ranks = init_distributed(60)
    model = host_step.build_model(True, 1, 1, 1)
    config = host_step.engine_config("zero2", model, ranks.world_size)
    config["zero_optimization"]["stage"] = stage
    step = host_step.HostStep.of("bare", model, ranks.world_size)
    engine = initialize(model, config)
    engine.backward(step.forward(), scale_wrt_gas=False)
    calls, own = [], (dist.all_reduce, torch.distributed.all_reduce)

    def counting(number: int):
        def call(*args, **kwargs):
            calls.append(number)
            return own[number](*args, **kwargs)

        return call

    dist.all_reduce, torch.distributed.all_reduce = counting(0), counting(1)
    norms = module_norms(engine, ranks)
    assert len(calls) <= 2, f"{len(calls)} all-reduces"
    dist.all_reduce, torch.distributed.all_reduce = own
    engine.step()
    whole = float(engine.get_global_grad_norm())
    assert abs(sum(v * v for v in norms.values()) ** 0.5 / whole - 1) < 1e-4
    print("counted")


@pytest.mark.parametrize("stage", [1, 2])
def test_norms_by_module_cost_one_collective(stage: int) -> None:
    assert all("counted" in output for output in run_distributed(_norms_and_collectives, 2, stage=stage))
