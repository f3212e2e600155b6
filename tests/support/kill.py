"""kill -9 of a packer at random moments, and what the packer was doing then.

A server process imports everything once and forks a packer for each trial. In it the storage's calls are wrapped to
write the name of the running phase into a byte of shared memory, which survives the kill.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LATE = 5  # times that a kill is tried before it may be too late
PHASES = ("starting", "planning", "write", "upload", "complete", "commit", "merge", "done", "failed")


class Phase:
    """One byte that a process and its children share."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self, name: str) -> None:
        self._byte[0] = PHASES.index(name)

    def __str__(self) -> str:
        return PHASES[self._byte[0]]

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """The phase before comes back at the end."""
        before = str(self)
        self.set(name)
        yield
        self.set(before)


class Killer:
    """Runs ``speakerlm-shards`` with these arguments in forked processes. Use in a process without threads."""

    def __init__(self) -> None:
        self.phase = Phase()
        self.writing = 0.0

    def run(self, arguments: Sequence[str], after: float | None = None, *, of_writing: bool = False) -> str:
        """Run, and kill -9 `after` so many seconds, counted from the first write with `of_writing`.

        Returns the phase in which it ended. :attr:`writing` is how long it ran from the first write to the merge.
        """
        self.phase.set("starting")
        pid = os.fork()
        if pid == 0:
            self._child(arguments)
        if of_writing or after is None:
            self._wait_while("starting", "planning")
        begin = time.monotonic()
        if after is None:
            self._wait_while(*PHASES[: PHASES.index("merge")])
            self.writing = time.monotonic() - begin
        else:
            time.sleep(after)
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return str(self.phase)

    def _wait_while(self, *phases: str) -> None:
        while str(self.phase) in phases:
            time.sleep(0.002)

    def _child(self, arguments: Sequence[str]) -> None:
        from shards.cli import main

        code = 1
        try:
            with contextlib.redirect_stdout(None), Path(os.devnull).open("w") as null:
                os.dup2(null.fileno(), 1)
                code = main(arguments)
            self.phase.set("failed" if code else "done")
        finally:
            os._exit(code)

    def instrument(self, part_bytes: int | None) -> None:
        """Wrap what the phases are; a small `part_bytes` makes uploads of many parts of small shards."""
        import shards.packing.pack
        import shards.storage.s3_upload
        from shards.dataset.writer import ShardWriter
        from shards.storage.local import LocalStorage
        from shards.storage.s3 import S3Storage
        from shards.storage.s3_upload import Upload

        if part_bytes:
            shards.storage.s3_upload.PART_BYTES = part_bytes
        self._wrap(shards.packing.pack, "plan", "planning")
        self._wrap(shards.packing.pack, "merge", "merge")
        self._wrap(Upload, "_send_part", "upload")
        self._wrap(Upload, "finish", "complete")
        for storage in (LocalStorage, S3Storage):
            self._wrap(storage, "commit", "commit")
        enter, leave = ShardWriter.__enter__, ShardWriter.__exit__

        def entered(writer: ShardWriter) -> ShardWriter:
            self.phase.set("write")
            return enter(writer)

        def left(writer: ShardWriter, *error: Any) -> None:
            leave(writer, *error)
            self.phase.set("planning")

        ShardWriter.__enter__, ShardWriter.__exit__ = entered, left  # type: ignore[method-assign]

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.phase.during(phase):
                return real(*args, **kwargs)

        setattr(owner, name, wrapped)


def _trials(job: dict[str, Any]) -> list[tuple[str, float, str]]:
    os.environ.update(job["environment"])
    killer = Killer()
    killer.instrument(job["part_bytes"])
    rng = random.Random(job["seed"])

    def run(out: str, after: float | None = None, *, of_writing: bool = False) -> str:
        return killer.run(["pack", job["manifest"], out, *job["options"]], after, of_writing=of_writing)

    spans, results = [], []
    for out in (f"{job['whole']}-before", job["whole"]):  # the first requests to a server are slow
        assert run(out) == "done"
        spans.append(killer.writing)
    writing = min(spans)
    for number, out in enumerate(job["outs"]):
        anywhere = number % 7 == 6
        for late in range(1 if anywhere else LATE):
            name = f"{out}-{late}" if late else out
            after = rng.uniform(0, 1.3 if anywhere else 0.85) * writing
            phase = run(name, after, of_writing=not anywhere)
            assert run(name) == "done"
            if phase not in ("merge", "done"):
                break
            writing *= 0.9  # too late to meet a write: the machine got faster
        results.append((phase, after, name))
    return results


def kill_at_random(
    manifest: str | Path,
    whole: str,
    outs: Sequence[str],
    options: Sequence[str],
    *,
    seed: int,
    environment: dict[str, str] | None = None,
    part_bytes: int | None = None,
) -> list[tuple[str, float, str]]:
    """Pack to `whole` undisturbed; to each of `outs` with one kill at a random moment of that time, then a rerun.

    Of seven kills one comes at any moment, six come between the first write and the merge: one that is too late is
    repeated, with another output. Returns for each the phase that it came in, after how many seconds, and the output.
    """
    job = {
        "manifest": str(manifest),
        "whole": whole,
        "outs": list(outs),
        "options": list(options),
        "seed": seed,
        "environment": environment or {},
        "part_bytes": part_bytes,
    }
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_trials, (job,))
