"""Processes, DeepSpeed's configuration, learning rate: everything between a recipe and a DeepSpeed engine.

torch and deepspeed are imported inside functions, so that ``--help`` and ``--dry-run`` cost nothing.
"""

from __future__ import annotations

import copy
import functools
import gc
import json
import math
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.recipe.schema import OptimizerConfig, Recipe
from pipeline.stages import module_of
from shards.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch

CHECKOUT = Path(__file__).resolve().parents[2]
LR_FACTOR = "lr_factor"  # key of a parameter group


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0 writes what is written once."""
        return self.rank == 0


# --------------------------------------------------------------------------------------------------------- processes


def launcher_environment(env: dict[str, str]) -> dict[str, str]:
    """The five variables of torch's ``env://`` rendezvous, whoever started this process.

    ``deepspeed`` and ``torchrun`` set them. Inside an ``srun`` step they come from Slurm; a batch script's own shell
    has Slurm variables too but no SLURM_STEP_ID, and counts as a single process, as does a plain ``python``.
    """
    needed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if all(name in env for name in needed):
        return {name: env[name] for name in needed}
    if "SLURM_STEP_ID" in env and "SLURM_PROCID" in env:
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "127.0.0.1"
        return {
            "RANK": env["SLURM_PROCID"],
            "WORLD_SIZE": env.get("SLURM_STEP_NUM_TASKS") or env["SLURM_NTASKS"],
            "LOCAL_RANK": env["SLURM_LOCALID"],
            "MASTER_ADDR": env.get("MASTER_ADDR") or first_host(nodes),
            "MASTER_PORT": env.get("MASTER_PORT") or str(20_000 + int(env.get("SLURM_JOB_ID", 0)) % 20_000),
        }
    given = [name for name in needed if name in env]
    if "RANK" in given or "WORLD_SIZE" in given:
        missing = [name for name in needed if name not in env]
        raise ConfigError(
            f"{', '.join(given)} are set but {', '.join(missing)} are not: start with deepspeed or torchrun"
        )
    return {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }


def first_host(nodelist: str) -> str:
    """The first host of a Slurm node list: ``gpu[03-05,9],cpu1`` → ``gpu03``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodelist)
    if not match:
        raise ConfigError(f"no host in the node list {nodelist!r}; set MASTER_ADDR")
    return match.group(1) + (match.group(2) or "")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def init_distributed(timeout_seconds: float, nccl: Mapping[str, str] | None = None) -> Ranks:
    """Join the other processes: NCCL on CUDA, gloo on CPU. A collective that waits longer than the limit fails.

    Args:
        nccl: environment for NCCL, where the user has not set it.
    """
    os.environ.update(launcher_environment(dict(os.environ)))
    import torch

    on_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    import deepspeed

    # DeepSpeed 0.19 calls two collectives by the names that torch 2.13 is about to retire, and says so in every step.
    warnings.filterwarnings("ignore", message=".*torch.distributed.* is deprecated", category=FutureWarning)
    local_rank = int(os.environ["LOCAL_RANK"])
    if on_gpu:
        os.environ.update({name: value for name, value in (nccl or {}).items() if name not in os.environ})
        if record := os.environ.get("TORCH_FR_DUMP_TEMP_FILE"):
            Path(record).parent.mkdir(parents=True, exist_ok=True)  # NCCL writes there when a collective fails
        check_card(local_rank, torch.cuda.device_count())
        torch.cuda.set_device(local_rank)
    else:
        _use_plain_gloo(deepspeed)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            timeout=timedelta(seconds=timeout_seconds),
            verbose=False,
        )
    except RuntimeError as e:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} met nobody at {where} "
            f"within {timeout_seconds:.0f} s: check that all ranks started and that the port is free ({e})"
        ) from e
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)


def check_card(local_rank: int, visible: int) -> None:
    """Ranks take the cards of their node in order: card ``local_rank`` of ``visible``.

    Raises:
        ConfigError: there is none for this rank.
    """
    if local_rank >= visible:
        raise ConfigError(
            f"local rank {local_rank} sees {visible} GPU(s): give each process all GPUs of its node (Slurm: "
            "--gpus-per-node, not --gpus-per-task), or start no more processes than there are"
        )


