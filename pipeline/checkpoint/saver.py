"""Asynchronous saving and rotation of checkpoints.

Training stops for the copy of this rank's slices into CPU memory. A thread writes, syncs and hashes the file, if memory
allows; the threads of all ranks synchronise over a separate process group; rank 0 commits. A kill in between leaves an
uncommitted folder. An error in the thread is raised in the main thread of every rank after the same step. Then
:mod:`pipeline.checkpoint.mirror_thread` copies the checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint import format as checkpoint
from pipeline.checkpoint.format import RunState, Snapshot
from pipeline.checkpoint.mirror import Mirror
from pipeline.checkpoint.mirror_thread import MirrorThread
from pipeline.ranks.collectives import all_gather_or_raise, broadcast_or_raise, host_group
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from shards.errors import CheckpointError, SpeakerLMError

logger = logging.getLogger(__name__)

SPARE = 2.0  # free memory for a background save, as a multiple of its size


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints are kept."""

    last: int = 3
    best: int = 1  # by the validation's figure
    every: int = 0  # also those whose step is a multiple of it; 0: none
    by: str = "loss"  # which figure: loss, cer, cpcer, sacer, der

    def to_delete_of(self, manifests: Sequence[dict[str, Any]]) -> list[int]:
        """Return the steps to delete, given the manifests of all checkpoints."""
        return self.to_delete([(int(m["step"]), (m.get("validation") or {}).get(self.by)) for m in manifests])

    def to_delete(self, checkpoints: Sequence[tuple[int, float | None]]) -> list[int]:
        """Return the steps to delete, given (step, validation figure) of all checkpoints. The newest is always kept."""
        steps = sorted(step for step, _ in checkpoints)
        kept = set(steps[-max(1, self.last) :])
        ranked = sorted((loss, step) for step, loss in checkpoints if loss is not None)
        kept |= {step for _, step in ranked[: self.best]}
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        return [step for step in steps if step not in kept]


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(
        self, folder: Path, ranks: Ranks, keep: Retention, background: str, mirror: Mirror | None, limit: float
    ) -> None:
        """Collective.

        Args:
            background: ``auto``, ``always`` or ``never``.
            limit: timeout of the threads' collectives, in seconds.
        """
        self._folder, self._ranks, self._keep = folder, ranks, keep
        self._background = background
        self._warned: set[str] = set()
        self._group = host_group(limit)
        self._mirror = (
            MirrorThread(folder, ranks, mirror, keep.to_delete_of, self._warn_once, limit) if mirror else None
        )
        self._thread: threading.Thread | None = None
        self._error: SpeakerLMError | None = None
        self._stalled = 0.0
        if ranks.is_first:
            checkpoint.remove_leftovers(folder)

    @property
    def failed(self) -> bool:
        """Whether a save in the background has failed; :meth:`wait` raises its error."""
        return self._error is not None

    def take_stalled_seconds(self) -> float:
        """Return the seconds that training has waited for saving since the last call."""
        stalled, self._stalled = self._stalled, 0.0
        return stalled

    def save(self, engine: Any, state: RunState) -> None:
        """Write one checkpoint, possibly after this call has returned. Collective.

        Raises:
            CheckpointError: on every rank, if any rank could not write this one (or, in the background, the one
                before); nothing is committed then.
        """
        self.wait()
        began = time.perf_counter()
        try:
            held: list[Snapshot] = []
            self._on_first_rank(lambda: self._prepare(state))
            # A separate call: under ZeRO-1 and -2 a snapshot is collective.
            sizes = self._on_all_ranks(lambda: self._hold(engine, held))
            copied = time.perf_counter() - began
            if self._in_background(sizes):
                self._thread = threading.Thread(target=self._guarded, args=(held, state, copied), name="saver")
                self._thread.daemon = True  # a run that fails does not wait for it
                self._thread.start()
            else:
                self._write(held, state, copied)
        finally:
            self._stalled += time.perf_counter() - began

    def wait(self) -> None:
        """Wait for the save in the background, if any.

        Raises:
            CheckpointError: it failed; the same on every rank.
        """
        began = time.perf_counter()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._stalled += time.perf_counter() - began
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish_mirroring(self, stop: StopRequest, beat: Callable[[str], None]) -> bool:
        """After :meth:`wait`: wait for the copies, as :meth:`MirrorThread.finish`. Collective."""
        return self._mirror is None or self._mirror.finish(stop, beat, self._group)

    def _prepare(self, state: RunState) -> None:
        partial = checkpoint.partial_folder(self._folder, state.step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def _hold(self, engine: Any, held: list[Snapshot]) -> tuple[int, int]:
        """Copy this rank's slices; return (bytes, free memory of this machine)."""
        held.append(checkpoint.snapshot(engine, self._ranks))
        return held[0].bytes, free_memory()

    def _in_background(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Return whether to save in the background; the copy is made already, training needs memory in addition."""
        fits = all(free > (SPARE - 1) * size * len(sizes) for size, free in sizes)
        return self._background == "always" or (self._background == "auto" and fits)

    def _guarded(self, held: list[Snapshot], state: RunState, copied: float) -> None:
        try:
            self._write(held, state, copied)
        except SpeakerLMError as e:
            self._error = e
        except Exception as e:  # noqa: BLE001 - a thread's error is lost where the main thread does not raise it
            why = f"{type(e).__name__}: {e}"
            self._error = CheckpointError(f"the checkpoint of step {state.step} was not finished: {why}")
            self._error.__cause__ = e

    def _write(self, held: list[Snapshot], state: RunState, copied: float) -> None:
        began, group = time.perf_counter(), self._group
        partial = checkpoint.partial_folder(self._folder, state.step)
        try:
            parts = self._on_all_ranks(lambda: checkpoint.write_rank_file(partial, held[0], self._ranks.rank), group)
            self._on_first_rank(lambda: checkpoint.commit(self._folder, state, parts), group)
        except SpeakerLMError:
            if self._ranks.is_first:
                shutil.rmtree(partial, ignore_errors=True)  # frees the space on a full disk
            raise
        finally:
            held.clear()
        seconds = time.perf_counter() - began
        path = self._folder / checkpoint.folder_name(state.step)
        logger.info("saved %s (%.1f s + %.1f s)", path, copied, seconds)
        self._on_first_rank(self._rotate, group)
        if self._mirror is not None:
            self._mirror.start(state.step, group)

    def _on_all_ranks(self, work: Callable[[], Any], group: Any = None) -> list[Any]:
        return all_gather_or_raise(self._ranks, work, group, failure=CheckpointError)

    def _on_first_rank(self, work: Callable[[], Any], group: Any = None) -> None:
        broadcast_or_raise(self._ranks, work, group, failure=CheckpointError)

    def _rotate(self) -> None:
        """Delete checkpoints that retention does not keep."""
        copied = self._mirror.step if self._mirror else None
        for step in self._keep.to_delete_of(self._usable()):
            if step != copied:  # the next rotation deletes it
                checkpoint.remove(self._folder / checkpoint.folder_name(step))

    def _usable(self) -> list[dict[str, Any]]:
        """Return manifests of checkpoints that look intact; others are logged, then ignored."""
        found = []
        for name in checkpoint.committed_names(self._folder):
            path = self._folder / name
            try:
                manifest = checkpoint.read_manifest(path)
                for file, expected in manifest["files"].items():
                    if (path / file).stat().st_size != expected["bytes"]:
                        raise CheckpointError(f"{path / file} does not have {expected['bytes']} bytes")
            except (CheckpointError, OSError) as e:
                self._warn_once(f"ignored in rotation: {e}")
            else:
                found.append(manifest)
        return found

    def _warn_once(self, text: str) -> None:
        """Log a warning on the first rank, but not again with every checkpoint."""
        if text not in self._warned:
            self._warned.add(text)
            if self._ranks.is_first:
                logger.warning(text)


def free_memory() -> int:
    """Return the free memory of this machine in bytes, within a container's limit."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
