"""Log files, one per rank: ``OUTPUT/logs/rank-0000.log`` and so on; a restarted run appends to them.

Log records go to stdout: all from INFO on the first rank, warnings on the others, with ``[rank R]`` in front. What the
first rank writes to stdout also goes to the terminal; of the other ranks only stderr does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.ranks.launch import launcher_environment
from shards.commands import LineFormatter, StandardStream, project_logging
from shards.errors import SpeakerLMError


class Tee:
    """A text stream that also writes to a file, which may change. Progress bars are not written to the file."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        """``shown``: what is written also goes to ``stream``."""
        self._stream, self._shown = stream, shown
        self.file: TextIO | None = None

    def write(self, text: str) -> int:
        """Write as a text stream does."""
        if self._shown or self.file is None:
            self._stream.write(text)
        if self.file is not None and "\r" not in text:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed file: the terminal has it
                self.file.write(text)
                self.file.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the stream; the file is flushed with every write."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def rank_logging(output: Path) -> Iterator[None]:
    """Log of this rank during the block: records to stdout, stdout and stderr also to the rank's file of the run.

    If the folder cannot be written, the block runs without a file; the first write to the output reports the error.
    """
    try:
        place = launcher_environment(dict(os.environ))
    except SpeakerLMError:  # init_distributed reports it
        yield
        return
    rank, world = int(place["RANK"]), int(place["WORLD_SIZE"])
    with _tee(output / "logs" / f"rank-{rank:04d}.log", rank, world), log_records_of(rank):
        yield


@contextlib.contextmanager
def log_records_of(rank: int) -> Iterator[None]:
    """Log records of this project to stdout during the block: INFO on rank 0, warnings with the rank on others."""
    handler = StandardStream("stdout")
    handler.setFormatter(LineFormatter(f"[rank {rank}] " if rank else "", "WARNING "))
    with project_logging(handler, logging.WARNING if rank else logging.INFO):
        yield


@contextlib.contextmanager
def _tee(path: Path, rank: int, world: int) -> Iterator[None]:
    """Copy stdout and stderr to a file during the block, where it can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="replace")
    except OSError:
        yield
        return
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    file.write(f"--- {now}: rank {rank} of {world} on {socket.gethostname()}, process {os.getpid()}\n")
    # Logging handlers of libraries keep the stream that they saw first: it stays and changes its file.
    if not isinstance(sys.stdout, Tee):
        sys.stdout, sys.stderr = Tee(sys.stdout, shown=rank == 0), Tee(sys.stderr, shown=True)
    tees = [s for s in (sys.stdout, sys.stderr) if isinstance(s, Tee)]
    for tee in tees:
        tee.file = file
    try:
        yield
    finally:
        for tee in tees:
            tee.file = None
        file.close()
