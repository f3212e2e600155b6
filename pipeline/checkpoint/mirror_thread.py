"""Thread that copies checkpoints to a mirror, so that no save, step or stop waits for another storage.

One checkpoint is copied at a time. One that is saved during a copy is skipped with a warning; if it is the last of the
run, :meth:`MirrorThread.finish` copies it too. A copy that fails is a warning: the checkpoint on disk is intact.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.mirror import Mirror, StepsToDelete
from pipeline.ranks.collectives import all_gather_or_raise, all_reduce_sum, host_group
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from shards.errors import SpeakerLMError, StorageError

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between checks whether a copy has ended


class MirrorThread:
    """Copies one run's checkpoints in the background."""

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        mirror: Mirror,
        to_delete: StepsToDelete,
        warn: Callable[[str], None],
        limit: float,
    ) -> None:
        """Collective.

        Args:
            to_delete: the retention, which selects copies to delete afterwards.
            warn: called with the text of a warning.
            limit: timeout of the threads' collectives, in seconds.
        """
        self._folder, self._ranks, self._mirror = folder, ranks, mirror
        self._to_delete, self._warn = to_delete, warn
        self._group = host_group(limit)
        self._thread: threading.Thread | None = None
        self._step: int | None = None
        self._skipped: int | None = None  # step; the same on every rank

    @property
    def step(self) -> int | None:
        """The checkpoint that is being copied, which must stay on disk."""
        return self._step if self._thread is not None and self._thread.is_alive() else None

    def start(self, step: int, group: Any) -> None:
        """Start to copy a committed checkpoint, unless a copy is in progress. Collective over ``group``."""
        if any(all_gather_or_raise(self._ranks, lambda: self.step is not None, group)):
            self._skipped = step
            self._warn_missing(step, f"that of step {self._step} is still being copied")
            return
        self._step, self._skipped = step, None
        self._thread = threading.Thread(target=self._copy, args=(step,), name="mirror", daemon=True)
        self._thread.start()

    def finish(self, stop: StopRequest, beat: Callable[[str], None], group: Any) -> bool:
        """Wait until all copies are complete, the newest checkpoint included; return whether they are.

        After a stop request it waits for half of the margin. Collective over ``group``: a signal may reach only one
        rank.
        """
        began = time.monotonic()
        while True:
            if self._thread is not None:
                self._thread.join(POLL)
            late = stop.is_set and time.monotonic() - began > stop.margin / 2
            copying, gives_up = all_reduce_sum(self._ranks, [float(self.step is not None), float(late)], group)
            beat("copying the last checkpoint")
            if not copying:
                if self._skipped is None:
                    return True
                self.start(self._skipped, group)
            elif gives_up:
                self._log(f"no time left to copy the last checkpoint to {self._mirror.url}")
                return False

    def _copy(self, step: int) -> None:
        path = self._folder / checkpoint.folder_name(step)
        try:
            self._together(lambda: self._mirror.put_rank_file(path, self._ranks.rank))
            self._together(lambda: self._mirror.commit(path) if self._ranks.is_first else None)
        except Exception as e:  # noqa: BLE001 - a copy is not worth the run
            self._warn_missing(step, str(e))
            return
        try:
            rotate = self._mirror.rotate
            self._together(lambda: rotate(self._to_delete, self._warn) if self._ranks.is_first else None)
        except Exception as e:  # noqa: BLE001 - not worth the run; the next rotation tries again
            self._log(f"old checkpoints may be left in {self._mirror.url}: {e}")

    def _together(self, work: Callable[[], None]) -> None:
        """Call ``work`` on all ranks; if it fails on one, raise on all, so that none waits for it."""

        def guarded() -> None:
            try:
                work()
            except SpeakerLMError:
                raise
            except Exception as e:
                raise StorageError(f"{type(e).__name__}: {e}") from e

        all_gather_or_raise(self._ranks, guarded, self._group)

    def _warn_missing(self, step: int, why: str) -> None:
        self._log(f"the checkpoint of step {step} is not in {self._mirror.url}: {why}")

    def _log(self, warning: str) -> None:
        if self._ranks.is_first:
            logger.warning(warning)
