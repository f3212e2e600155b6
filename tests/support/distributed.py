"""Run a function on several gloo processes, each with its own output, none left behind.

Ranks are forked from a server process that has imported what they need (:mod:`tests.support.preload`, 8 s of CPU), so a
group of ranks starts in about a second. All tests of a pytest process share the server. ``run_command`` starts real
processes instead, for what people start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.ranks.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
GRACE = 20.0  # seconds that ranks get to say something after one of them has failed


@dataclass(frozen=True)
class Fate:
    """How a rank ended."""

    code: int | None  # None: it was killed, because the time was up
    output: str


def run_distributed(fn: Callable[..., Any], world_size: int = 2, timeout: float = 120, **arguments: Any) -> list[str]:
    """Run a module-level function on ``world_size`` ranks; returns each rank's output. Any failure fails the test."""
    fates = run_ranks(fn, world_size, timeout, **arguments)
    if any(f.code != 0 for f in fates):
        pytest.fail(report(fates), pytrace=False)
    return [f.output for f in fates]


def run_ranks(fn: Callable[..., Any], world_size: int = 2, timeout: float = 120, **arguments: Any) -> list[Fate]:
    """As :func:`run_distributed`, but a failing rank is a result, not a failure."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preload"])
    port = str(free_port())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _environment(CPU):
        outputs = [Path(folder) / f"rank{r}.txt" for r in range(world_size)]
        processes = [
            context.Process(target=_rank, args=(fn, arguments, r, world_size, port, str(outputs[r])))
            for r in range(world_size)
        ]
        for p in processes:
            p.start()
        codes = _wait([lambda p=p: p.exitcode for p in processes], [p.pid for p in processes], timeout)
        for p in processes:
            p.join()
        return [Fate(code, _read(path)) for code, path in zip(codes, outputs, strict=True)]


def run_command(command: list[str], timeout: float = 120, env: dict[str, str] | None = None) -> Fate:
    """Run one real process (a launcher, a script) on the CPU and end all that it started."""
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, **CPU, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = _wait([process.poll], [process.pid], timeout)[0]
        process.wait()
        file.seek(0)
        return Fate(code, file.read().decode(errors="replace"))


def report(fates: list[Fate]) -> str:
    """All ranks' ends and outputs."""
    ends = ["killed, time is up" if f.code is None else f"exit {f.code}" for f in fates]
    outputs = [f"--- output of rank {i} ---\n{f.output[-6000:]}" for i, f in enumerate(fates)]
    return "\n".join([*(f"rank {i}: {end}" for i, end in enumerate(ends)), *outputs])


def _wait(polls: list[Callable[[], int | None]], pids: list[int | None], timeout: float) -> list[int | None]:
    """Exit codes; when the time is up, or some time after a first failure, whole process groups are killed."""
    end = time.monotonic() + timeout
    while any(poll() is None for poll in polls) and time.monotonic() < end:
        if any(poll() not in (None, 0) for poll in polls):
            end = min(end, time.monotonic() + GRACE)
            polls_left = [poll for poll in polls if poll() is None]
            while polls_left and time.monotonic() < end:
                time.sleep(0.05)
                polls_left = [poll for poll in polls_left if poll() is None]
            break
        time.sleep(0.05)
    codes = [poll() for poll in polls]
    for pid in pids:
        try:
            os.killpg(pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    return codes


def _rank(
    fn: Callable[..., Any], arguments: dict[str, Any], rank: int, world_size: int, port: str, output: str
) -> None:
    """What one forked process does."""
    os.setsid()
    handle = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ.update({**CPU, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
    tempfile.tempdir = os.environ["TMPDIR"] = str(Path(output).parent)  # os._exit leaves temporary folders, as wandb's
    os.chdir(ROOT)
    try:
        from pipeline.ranks.rank_log import log_records_of

        with log_records_of(rank):
            code = fn(**arguments)
    except BaseException:  # noqa: BLE001 - the process ends here
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)  # threads of gloo and engines have nothing left to say


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The server inherits the environment of the moment it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def kill_rank_1_before(step: int, saved: Path) -> None:
    """Let this process, if it is rank 1, kill itself before an update, when an earlier save is whole.

    Saves are written in the background, by both ranks.

    Args:
        saved: folder of that checkpoint.
    """
    from pipeline.train.trainer import Trainer

    if os.environ["RANK"] != "1":
        return
    update = Trainer.update

    def killed(self: Trainer, *args: Any) -> Any:
        if self.step + 1 == step:
            self.checkpoints.wait()
            until = time.monotonic() + 100
            while not (saved / "manifest.json").exists():
                assert time.monotonic() < until, saved
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *args)

    Trainer.update = killed  # type: ignore[method-assign]
