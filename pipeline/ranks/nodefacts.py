"""Checks of one node without torch: disk, datasets, versions, GPUs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.errors import SpeakerLMError

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "numpy", "boto3")
NEEDED = ("index", "uuid", "name", "driver_version")  # fields that every nvidia-smi has
ERRORS = "ecc.errors.uncorrected.volatile.total"
SLOWED = (
    "clocks_event_reasons.hw_slowdown",
    "clocks_throttle_reasons.hw_slowdown",
)  # since driver 535, before
CARD_FIELDS = (*NEEDED, "memory.used", ERRORS, *SLOWED)
BUSY_MIB = 1024  # of a GPU's memory: another process uses it
SMI_S = 60.0


@dataclass(frozen=True)
class Fact:
    """One result of a check."""

    ok: bool
    text: str
    shared: str = ""  # the shared resource, if any, that was checked; if all nodes lack it, no node is at fault


def disk(folder: Path, gigabytes: float, shared: str = "") -> Fact:
    """Check free space, and that a file can be written, where a folder is or will be."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    probe = there / f".nodecheck-{platform.node()}-{time.time_ns()}"
    try:
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
        free = shutil.disk_usage(there).free / 1e9
    except OSError as e:
        return Fact(False, f"{there}: {e.strerror}: make it writable or name another folder", shared)
    text = f"{there}: {free:,.0f} GB free" + (f", {gigabytes:g} wanted" * (free < gigabytes))
    return Fact(free >= gigabytes, text, shared)


def dataset(path: str) -> Fact:
    """Check that a packed dataset's list and the head of its first shard can be read, and measure how fast."""
    from shards.dataset.dataset import open_dataset

    began = time.monotonic()
    try:
        found = open_dataset(path)
        found.storage.read_range(f"shards/{found.shards[0].name}.tar", 0, 512)
    except SpeakerLMError as e:
        return Fact(False, str(e), path)
    except IndexError:
        return Fact(False, f"{path} has no shard", path)
    return Fact(True, f"{path} answers in {time.monotonic() - began:.2f} s")


def versions(checkout: Path) -> dict[str, str]:
    """Return versions of Python and of packages, and a hash of this checkout's code and configurations."""
    found = {"python": platform.python_version(), "system": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    digest = hashlib.sha256()
    for folder in ("shards", "pipeline", "launch", "ds_configs"):
        for path in sorted((checkout / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".yaml"):
                digest.update(str(path.relative_to(checkout)).encode() + b"\0" + path.read_bytes())
    return found | {"code": digest.hexdigest()[:12]}


def cores(wanted: int) -> Fact:
    """Check the cores that this process may run on.

    Args:
        wanted: cores of a rank that the batch system allocated; 0 if it does not say.
    """
    found = len(os.sched_getaffinity(0))
    advice = f", {wanted} wanted: export SRUN_CPUS_PER_TASK before srun, or give srun --cpus-per-task"
    return Fact(found >= wanted, f"{found} cores for a rank" + advice * (found < wanted))


def own_cards(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return indices or UUIDs of the GPUs that this job may use, from Slurm's variables or CUDA's; empty: not said."""
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"):
        if listed := [part.strip() for part in env.get(name, "").split(",") if part.strip()]:
            ranges = [re.fullmatch(r"(\d+)-(\d+)", part) for part in listed]
            each = [range(int(r[1]), int(r[2]) + 1) if r else (part,) for r, part in zip(ranges, listed, strict=True)]
            return tuple(str(n) for numbers in each for n in numbers)
    return ()


def cards(wanted: int, mine: Sequence[str] = ()) -> tuple[list[Fact], dict[str, str]]:
    """Return the health of NVIDIA GPUs by nvidia-smi, and what must be equal on all nodes.

    Other jobs may use other GPUs of the node: only this job's own are judged. If they are not known, there must be as
    many idle ones as are wanted.

    Args:
        wanted: number of GPUs that the batch system allocated; 0 if none is needed.
        mine: indices or UUIDs of the GPUs that this job may use; empty: not known.
    """
    if shutil.which("nvidia-smi") is None:
        return [Fact(wanted == 0, "no nvidia-smi here" + (f", {wanted} cards wanted" if wanted else ""))], {}
    try:
        found, unknown = _query_cards()
    except subprocess.TimeoutExpired:
        return [Fact(False, f"nvidia-smi does not answer within {SMI_S:.0f} s: restart the node")], {}
    except OSError as e:
        return [Fact(False, f"nvidia-smi: {e}")], {}
    facts = [Fact(len(found) >= wanted, f"{len(found)} cards" + (f", {wanted} wanted" * (len(found) < wanted)))]
    if unknown:
        facts.append(Fact(True, f"not checked, because nvidia-smi has no such field: {', '.join(unknown)}"))
    own = [c for c in found if c["index"] in mine or c["uuid"] in mine]
    if (not own and not wanted) or len(found) <= wanted:
        own = found  # a container or cgroup shows no others, and numbers these from 0
    busy = [c for c in own or found if c["memory.used"].isdecimal() and int(c["memory.used"]) > BUSY_MIB]
    if not own and len(found) - len(busy) < wanted:
        facts.append(Fact(False, f"{len(found) - len(busy)} idle cards of {len(found)}, {wanted} wanted"))
    for c in own:
        name = f"card {c['index']} ({c['name']})"
        if c[ERRORS].isdecimal() and int(c[ERRORS]):
            facts.append(Fact(False, f"{name}: {c[ERRORS]} uncorrected memory errors: have it reset"))
        if "Active" in (c[field] for field in SLOWED):
            facts.append(Fact(False, f"{name} is slowed down by heat or power"))
        if c in busy:
            facts.append(Fact(False, f"{name} has {c['memory.used']} MiB in use by another process"))
    judged = own or found
    equal = {"cards": " ".join(sorted({c["name"] for c in judged}))}
    return facts, equal | {"driver": judged[0]["driver_version"] if judged else "none"}


def _query_cards() -> tuple[list[dict[str, str]], list[str]]:
    """Return a row (field → value) of each GPU, and the fields that no name of is known to this driver.

    nvidia-smi refuses a whole query for one field that its version does not know, and names that field.

    Raises:
        OSError: it failed for another reason.
        subprocess.TimeoutExpired: it does not answer.
    """
    fields = list(CARD_FIELDS)
    while True:
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=False)
        if not done.returncode:
            break
        said = (done.stdout + done.stderr).strip()
        refused = [f for f in fields if f'"{f}"' in said and f not in NEEDED]
        if not refused:
            raise OSError(said[:200])
        fields = [f for f in fields if f not in refused]
    lines = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    rows = [dict.fromkeys(CARD_FIELDS, "") | dict(zip(fields, line, strict=True)) for line in lines]
    unknown = [f for f in CARD_FIELDS if f not in fields and f not in SLOWED]
    if not set(SLOWED) & set(fields):
        unknown.append(SLOWED[0])
    return rows, unknown
