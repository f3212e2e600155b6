"""Process group: rank and world size from the launcher, rendezvous, backend, GPU of each rank.

torch and deepspeed are imported inside functions, so that ``--help`` and ``--dry-run`` cost nothing.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.ranks.interface import use_reachable_interface
from shards.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of this process, number of processes, and its device."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Rank 0, which writes what is written once."""
        return self.rank == 0


def launcher_environment(env: dict[str, str]) -> dict[str, str]:
    """Return the five variables of torch's ``env://`` rendezvous, for any launcher.

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
    """Return the first host of a Slurm node list: ``gpu[03-05,9],cpu1`` → ``gpu03``."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodelist)
    if not match:
        raise ConfigError(f"no host in the node list {nodelist!r}; set MASTER_ADDR")
    return match.group(1) + (match.group(2) or "")


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def init_distributed(timeout_seconds: float, nccl: Mapping[str, str] | None = None) -> Ranks:
    """Initialise the process group: NCCL on CUDA, gloo on CPU.

    Args:
        timeout_seconds: of the rendezvous and of each collective.
        nccl: environment variables for NCCL; those that the user has set are kept.

    Raises:
        ConfigError: the node has no GPU for this rank.
        TrainingError: the rendezvous failed.
    """
    os.environ.update(launcher_environment(dict(os.environ)))
    use_reachable_interface(os.environ)
    import torch

    on_gpu = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    import deepspeed

    # DeepSpeed 0.19 calls two collectives by the names that torch 2.13 deprecates, which warns in every step.
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
            f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}: rendezvous timed out at "
            f"{where} after {timeout_seconds:.0f} s: check that all ranks started and that the port is free ({e})"
        ) from e
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)


def check_card(local_rank: int, visible: int) -> None:
    """Check that GPU ``local_rank`` exists among the ``visible`` ones of this node.

    Raises:
        ConfigError: there are fewer GPUs than ranks.
    """
    if local_rank >= visible:
        raise ConfigError(
            f"local rank {local_rank} sees {visible} GPU(s): give each process all GPUs of its node (Slurm: "
            "--gpus-per-node, not --gpus-per-task), or start no more processes than there are"
        )


def _use_plain_gloo(deepspeed: Any) -> None:
    """Keep DeepSpeed from compiling its shared-memory op at start-up.

    The build takes minutes and needs g++; if it is killed, its lock hangs every later run. Plain gloo is as fast. There
    is no public switch; without this dict DeepSpeed compiles the op, and nothing else changes.
    """
    ops = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(ops, dict) and "deepspeed_shm_comm" in ops:
        ops["deepspeed_shm_comm"] = False
