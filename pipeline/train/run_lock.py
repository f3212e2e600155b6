"""Lock of a run's output folder: one run at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.ranks.collectives import broadcast_or_raise
from pipeline.ranks.launch import Ranks
from shards.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = "lock"


@contextmanager
def locked(output: Path, ranks: Ranks) -> Iterator[None]:
    """Lock the output folder during the block. The system releases the lock when the process ends. Collective.

    A POSIX record lock is not inherited by forked loader processes: one that outlives a killed run by seconds must not
    block the next run.

    Raises:
        ConfigError: another run holds the lock (the error names it), or the folder cannot be written.
    """
    held: list[int] = []
    broadcast_or_raise(ranks, lambda: held.append(_lock(output)))
    try:
        yield
    finally:
        for handle in held:
            os.close(handle)


def _lock(output: Path) -> int:
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
        logger.warning("%s: %s: this filesystem has no locks; nothing prevents a second run here", path, e.strerror)
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
