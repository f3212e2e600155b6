"""Checkpoints of a run, as the trainer uses them: resume, save, finish."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.checkpoint import final_weights
from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import RunState
from pipeline.checkpoint.mirror import newest_local_or_mirrored, open_mirror
from pipeline.checkpoint.saver import Retention, Saver
from pipeline.ranks.stop import StopRequest
from pipeline.train.run import Run

logger = logging.getLogger(__name__)


class RunCheckpoints(Protocol):
    """Operations that the trainer needs, collective unless noted."""

    def resume(self) -> RunState | None:
        """Load the newest intact checkpoint into the engine; return None if there is no checkpoint."""
        ...

    def save(self, state: RunState) -> None:
        """Write a checkpoint; a background thread may finish it after this call has returned."""
        ...

    def wait(self) -> None:
        """Wait for a save in the background, and raise its error. Not collective."""
        ...

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed on this rank; :meth:`wait` raises its error. Not collective."""
        ...

    def take_stalled(self) -> float:
        """Return the seconds for which saving has blocked training since the last call. Not collective."""
        ...

    def finish_uploads(self, stop: StopRequest, beat: Callable[[str], None]) -> bool:
        """Wait until the copies to ``trainer.upload`` are finished; return False if a stop was requested first."""
        ...

    def write_final(self, stage: int, step: int) -> Path:
        """Write the stage's weights and, last, the ``done`` marker; return the path of the weights."""
        ...


class Checkpoints:
    """Checkpoints in ``OUTPUT/checkpoints``, with a copy in ``trainer.upload`` if it is set."""

    def __init__(self, run: Run) -> None:
        """Open the folder and its copy. Collective."""
        t = run.recipe.trainer
        self._run, self._output = run, Path(run.recipe.output)
        self._folder = self._output / "checkpoints"
        self._upload = open_mirror(t.upload, self._output)
        keep = Retention(t.keep_last, t.keep_best, t.keep_every, t.best_by)
        self.saver = Saver(self._folder, run.ranks, keep, t.save_in_background, self._upload, t.start_timeout_seconds)

    def resume(self) -> RunState | None:
        """Load the newest intact checkpoint into the engine; return None if there is no checkpoint.

        Raises:
            CheckpointError: every checkpoint is damaged, or it belongs to another stage, model or base weights.
        """
        run = self._run
        found = newest_local_or_mirrored(self._folder, run.ranks, self._upload, self._warn)
        if found is None:
            return None
        state = checkpoint.load(found, run.engine, run.ranks, run.recipe, run.bases, self._warn)
        logger.info("resumed from %s (step %d)", found, state.step)
        return state

    def save(self, state: RunState) -> None:
        """Write a checkpoint; a background thread may finish it after this call has returned."""
        self.saver.save(self._run.engine, state)

    def wait(self) -> None:
        """Wait for a save in the background, and raise its error."""
        self.saver.wait()

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed on this rank."""
        return self.saver.failed

    def take_stalled(self) -> float:
        """Return the seconds for which saving has blocked training since the last call."""
        return self.saver.take_stalled_seconds()

    def finish_uploads(self, stop: StopRequest, beat: Callable[[str], None]) -> bool:
        """Wait until the copies to ``trainer.upload`` are finished; return False if a stop was requested first."""
        return self.saver.finish_mirroring(stop, beat)

    def write_final(self, stage: int, step: int) -> Path:
        """Write the stage's weights and, last, the ``done`` marker; return the path of the weights."""
        run = self._run
        path = self._output / "weights" / "model.safetensors"
        digest = final_weights.save_weights(path, run.engine, run.ranks, run.source, run.bases)
        if run.ranks.is_first:
            done = {"stage": stage, "step": step, "weights_sha256": digest, "bases": run.bases}
            final_weights.write_done(self._output, done)
        return path

    def _warn(self, text: str) -> None:
        if self._run.ranks.is_first:
            logger.warning(text)
