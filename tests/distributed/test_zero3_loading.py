"""Loading an LLM of several files in ZeRO-3's partitions: every tensor right, never whole in one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe.schema import LlmConfig
from tests.support.distributed import run_distributed
from tests.support.memory import Watch
from tests.support.training import tiny_recipe

LAYERS, HIDDEN, FFN = 16, 384, 3072


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero3")
    run_distributed(_make_parts, 1, folder=str(folder))
    return folder


def _make_parts(folder: str) -> None:
    """A tiny base whose LLM has 260 MB in at least three files: enough to be seen beside a process's other memory."""
    from tests.support.architectures import make_causal_lm
    from tests.support.tiny import make_base

    base = make_base(Path(folder) / "base")
    sizes = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS}
    make_causal_lm(base.llm, "qwen2", max_shard_size="70MB", **sizes)


def _load(parts: str) -> None:
    """Load, compare every tensor with the files, and say what it took."""
    import deepspeed
    import torch
    from safetensors import safe_open

    from pipeline.model.build import build_model, set_trainable
    from pipeline.ranks.launch import init_distributed
    from pipeline.recipe.deepspeed import resolve_deepspeed
    from pipeline.stages import STAGES, module_of

    recipe = tiny_recipe(Path(parts), Path(parts) / "unused")
    recipe.model = replace(recipe.model, llm=LlmConfig(checkpoint=str(Path(parts) / "base" / "llm")))
    recipe.model.lora.dropout = 0.1
    ranks = init_distributed(60)
    ds_config = resolve_deepspeed(recipe, ranks.world_size)
    with Watch("RssAnon") as watch:  # mapped checkpoint files do not count
        model = build_model(recipe.model, ds_config=ds_config)
    llm: dict[str, Any] = {n: p for n, p in model.named_parameters() if module_of(n) == "llm"}
    files = sorted((Path(parts) / "base" / "llm").glob("*.safetensors"))
    wanted = {}
    for file in files:
        with safe_open(str(file), framework="pt") as f:
            wanted |= {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a dict
    equal, held, total = 0, 0, 0
    for name, p in llm.items():
        held, total = held + p.ds_tensor.numel() * p.ds_tensor.element_size(), total + p.ds_numel * p.element_size()
        with deepspeed.zero.GatheredParameters([p]):
            equal += torch.equal(p.data, wanted.pop(name.removeprefix("llm.").replace(".base_layer.", ".")))
    zero_b = [not p.any() for n, p in model.named_parameters() if ".lora_B." in n]
    set_trainable(model, STAGES[2])
    awake = [n for n, m in model.named_modules() if m.training and n.startswith(("encoder", "llm"))]
    about = {"tensors": len(llm), "equal": equal, "left": sorted(wanted), "held": held, "total": total}
    print(json.dumps({**about, "grown": watch.grown, "files": len(files), "lora_b": zero_b, "awake": awake}))


def test_every_tensor_of_three_files_arrives_and_no_rank_holds_the_llm(parts: Path) -> None:
    outputs = run_distributed(_load, 2, timeout=200, parts=str(parts))
    found = [json.loads(next(line for line in o.splitlines() if line.startswith('{"tensors"'))) for o in outputs]
    for rank in found:
        assert rank["files"] >= 3
        assert rank["equal"] == rank["tensors"] > 100
        assert rank["left"] == []
        assert rank["total"] > 200e6
        assert rank["held"] < 0.51 * rank["total"]
        assert rank["grown"] < 0.7 * rank["total"], f"{rank['grown'] / 1e6:.0f} of {rank['total'] / 1e6:.0f} MB"
        assert len(rank["lora_b"]) == 7 * LAYERS
        assert all(rank["lora_b"])
        assert rank["awake"] == []  # frozen modules of stage 2 are in eval mode
