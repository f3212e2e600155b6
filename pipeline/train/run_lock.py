"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks, say
from shards.errors import ConfigError

LOCK = "lock"


@contextmanager
def locked(output: Path, ranks: Ranks) -> Iterator[None]:
    """Hold the output during the block; the system lets it go when the process ends, however it ends. Collective.

    The lock is of the kind that a forked loader process does not inherit: one that outlives a killed run by seconds
    must not keep the next one out.

    Raises:
        ConfigError: another run has it, which is named; or the folder cannot be written.
    """
    held: list[int] = []
    broadcast_or_raise(ranks, lambda: held.append(_take(output, ranks)))
    try:
        yield
    finally:
        for handle in held:
            os.close(handle)


def _take(output: Path, ranks: Ranks) -> int:
    path = output / LOCK
    try:
        output.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}; make {output} writable or set another output") from e
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EAGAIN):
            holder = _holder(handle)
            os.close(handle)
            raise ConfigError(f"{output} is being trained by {holder}; stop that run or set another output") from e
        say(ranks, f"WARNING {path}: {e.strerror}: this filesystem has no locks, nothing keeps a second run out")
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(_myself()).encode(), 0)
    os.fsync(handle)
    return handle


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _holder(handle: int) -> str:
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        job = f" (job {who['job']})" if who["job"] else ""
        return f"process {who['pid']} on {who['host']}{job} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