def _use_plain_gloo(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory op at start-up.

    The build takes minutes, needs g++, and leaves a lock that hangs every later run when it is killed; plain gloo is no
    slower. There is no public switch; where the dict is gone the build happens, and nothing else changes.
    """
    ops = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(ops, dict) and "deepspeed_shm_comm" in ops:
        ops["deepspeed_shm_comm"] = False


# ----------------------------------------------------------------------------------------------------- configuration


def resolve_deepspeed(recipe: Recipe, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration: the recipe's JSON file with every ``"auto"`` filled in from the recipe.

    DeepSpeed drops an ``"auto"`` silently, so none may be left. What belongs to the recipe (batch sizes, learning
    rate, clipping …) must be ``"auto"`` or absent in the file: two places that can disagree would.
    """
    path = find_file(recipe.deepspeed)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ConfigError(f"DeepSpeed configuration {path}: {e}") from e
    _check_objects(config, path)
    if "scheduler" in config:
        raise ConfigError(f"{path}: no scheduler here, the learning rate is the recipe's (optimizer.*)")
    if own := [name for name in ("tensorboard", "wandb", "csv_monitor", "comet") if name in config]:
        raise ConfigError(f"{path}: no {' and no '.join(own)} here, monitors are the recipe's (monitor.*)")
    resolved = copy.deepcopy(config)
    for dotted, value in _recipe_owned(recipe, world_size).items():
        _fill(resolved, dotted, value, path)
    left = [dotted for dotted, value in _walk(resolved) if value == "auto"]
    if left:
        raise ConfigError(f'{path}: nothing fills the "auto" of {", ".join(left)}; write a value')
    return resolved


def _check_objects(config: Any, path: Path) -> None:
    """Refuse what is no JSON object where DeepSpeed takes one, and the old name of bf16, which it takes too."""
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is no JSON object")
    if "bfloat16" in config:
        raise ConfigError(f'{path}: bfloat16 is called "bf16"; rename it')
    objects = ("bf16", "fp16", "zero_optimization", "optimizer", "data_types", "activation_checkpointing")
    if wrong := [f"{name} is {config[name]!r}" for name in objects if not isinstance(config.get(name, {}), dict)]:
        raise ConfigError(f"{path}: {', '.join(wrong)}; a JSON object is wanted there, or leave it out")
    if not isinstance(config.get("optimizer", {}).get("params", {}), dict):
        raise ConfigError(f"{path}: optimizer.params is no JSON object")


def find_file(name: str) -> Path:
    """A path of a recipe: as given, or relative to the checkout."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else CHECKOUT / path


def accumulation_steps(micro_batches: int, world_size: int) -> int:
    """Micro-batches a rank takes in one global step: ceil(M / N)."""
    if world_size > micro_batches:
        raise ConfigError(
            f"{world_size} processes but data.micro_batches_per_step is {micro_batches}: "
            f"start at most {micro_batches} processes, or raise it (it changes a step: launch/recipes/README.md)"
        )
    return math.ceil(micro_batches / world_size)


def _recipe_owned(recipe: Recipe, world_size: int) -> dict[str, Any]:
    accumulate = accumulation_steps(recipe.data.micro_batches_per_step, world_size)
    o = recipe.optimizer
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "train_batch_size": accumulate * world_size,
        "gradient_clipping": o.clip,
        "optimizer.type": "AdamW",
        "optimizer.params.lr": o.start_lr,
        "optimizer.params.betas": list(o.betas),
        "optimizer.params.eps": o.eps,
        "optimizer.params.weight_decay": o.weight_decay,
        # A step's loss is one sum over all ranks: it must not be rounded on the way.
        "communication_data_type": "fp32",
        "data_types.grad_accum_dtype": "fp32",
    }


def _fill(config: dict[str, Any], dotted: str, value: Any, path: Path) -> None:
    *parents, leaf = dotted.split(".")
    node = config
    for name in parents:
        node = node.setdefault(name, {})
    if node.get(leaf, "auto") not in ("auto", value):
        raise ConfigError(f'{path}: {dotted} is {node[leaf]!r}, but the recipe says {value!r}; write "auto" there')
    node[leaf] = value


def _walk(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _walk(value, f"{prefix}{name}.")
    else:
        yield prefix.rstrip("."), node


def dtype_name(ds_config: dict[str, Any]) -> str:
    """Type of the weights in forward and backward: ``bfloat16`` or ``float32``. Their masters are always fp32."""
    if ds_config.get("fp16", {}).get("enabled"):
        raise ConfigError("fp16 is not supported: use bf16, or neither for fp32")
    return "bfloat16" if ds_config.get("bf16", {}).get("enabled") else "float32"


def zero_stage(ds_config: dict[str, Any]) -> int:
    """ZeRO stage, 0 where none is named."""
    return int(ds_config.get("zero_optimization", {}).get("stage", 0))


# ------------------------------------------------------------------------------------------------------ learning rate


def lr_at(step: int, o: OptimizerConfig, max_steps: int) -> float:
    """Learning rate of update ``step`` (from 0): linear from start_lr to peak_lr, then a cosine to final_lr.

    ``lr = start + (peak - start) · s / W`` for s < W; ``lr = final + (peak - final) · (1 + cos πt) / 2`` afterwards,
    with t from 0 at s = W to 1 at the last update.
    """
    if step < o.warmup_steps:
        return o.start_lr + (o.peak_lr - o.start_lr) * step / o.warmup_steps
    t = min(1.0, (step - o.warmup_steps) / max(1, max_steps - 1 - o.warmup_steps))
    return o.final_lr + (o.peak_lr - o.final_lr) * (1 + math.cos(math.pi * t)) / 2


def set_lr(engine: Any, lr: float) -> None:
    """Every parameter group gets ``lr`` for the next update, times its own factor (``optimizer.lr_factors``)."""
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group[LR_FACTOR]


# ------------------------------------------------------------------------------------------------------------- engine


def initialize(model: Any, ds_config: dict[str, Any], lr_factors: Mapping[str, float] = MappingProxyType({})) -> Any:
    """A DeepSpeed engine that updates exactly the parameters with ``requires_grad``.

    ``lr_factors``: of the learning rate, by module (:mod:`pipeline.stages`); parameters of one factor are one group.
    """
    import deepspeed

    groups: dict[float, list[Any]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault(lr_factors.get(module_of(name), 1.0), []).append(p)
    if not groups:
        raise TrainingError("no parameter is trainable in this stage")
    given = [{"params": params, LR_FACTOR: factor} for factor, params in groups.items()]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=given, config=ds_config)
    return engine


def release(engine: Any) -> None:
    """End an engine, so that its memory goes with the last name for it.

    DeepSpeed 0.19 keeps modules in a stack and in a cache of its own for as long as the process lives, and leaves
    classes that hold the optimizer in modules; an activation that is a default of FunASR's is part of every encoder.
    """
    from deepspeed.runtime.zero import parameter_offload

    modules = list(engine.module.modules())
    engine.destroy()
    for module in modules:
        for name in ("pre_bwd_fn", "post_bwd_fn"):
            vars(module).pop(name, None)
    getattr(parameter_offload, "FWD_MODULE_STACK", []).clear()
    for cache in [o for o in gc.get_objects() if isinstance(o, functools._lru_cache_wrapper)]:
        if str(getattr(cache, "__qualname__", "")).startswith("PartitionedParameterCoordinator."):
            cache.cache_clear()


def parameter_numel(p: Any) -> int:
    """Elements of the whole parameter, also where ZeRO-3 holds only a slice of it here."""
    return int(getattr(p, "ds_numel", p.numel()))


def trainable_table(model: Any, declared: frozenset[str]) -> str:
    """Parameters a module, learning and frozen; raises where ``requires_grad`` is not what the stage declares."""
    counts: dict[str, list[int]] = {}
    wrong = []
    for name, p in model.named_parameters():
        module = module_of(name)
        counts.setdefault(module, [0, 0])[0 if p.requires_grad else 1] += parameter_numel(p)
        if p.requires_grad != (module in declared):
            wrong.append(name)
    if wrong:
        raise TrainingError(
            f"{len(wrong)} parameters do not follow the stage's trainable set {sorted(declared)}, first: {wrong[0]}"
        )
    missing = declared - counts.keys()
    if missing:
        raise TrainingError(f"the stage trains {sorted(missing)}, but the model has no such module")
    rows = [f"  {m:<18}{'learns' if a else 'frozen':<8}{a + b:>15,}" for m, (a, b) in counts.items()]
    return "\n".join(["trainable set:", *rows])


def check_optimizer(engine: Any, model: Any) -> None:
    """The optimizer holds the trainable parameters, all of them, and nothing else (by number of elements)."""
    wanted = sum(parameter_numel(p) for p in model.parameters() if p.requires_grad)
    zero3 = getattr(engine.optimizer, "fp16_groups", None)
    if zero3 is not None and hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        held = sum(parameter_numel(p) for group in zero3 for p in group)
    else:
        groups = getattr(engine.optimizer, "bit16_groups", None) or [g["params"] for g in engine.optimizer.param_groups]
        held = sum(parameter_numel(p) for group in groups for p in group)
    if held != wanted:
        raise TrainingError(f"the optimizer holds {held:,} parameters, the stage trains {wanted:,}")


def describe(recipe_yaml: str, ds_config: dict[str, Any]) -> str:
    """What a run prints first: the resolved recipe and DeepSpeed configuration."""
    config = json.dumps(ds_config, indent=2)
    return f"# recipe, resolved\n{recipe_yaml}\n# DeepSpeed configuration, resolved\n{config}"


def say(ranks: Ranks, text: str) -> None:
    """One message of the run, from rank 0."""
    if ranks.is_first:
        print(text, file=sys.stdout, flush=True)
