"""When checkpoints are copied away: in a thread of its own, so that no save, step or stop waits for another storage.

One checkpoint is copied at a time. One that is saved while another is on its way is left out, which is told; if it is
the last of the run, :meth:`Copies.finish` copies it too. Whatever goes wrong with a copy is told and stops nothing:
the checkpoint on disk is whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.mirror import Doomed, Upload
from pipeline.ranks.collectives import all_gather_or_raise, all_reduce_sum, host_group
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from shards.errors import SpeakerLMError, StorageError

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks whether a copy has ended


class Copies:
    """The copies of one run's checkpoints, as they are made."""

    def __init__(
        self, folder: Path, ranks: Ranks, upload: Upload, doomed: Doomed, warn: Callable[[str], None], limit: float
    ) -> None:
        """Collective.

        Args:
            doomed: which of the copies to delete afterwards.
            warn: told what is let alone then.
            limit: seconds that the threads may wait for each other.
        """
        self._folder, self._ranks, self._upload = folder, ranks, upload
        self._doomed, self._warn = doomed, warn
        self._group = host_group(limit)
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._left_out: int | None = None  # the same on every rank

    @property
    def step(self) -> int | None:
        """The checkpoint that is being copied, on this rank or another; it must stay on disk."""
        return self._step if self._thread is not None and self._thread.is_alive() else None

    def start(self, step: int, group: Any) -> None:
        """Begin with a committed checkpoint, unless another is on its way. Collective over ``group``."""
        if any(all_gather_or_raise(self._ranks, lambda: self.step is not None, group)):
            self._left_out = step
            self._tell(step, f"that of step {self._step} is still on its way there")
            return
        self._step, self._left_out = step, None
        self._thread = threading.Thread(target=self._copy, args=(step,), name="copies", daemon=True)
        self._thread.start()

    def finish(self, stop: StopRequest, beat: Callable[[str], None], group: Any) -> bool:
        """Wait until nothing is on its way any more, the newest checkpoint included; whether that came.

        Once somebody asks to stop, half of the margin is waited, no longer. Collective over ``group``: a signal may
        reach one rank alone.
        """
        began = time.monotonic()
        while True:
            if self._thread is not None:
                self._thread.join(LOOK)
            late = stop.is_set and time.monotonic() - began > stop.margin / 2
            copying, gives_up = all_reduce_sum(self._ranks, [float(self.step is not None), float(late)], group)
            beat("copying the last checkpoint away")
            if not copying:
                if self._left_out is None:
                    return True
                self.start(self._left_out, group)
            elif gives_up:
                self._log(f"no time is left to copy the last checkpoint to {self._upload.url}")
                return False

    def _copy(self, step: int) -> None:
        path = self._folder / checkpoint.name_of(step)
        try:
            self._together(lambda: self._upload.put_rank_file(path, self._ranks.rank))
            self._together(lambda: self._upload.commit(path) if self._ranks.is_first else None)
        except Exception as e:  # noqa: BLE001 - a copy is not worth the run
            self._tell(step, str(e))
            return
        try:
            rotate = self._upload.rotate
            self._together(lambda: rotate(self._doomed, self._warn) if self._ranks.is_first else None)
        except Exception as e:  # noqa: BLE001 - they cost money, not training; the next rotation tries again
            self._log(f"old checkpoints may be left in {self._upload.url}: {e}")

    def _together(self, work: Callable[[], None]) -> None:
        """All ranks do their part, or all know that one could not: none waits for a rank that has given up."""

        def told() -> None:
            try:
                work()
            except SpeakerLMError:
                raise
            except Exception as e:
                raise StorageError(f"{type(e).__name__}: {e}") from e

        all_gather_or_raise(self._ranks, told, self._group)

    def _tell(self, step: int, why: str) -> None:
        self._log(f"the checkpoint of step {step} is not in {self._upload.url}: {why}")

    def _log(self, warning: str) -> None:
        if self._ranks.is_first:
            logger.warning(warning)
