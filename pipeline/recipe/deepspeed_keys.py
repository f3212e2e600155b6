"""The settings that a DeepSpeed JSON file may have, with their types.

DeepSpeed ignores an unknown block, reads ``"False"`` as false, and refuses the rest with a page of text when the model
is already loaded. Of its settings these are the ones with which this trainer steps, saves and resumes;
tests/unit/pipeline/recipe/test_deepspeed_keys.py compares their names with DeepSpeed's.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """Values that a setting may have."""

    words: str
    fits: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    """Return whether a number is whole: ``5e8`` is a float in JSON."""
    return not isinstance(value, bool) and isinstance(value, int | float) and value == value // 1 and value >= 0


ANY = Kind("anything", lambda _: True)  # the recipe owns it, and compares it
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
ON = Kind("true or absent", lambda v: v is True)
OFF = Kind("false or absent", lambda v: v is False)
WHOLE = Kind("a whole number that is not below 0", _whole)
COUNT = Kind("a whole number of at least 1", lambda v: _whole(v) and v >= 1)
SHARE = Kind("a number from 0 to 1", lambda v: not isinstance(v, bool) and isinstance(v, int | float) and 0 <= v <= 1)
TEXT = Kind("a text", lambda v: isinstance(v, str))
TEXTS = Kind("a list of texts", lambda v: isinstance(v, list) and all(isinstance(x, str) for x in v))
STAGE = Kind("1, 2 or 3 (0, without ZeRO, keeps no fp32 masters)", lambda v: type(v) is int and v in (1, 2, 3))
DEVICE = Kind('"cpu" or "none" (the state on nvme cannot be saved)', lambda v: v in ("cpu", "none"))
OPTIONAL_FLAG = Kind("true, false or null", lambda v: v is None or isinstance(v, bool))

Table = dict[str, "Kind | Table"]

ZERO: Table = {
    "stage": STAGE,
    "contiguous_gradients": FLAG,
    "reduce_scatter": FLAG,
    "reduce_bucket_size": COUNT,
    "use_multi_rank_bucket_allreduce": FLAG,
    "allgather_partitions": FLAG,
    "allgather_bucket_size": WHOLE,
    "overlap_comm": OPTIONAL_FLAG,
    "compute_grad_norm": ON,  # of the log, of clipping, and of steps that are not finite
    "load_from_fp32_weights": FLAG,
    "ignore_unused_parameters": FLAG,
    "round_robin_gradients": OFF,  # DeepSpeed 0.19.8 then gives out the fp32 copies of other parameters
    "parameter_alignment": FLAG,
    "sub_group_size": WHOLE,
    "stage3_prefetch_bucket_size": WHOLE,
    "stage3_param_persistence_threshold": WHOLE,
    "stage3_model_persistence_threshold": WHOLE,
    "stage3_max_live_parameters": WHOLE,
    "stage3_max_reuse_distance": WHOLE,
    "stage3_module_granularity_threshold": WHOLE,
    "stage3_use_all_reduce_for_fetch_params": FLAG,
    "stage3_allgather_sequential": FLAG,
    "stage3_gather_16bit_weights_on_model_save": FLAG,
    "zero_hpz_partition_size": WHOLE,
    "zero_quantized_weights": FLAG,
    "zero_quantized_nontrainable_weights": FLAG,
    "zero_quantized_gradients": FLAG,
    "memory_efficient_linear": FLAG,
    "override_module_apply": FLAG,
    "log_trace_cache_warnings": FLAG,
    "enable_sanity_checks": FLAG,
    "leaf_module": {"classes": TEXTS, "names": TEXTS, "name_suffixes": TEXTS},
    "offload_param": {
        "device": DEVICE,
        "buffer_count": WHOLE,
        "buffer_size": WHOLE,
        "max_in_cpu": WHOLE,
        "pin_memory": FLAG,
    },
    "offload_optimizer": {
        "device": DEVICE,
        "buffer_count": WHOLE,
        "pin_memory": FLAG,
        "pipeline_read": FLAG,
        "pipeline_write": FLAG,
        "fast_init": FLAG,
        "ratio": SHARE,
        "cpuadam_cores_perc": SHARE,
    },
}

SETTINGS: Table = {
    "train_batch_size": ANY,
    "train_micro_batch_size_per_gpu": ANY,
    "gradient_accumulation_steps": ANY,
    "gradient_clipping": ANY,
    "communication_data_type": ANY,
    "data_types": {"grad_accum_dtype": ANY},
    "bf16": {
        "enabled": FLAG,
        "immediate_grad_update": FLAG,
        "check_grad_overflow": ON,  # else a step that is not finite changes the weights
        "bf16_master_weights_and_grads": OFF,  # the masters are fp32
        "bf16_optimizer_states": OFF,
    },
    "fp16": {
        "enabled": Kind("false or absent: use bf16, or neither for fp32", lambda v: v is False),
        "auto_cast": FLAG,
        "loss_scale": ANY,
        "initial_scale_power": ANY,
        "loss_scale_window": ANY,
        "hysteresis": ANY,
        "consecutive_hysteresis": FLAG,
        "min_loss_scale": ANY,
        "fp16_master_weights_and_grads": OFF,
    },
    "optimizer": {
        "type": ANY,
        "params": {
            "lr": ANY,
            "betas": ANY,
            "eps": ANY,
            "weight_decay": ANY,
            "torch_adam": FLAG,
            "adam_w_mode": ON,
            "bias_correction": ON,
            "amsgrad": OFF,
            "fp32_optimizer_states": ON,
        },
    },
    "zero_optimization": ZERO,
    "zero_allow_untested_optimizer": FLAG,
    "zero_force_ds_cpu_optimizer": FLAG,
    "steps_per_print": WHOLE,
    "wall_clock_breakdown": FLAG,
    "timers": {"throughput": {"enabled": FLAG, "synchronized": FLAG}},
    "memory_breakdown": FLAG,
    "dump_state": FLAG,
    "comms_logger": {"enabled": FLAG, "prof_all": FLAG, "prof_ops": TEXTS, "verbose": FLAG, "debug": FLAG},
    "flops_profiler": {
        "enabled": FLAG,
        "recompute_fwd_factor": SHARE,
        "profile_step": COUNT,
        "module_depth": Kind("a whole number", lambda v: type(v) is int),
        "top_modules": COUNT,
        "detailed": FLAG,
        "output_file": Kind("a text or null", lambda v: v is None or isinstance(v, str)),
    },
}
ELSEWHERE = {  # why a block of DeepSpeed does not belong here
    "scheduler": "the learning rate is the recipe's (optimizer.*)",
    **dict.fromkeys(("tensorboard", "wandb", "csv_monitor", "comet"), "monitors are the recipe's (monitor.*)"),
    "activation_checkpointing": "it is the recipe's (model.activation_checkpointing)",
    "bfloat16": 'it is called "bf16"',
}


def problems(config: dict[str, Any], table: Table = SETTINGS, prefix: str = "") -> Iterator[str]:
    """Yield what is wrong with the keys and the types of a configuration; ``"auto"`` fits every type."""
    for name, value in config.items():
        kind, key = table.get(name), f"{prefix}{name if name.isprintable() else json.dumps(name)}"
        if kind is None:
            yield _unknown(key, name, table, prefix)
        elif isinstance(kind, dict):
            if isinstance(value, dict):
                yield from problems(value, kind, f"{key}.")
            else:
                yield f"{key} is {json.dumps(value)}, must be a JSON object"
        elif value != "auto" and not kind.fits(value):
            yield f"{key} is {json.dumps(value)}, must be {kind.words}"


def contradictions(config: dict[str, Any]) -> Iterator[str]:
    """Yield settings that do not go together, in a configuration without :func:`problems`."""
    zero = config.get("zero_optimization")
    if zero is None:
        yield "zero_optimization is missing: without ZeRO there are no fp32 masters to save"
        return
    stage = zero.get("stage")
    if stage is None:
        yield f"zero_optimization.stage is missing, must be {STAGE.words}"
    if stage == 1 and config.get("bf16", {}).get("enabled"):
        yield "zero_optimization.stage is 1 with bf16, for which DeepSpeed has another optimizer: set stage 2"
    if stage in (1, 2) and zero.get("offload_param", {}).get("device", "none") != "none":
        yield f"zero_optimization.offload_param needs stage 3, stage is {stage}"
    if stage in (1, 2) and zero.get("offload_optimizer", {}).get("ratio", 1) not in (1, "auto"):
        yield f"zero_optimization.offload_optimizer.ratio below 1 needs stage 3, stage is {stage}"


def _unknown(key: str, name: str, table: Table, prefix: str) -> str:
    if not prefix and name in ELSEWHERE:
        return f"{key} does not belong here: {ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, table, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(table)}"
    return f"{key} is not a setting that is supported; {hint}"
