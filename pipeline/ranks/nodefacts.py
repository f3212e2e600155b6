"""Checks of one node without torch: disk, datasets, versions, GPUs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from shards.errors import SpeakerLMError

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "numpy", "boto3")
CARD_FIELDS = (
    "name",
    "driver_version",
    "memory.used",
    "ecc.errors.uncorrected.volatile.total",
    "clocks_throttle_reasons.hw_slowdown",
)
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


def cards(wanted: int) -> tuple[list[Fact], dict[str, str]]:
    """Return the health of NVIDIA GPUs by nvidia-smi, and what must be equal on all nodes.

    Args:
        wanted: number of GPUs that the batch system allocated; 0 if none is needed.
    """
    if shutil.which("nvidia-smi") is None:
        return [Fact(wanted == 0, "no nvidia-smi here" + (f", {wanted} cards wanted" if wanted else ""))], {}
    command = ["nvidia-smi", f"--query-gpu={','.join(CARD_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=False)
    except subprocess.TimeoutExpired:
        return [Fact(False, f"nvidia-smi does not answer within {SMI_S:.0f} s: restart the node")], {}
    if done.returncode:
        return [Fact(False, f"nvidia-smi: {(done.stdout + done.stderr).strip()[:200]}")], {}
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    facts = [Fact(len(rows) >= wanted, f"{len(rows)} cards" + (f", {wanted} wanted" * (len(rows) < wanted)))]
    for number, (name, _, used, errors, slowed) in enumerate(rows):
        if errors.isdecimal() and int(errors):
            facts.append(Fact(False, f"card {number} ({name}): {errors} uncorrected memory errors: have it reset"))
        if slowed == "Active":
            facts.append(Fact(False, f"card {number} ({name}) is slowed down by heat or power"))
        if used.isdecimal() and int(used) > BUSY_MIB:
            facts.append(Fact(False, f"card {number} ({name}) has {used} MiB in use by another process"))
    return facts, {"cards": " ".join(sorted({row[0] for row in rows})), "driver": rows[0][1] if rows else "none"}
