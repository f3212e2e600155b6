"""Seconds that the main thread of a rank needs for a step, measured on the machine that this runs on.

A GPU's step takes at least as long as its host needs to queue it. With the module counts of the 7B recipe, the hooks of
ZeRO-3 alone take seconds. What is run is the recipe's own model with its numbers of blocks and layers and narrow
widths, by DeepSpeed on a CPU, so that Python and dispatching are what is measured. On a GPU queueing a kernel takes
about as long as computing such a small one here.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.flops import Load
from pipeline.preflight.rehearse import start_ranks
from pipeline.recipe.schema import Recipe
from pipeline.stages import STAGES, Checkpointing

MEASURED = (2, 3)  # ZeRO stages; others are taken as 2
WARM, TIMED = 2, 2  # steps: DeepSpeed records the order of modules in its first ones
LOAD = Load(samples=(48,), frames=(24,), audio_positions=12, speakers=1, targets=8)
_WIDTHS = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 500, "output_size": 32, "linear_units": 64, "attention_heads": 4, "d_model": 32,
    "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "heads": 4, "ffn": 64,
}  # fmt: skip
_ELEMENTS = (  # settings of zero_optimization that count elements, in proportion to the model's
    "reduce_bucket_size",
    "allgather_bucket_size",
    "stage3_prefetch_bucket_size",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
)


@dataclass(frozen=True)
class HostSeconds:
    """Main-thread seconds of one rank, by ZeRO stage of :data:`MEASURED`."""

    micro_batch: Mapping[int, float]  # forward and backward
    recomputed: Mapping[int, float]  # what checkpointing of everything adds to that
    update: Mapping[int, float]
    blocks: int  # of encoder and projector
    layers: int  # of the LLM

    def step(self, zero: int, checkpointing: Checkpointing, rounds: int) -> float:
        """Return the seconds of a step of so many micro-batches; recomputation in proportion to blocks and layers."""
        stage = 3 if zero == 3 else 2
        again = checkpointing.again(self.layers) * self.layers + checkpointing.encoder * self.blocks
        each = self.micro_batch[stage] + self.recomputed[stage] * again / (self.blocks + self.layers)
        return rounds * each + self.update[stage]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> HostSeconds:
        """From what :func:`measure` has written."""
        by_stage = {
            name: {int(stage): float(seconds) for stage, seconds in found[name].items()}
            for name in ("micro_batch", "recomputed", "update")
        }
        return cls(**by_stage, blocks=found["blocks"], layers=found["layers"])


def host_seconds(recipe_arguments: Sequence[str], ranks: int) -> HostSeconds:
    """Measure on this machine, on one rank or two.

    Args:
        recipe_arguments: the recipe's file and overrides.
        ranks: of the planned run; more than one gather.

    Raises:
        TrainingError: a rank failed.
    """
    return HostSeconds.of(start_ranks("pipeline.preflight.host", recipe_arguments, min(2, ranks)))


def narrow_config(config: Any) -> Any:
    """Return a SpeakerLM's configuration with the same modules and narrow widths."""
    narrow = copy.deepcopy(config)
    for name in ("llm", "encoder_conf", "projector"):
        sizes = getattr(narrow, name)
        setattr(narrow, name, {k: _WIDTHS.get(k, v) if isinstance(v, int) else v for k, v in sizes.items()})
    return narrow


