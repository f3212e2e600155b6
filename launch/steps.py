"""Run commands once, each behind those that it needs, with what they print in logs.

Every step is a command that you could type. It runs once, and a second call resumes where the first one stopped: a step
is done when its proof, a file, exists.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",  # two processes on two cores
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_MAX_": "0",  # glibc keeps large blocks: a step's tensors are not returned and fetched again
    "MALLOC_TRIM_THRESHOLD_": str(10**10),
}
AT_ONCE = 2  # steps that run at the same time
TAIL = 15  # lines of a failed step's log that are shown
POLL_SECONDS = 0.1
MEASURED_SECONDS = 20.0  # of expected work that must have run before the time that is left is shown


@dataclass(frozen=True)
class Step:
    """One command and the file that proves it finished."""

    name: str
    command: tuple[str, ...]
    proof: Path
    hint: str = "the log says why; after that, `{again}` continues from this step"
    prints_proof: bool = False  # what the command prints is kept as its proof
    seconds: float | None = None  # that it takes on two cores of a server, for the time that is left
    after: tuple[str, ...] | None = None  # names of the steps that it needs; None: all steps before it


def run_steps(
    steps: Iterable[Step], logs: Path, cache: Path, again: str, settings: Mapping[str, str] = ENVIRONMENT
) -> None:
    """Run the steps that have not run yet: in order, and a few at a time where they do not need one another.

    After a failure no further step starts, those that run end first, and the process exits with the failed one's log.

    Args:
        cache: where packages, weights and embeddings are kept.
        again: the command that continues after a failure, for its hint.
        settings: environment variables of the commands.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **settings, "SPEAKERLM_CACHE": str(cache.resolve())}
    steps = list(steps)
    progress = Progress(steps)
    waiting = [step for step in steps if not progress.has(step)]
    jobs: list[_Job] = []
    failed: tuple[_Job, str] | None = None
    try:
        while jobs or (waiting and not failed):
            while not failed and len(jobs) < AT_ONCE and (ready := progress.ready(waiting)):
                waiting.remove(ready)
                jobs.append(_Job(ready, logs / f"{_file_name(ready.name)}.log", environment))
            for job in _ended(jobs):
                jobs.remove(job)
                if why := job.failure():
                    failed = failed or (job, why)
                else:
                    progress.ended(job.step, job.seconds())
            progress.running(jobs)
    except KeyboardInterrupt:
        names = " and ".join(job.step.name for job in jobs)
        _terminate(jobs)
        sys.exit(f"\nstopped during: {names}; `{again}` continues from here")
    if failed:
        job, why = failed
        lines = job.log.read_text(errors="replace").splitlines()[-TAIL:]
        print("\n".join(["", *(f"    {line}" for line in lines), ""]), file=sys.stderr)
        sys.exit(f"FAILED: {job.step.name} ({why})\n  log:  {job.log}\n  next: {job.step.hint.format(again=again)}")


class Progress:
    """Which step of how many, and how long is left. A line for every step that has ended."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._ended: set[str] = set()
        self._start = time.monotonic()
        self._expected = 0.0  # seconds of the steps that have run in this call

    def has(self, step: Step) -> bool:
        """Whether an earlier call has run the step; prints its line then."""
        if found := step.proof.exists():
            self._ended.add(step.name)
            print(f"  have  {self._place(step)}", flush=True)
        return found

    def ended(self, step: Step, seconds: float) -> None:
        """Print the line of a step that took so many seconds; on a terminal, over the one of those that run."""
        self._ended.add(step.name)
        self._expected += step.seconds or 0.0
        start, end = ("\r", "\033[K") if sys.stdout.isatty() else ("", "")
        print(f"{start}  done  {self._place(step)}  {seconds:.0f} s{self._left()}{end}", flush=True)

    def ready(self, waiting: Sequence[Step]) -> Step | None:
        """Return the first of the waiting steps whose needed steps have ended, if any.

        A step that is not in the list, but of an earlier call, has ended.
        """
        names = [step.name for step in self._steps]
        for step in waiting:
            before = names[: names.index(step.name)]
            needed = set(before if step.after is None else step.after) & set(names)
            if needed <= self._ended:
                return step
        return None

    def running(self, jobs: Sequence[_Job]) -> None:
        """On a terminal, show the steps that run, their seconds, and the last line of the first one's log."""
        if not jobs or not sys.stdout.isatty():
            return
        names = " + ".join(f"{job.step.name}  {job.seconds():.0f} s" for job in jobs)
        lines = [line.strip() for line in jobs[0].log.read_text(errors="replace").splitlines() if line.strip()]
        shown = f"  …     {len(self._ended) + 1}/{len(self._steps)}  {names}  {lines[-1] if lines else ''}"
        print(f"\r{shown[: shutil.get_terminal_size().columns - 1]}\033[K", end="", flush=True)

    def _place(self, step: Step) -> str:
        return f"{len(self._ended)}/{len(self._steps)}  {step.name}"

    def _left(self) -> str:
        """Return the time left: seconds of the steps to come, times how much longer the steps before took here."""
        rest = [step.seconds for step in self._steps if step.name not in self._ended]
        known = [seconds for seconds in rest if seconds is not None]
        if not rest or len(known) < len(rest) or self._expected < MEASURED_SECONDS:
            return ""
        minutes = sum(known) * (time.monotonic() - self._start) / self._expected / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


class _Job:
    """A step's process."""

    def __init__(self, step: Step, log: Path, environment: Mapping[str, str]) -> None:
        self.step, self.log = step, log
        self._start = time.monotonic()
        with log.open("w") as f:
            self.process = subprocess.Popen(step.command, cwd=ROOT, env=environment, stdout=f, stderr=subprocess.STDOUT)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def failure(self) -> str | None:
        """Return why the ended process failed, or None; a printed proof is written."""
        if self.step.prints_proof and not self.process.returncode:
            self.step.proof.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.log, self.step.proof)
        if self.process.returncode:
            return f"exit status {self.process.returncode}"
        return None if self.step.proof.exists() else f"{self.step.proof} was not written"


def _ended(jobs: Sequence[_Job]) -> list[_Job]:
    """Wait a moment; return the jobs whose processes have ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        jobs[0].process.wait(POLL_SECONDS if len(jobs) > 1 else 1)
    return [job for job in jobs if job.process.poll() is not None]


def _terminate(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        job.process.terminate()
    for job in jobs:
        job.process.wait()


def _file_name(name: str) -> str:
    return name.replace(" ", "-").replace(":", "").replace(",", "")
