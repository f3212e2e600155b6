"""A log file for each rank: ``OUTPUT/logs/rank-0000.log`` and so on, continued by a run that is started again.

The first rank's output goes to the terminal too. Of the others only errors do: what is printed is for the file.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pipeline.ranks.launch import launcher_environment
from shards.errors import SpeakerLMError


class Tee:
    """A text stream that also writes to a file, which may change. Progress bars stay on the terminal."""

    def __init__(self, stream: TextIO, *, shown: bool) -> None:
        """``shown``: what is written also goes to ``stream``."""
        self._stream, self._shown = stream, shown
        self.file: TextIO | None = None

    def write(self, text: str) -> int:
        """As a stream's."""
        if self._shown or self.file is None:
            self._stream.write(text)
        if self.file is not None and "\r" not in text:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed file: the terminal has it
                self.file.write(text)
                self.file.flush()
        return len(text)

    def flush(self) -> None:
        """As a stream's."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def logged(output: Path) -> Iterator[None]:
    """Keep what this process says during the block in its rank's file of a run's folder.

    A folder that cannot be written does not keep the run from starting: who needs it says so later.
    """
    try:
        place = launcher_environment(dict(os.environ))
    except SpeakerLMError:  # told by who joins the others
        yield
        return
    rank, world = int(place["RANK"]), int(place["WORLD_SIZE"])
    try:
        path = output / "logs" / f"rank-{rank:04d}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="replace")
    except OSError:
        yield
        return
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    file.write(f"--- {now}: rank {rank} of {world} on {socket.gethostname()}, process {os.getpid()}\n")
    # Logging handlers of libraries hold on to the stream that they met first: it stays and changes its file.
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