def narrow_zero(zero: Mapping[str, Any], real: Sequence[int], narrow: Sequence[int]) -> dict[str, Any]:
    """Return ``zero_optimization`` for the narrow model: the same tensors stay whole, the same share is gathered.

    Args:
        zero: of the real one; offloading is omitted.
        real: elements of the real model's parameters.
        narrow: of the same parameters in the narrow one.
    """
    out = {k: v for k, v in zero.items() if not k.startswith("offload")}
    factor = sum(narrow) / sum(real)
    for name in _ELEMENTS:
        if name in out:
            out[name] = max(2, int(out[name] * factor) // 2 * 2)  # DeepSpeed aligns buckets to two elements
    if out.get("stage") == 3:
        threshold = int(out.get("stage3_param_persistence_threshold", 1e5))
        small = [n for n, r in zip(narrow, real, strict=True) if r <= threshold]
        large = [n for n, r in zip(narrow, real, strict=True) if r > threshold]
        most = max(small, default=0)
        out["stage3_param_persistence_threshold"] = min(most, min(large) - 1) if large else most
    return out


def measure(recipe: Recipe, result: Path) -> None:
    """In a rank: run the narrow model's step under each ZeRO stage; rank 0 writes the slowest rank's seconds."""
    import torch

    from pipeline.model.float8 import use_float8
    from pipeline.model.modeling_speakerlm import SpeakerLMForConditionalGeneration
    from pipeline.preflight.memory import inputs_of
    from pipeline.preflight.shapes import empty_model
    from pipeline.ranks.launch import init_distributed
    from pipeline.train.engine import initialize, release

    ranks = init_distributed(300)
    wide, _ = empty_model(recipe.model, "float32")
    rows: dict[str, dict[int, float]] = {"micro_batch": {}, "recomputed": {}, "update": {}}
    for stage in MEASURED:
        torch.manual_seed(0)
        model: Any = SpeakerLMForConditionalGeneration(narrow_config(wide.config))
        if recipe.model.llm.float8:
            use_float8(model.llm, ranks.device)
        model.trainable(STAGES[recipe.stage].trains)
        model.train()
        sizes = [p.numel() for p in wide.parameters()], [p.numel() for p in model.parameters()]
        engine = initialize(model, _ds_config(recipe, stage, ranks.world_size, *sizes))
        batch = inputs_of(LOAD, model, "cpu", model.llm.config.vocab_size)
        found = {}
        for everything in (False, True):
            model.set_checkpointing(everything)
            found[everything] = min((_step(engine, batch) for _ in range(WARM + TIMED)), key=sum)
        rows["micro_batch"][stage] = found[False][0]
        rows["recomputed"][stage] = max(0.0, found[True][0] - found[False][0])
        rows["update"][stage] = found[False][1]
        release(engine)
    values = torch.tensor([list(row.values()) for row in rows.values()], dtype=torch.float64)
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    if ranks.is_first:
        slowest = {
            name: dict(zip(row, taken, strict=True))
            for (name, row), taken in zip(rows.items(), values.tolist(), strict=True)
        }
        blocks = wide.encoder.blocks + wide.config.projector["layers"]
        result.write_text(json.dumps(slowest | {"blocks": blocks, "layers": wide.llm.config.num_hidden_layers}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _step(engine: Any, batch: Mapping[str, Any]) -> tuple[float, float]:
    """Return the main thread's seconds of forward and backward, and of the update. Waiting takes none."""
    began = time.thread_time()
    engine.backward(engine(**batch).loss, scale_wrt_gas=False)
    middle = time.thread_time()
    engine.step()
    return middle - began, time.thread_time() - middle


def _ds_config(recipe: Recipe, stage: int, world: int, real: list[int], narrow: list[int]) -> dict[str, Any]:
    """Return the configuration of the recipe's file if it is of this ZeRO stage, else of the shipped one, on a CPU."""
    from pipeline.preflight.advice import ds_config_of

    config = ds_config_of(recipe, stage, world)
    config.pop("bf16", None)
    config["gradient_accumulation_steps"], config["train_batch_size"] = 1, world
    config["optimizer"]["params"]["torch_adam"] = True
    config["zero_optimization"] = narrow_zero(config["zero_optimization"], real, narrow)
    return config


def main() -> int:
    """Entry point of a rank."""
    from pipeline.recipe.load import load_recipe

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--result", type=Path, required=True)
    args = parser.parse_intermixed_args()
    measure(load_recipe(args.recipe, args.overrides), args.result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
