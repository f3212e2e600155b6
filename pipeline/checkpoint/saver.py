"""When checkpoints are written and by whom: in a thread where memory allows, then rotated.

Training stops for the copy of this rank's slices into CPU memory. The thread writes, syncs and hashes the file; the
threads of all ranks agree over a process group of their own; rank 0 commits. A kill in the middle leaves a folder
without a name. What went wrong in the thread is raised in the main thread of every rank after the same step. Then
:mod:`pipeline.checkpoint.mirror_thread` takes over.
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
from pipeline.checkpoint.mirror import Upload
from pipeline.checkpoint.mirror_thread import Copies
from pipeline.ranks.collectives import all_gather_or_raise, broadcast_or_raise, host_group
from pipeline.ranks.launch import Ranks
from pipeline.ranks.stop import StopRequest
from shards.errors import CheckpointError, SpeakerLMError

logger = logging.getLogger(__name__)

SPARE = 2.0  # a background save wants so many times its size as free memory


@dataclass(frozen=True, slots=True)
class Retention:
    """Which checkpoints stay."""

    last: int = 3
    best: int = 1  # by the validation's figure
    every: int = 0  # also those whose step is a multiple of it; 0: none
    by: str = "loss"  # which figure: loss, cer, cpcer, sacer

    def doomed_of(self, manifests: Sequence[dict[str, Any]]) -> list[int]:
        """Steps to delete, of checkpoints' manifests."""
        return self.doomed([(int(m["step"]), (m.get("validation") or {}).get(self.by)) for m in manifests])

    def doomed(self, checkpoints: Sequence[tuple[int, float | None]]) -> list[int]:
        """Steps to delete, of (step, validation figure). The newest always stays."""
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
        self, folder: Path, ranks: Ranks, keep: Retention, background: str, upload: Upload | None, limit: float
    ) -> None:
        """Collective.

        Args:
            background: ``auto``, ``always`` or ``never``.
            limit: seconds that the threads may wait for each other.
        """
        self._folder, self._ranks, self._keep = folder, ranks, keep
        self._background = background
        self._told: set[str] = set()
        self._group = host_group(limit)
        self._copies = Copies(folder, ranks, upload, keep.doomed_of, self._warn_once, limit) if upload else None
        self._thread: threading.Thread | None = None
        self._error: SpeakerLMError | None = None
        self._stalled = 0.0
        if ranks.is_first:
            checkpoint.remove_leftovers(folder)

    @property
    def failed(self) -> bool:
        """A save in the background has ended badly; :meth:`wait` raises it."""
        return self._error is not None

    def take_stalled(self) -> float:
        """Seconds that training has stood still for saving since the last call."""
        stalled, self._stalled = self._stalled, 0.0
        return stalled

    def save(self, engine: Any, state: RunState) -> None:
        """Write one checkpoint, perhaps after this call has returned. Collective.

        Raises:
            CheckpointError: on every rank, if any rank could not write this one (or, in the background, the one
                before); nothing is committed then.
        """
        self.wait()
        began = time.perf_counter()
        try:
            held: list[Snapshot] = []
            self._on_first_rank(lambda: self._prepare(state))
            # A call of its own: under ZeRO-1 and -2 a snapshot is collective.
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
        """Until the save in the background, if there is one, has ended.

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

    def finish_copies(self, stop: StopRequest, beat: Callable[[str], None]) -> bool:
        """After :meth:`wait`: let the copies come to an end; whether they did. As :meth:`Copies.finish`. Collective."""
        return self._copies is None or self._copies.finish(stop, beat, self._group)

    def _prepare(self, state: RunState) -> None:
        partial = checkpoint.partial_of(self._folder, state.step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def _hold(self, engine: Any, held: list[Snapshot]) -> tuple[int, int]:
        """Copy this rank's slices; (bytes, free memory of this machine)."""
        held.append(checkpoint.snapshot(engine, self._ranks))
        return held[0].bytes, free_memory()

    def _in_background(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """The copy is held already; what must fit beside it is what training takes meanwhile."""
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
        partial = checkpoint.partial_of(self._folder, state.step)
        try:
            parts = self._on_all_ranks(lambda: checkpoint.write_rank_file(partial, held[0], self._ranks.rank), group)
            self._on_first_rank(lambda: checkpoint.commit(self._folder, state, parts), group)
        except SpeakerLMError:
            if self._ranks.is_first:
                shutil.rmtree(partial, ignore_errors=True)  # on a full disk the space is wanted
            raise
        finally:
            held.clear()
        seconds = time.perf_counter() - began
        path = self._folder / checkpoint.name_of(state.step)
        logger.info("saved %s (%.1f s + %.1f s)", path, copied, seconds)
        self._on_first_rank(self._rotate, group)
        if self._copies is not None:
            self._copies.start(state.step, group)

    def _on_all_ranks(self, work: Callable[[], Any], group: Any = None) -> list[Any]:
        return all_gather_or_raise(self._ranks, work, group, failure=CheckpointError)

    def _on_first_rank(self, work: Callable[[], Any], group: Any = None) -> None:
        broadcast_or_raise(self._ranks, work, group, failure=CheckpointError)

    def _rotate(self) -> None:
        """Delete checkpoints that retention does not keep."""
        copied = self._copies.step if self._copies else None
        for step in self._keep.doomed_of(self._usable()):
            if step != copied:  # it goes with the next rotation
                checkpoint.remove(self._folder / checkpoint.name_of(step))

    def _usable(self) -> list[dict[str, Any]]:
        """Manifests of checkpoints that look whole; one that does not is told, neither counted nor deleted."""
        found = []
        for name in checkpoint.complete_names(self._folder):
            path = self._folder / name
            try:
                manifest = checkpoint.read_manifest(path)
                for file, seal in manifest["files"].items():
                    if (path / file).stat().st_size != seal["bytes"]:
                        raise CheckpointError(f"{path / file} is not of {seal['bytes']} bytes")
            except (CheckpointError, OSError) as e:
                self._warn_once(f"neither counted nor deleted: {e}")
            else:
                found.append(manifest)
        return found

    def _warn_once(self, text: str) -> None:
        """What stays as it is is not told again with every checkpoint."""
        if text not in self._told:
            self._told.add(text)
            if self._ranks.is_first:
                logger.warning(text)


def free_memory() -> int:
    """Bytes that may still be taken here; a container's limit counts."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
