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

from schedule import Schedule

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
class Part:
    """A piece of work and the file that proves it finished."""

    name: str
    proof: Path
    seconds: float | None  # that it takes on two cores of a server, for the order of steps and the time that is left


@dataclass(frozen=True)
class Step:
    """One command and the file that proves it finished."""

    name: str
    command: tuple[str, ...]
    proof: Path
    hint: str = "the log says why; after that, `{again}` continues from this step"
    prints_proof: bool = False  # what the command prints is kept as its proof
    seconds: float | None = None  # of a step without parts, as theirs
    after: tuple[str, ...] | None = None  # names of the steps that it needs; None: all steps before it
    parts: tuple[Part, ...] = ()  # that the command finishes in this order, the last one with the step's own proof

    @property
    def pieces(self) -> tuple[Part, ...]:
        """The parts, or the step itself as the only one."""
        return self.parts or (Part(self.name, self.proof, self.seconds),)


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
                    progress.ended(job, jobs)
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
    """Which part of how many, and how long is left. A line for every part that has ended."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = {step.name: step for step in steps}
        self._total = sum(len(step.pieces) for step in steps)
        self._ended: set[str] = set()  # names of steps
        self._had: set[str] = set()  # names of parts
        self._expected = self._spent = 0.0  # seconds of the parts that have ended in this call
        names, needs = list(self._steps), {}
        for i, step in enumerate(steps):
            # A step that is not in the list, but of an earlier call, has ended.
            needs[step.name] = frozenset(names[:i] if step.after is None else {*step.after} & {*names})
        self._schedule = Schedule({s.name: sum(p.seconds or 0.0 for p in s.pieces) for s in steps}, needs)

    def has(self, step: Step) -> bool:
        """Whether an earlier call has run the step; prints a line for each part that it has run."""
        for part in step.pieces:
            if part.proof.exists():
                self._had.add(part.name)
                print(f"  have  {self._place(part)}", flush=True)
        if found := all(part.name in self._had for part in step.pieces):
            self._ended.add(step.name)
        return found

    def ready(self, waiting: Sequence[Step]) -> Step | None:
        """Return the waiting step to start next, if the steps that it needs have ended."""
        name = self._schedule.ready([step.name for step in waiting], self._ended)
        return self._steps[name] if name else None

    def running(self, jobs: Sequence[_Job]) -> None:
        """Print the lines of parts that have ended; on a terminal, show what runs, and the first one's log's end."""
        for job in jobs:
            for part in job.step.pieces[:-1]:
                if part.name not in self._had and part.proof.exists():
                    self._line(job, part, jobs)
        if not jobs or not sys.stdout.isatty():
            return
        names = " + ".join(f"{self._now(job).name}  {job.seconds() - job.parted:.0f} s" for job in jobs)
        lines = [line.strip() for line in jobs[0].log.read_text(errors="replace").splitlines() if line.strip()]
        shown = f"  …     {len(self._had) + 1}/{self._total}  {names}  {lines[-1] if lines else ''}"
        print(f"\r{shown[: shutil.get_terminal_size().columns - 1]}\033[K", end="", flush=True)

    def ended(self, job: _Job, jobs: Sequence[_Job]) -> None:
        """Print the lines of the rest of an ended step, beside the jobs that run still."""
        self._ended.add(job.step.name)
        for part in job.step.pieces:
            if part.name not in self._had:
                self._line(job, part, jobs)

    def _line(self, job: _Job, part: Part, jobs: Sequence[_Job]) -> None:
        """Print the line of a part that has ended; on a terminal, over the one of those that run."""
        seconds = job.seconds() - job.parted
        job.parted += seconds
        self._had.add(part.name)
        self._expected += part.seconds or 0.0
        self._spent += seconds
        start, end = ("\r", "\033[K") if sys.stdout.isatty() else ("", "")
        print(f"{start}  done  {self._place(part)}  {seconds:.0f} s{self._left(jobs)}{end}", flush=True)

    def _place(self, part: Part) -> str:
        return f"{len(self._had)}/{self._total}  {part.name}"

    def _now(self, job: _Job) -> Part:
        """Return the part at which a job is."""
        return next((part for part in job.step.pieces if part.name not in self._had), job.step.pieces[-1])

    def _left(self, jobs: Sequence[_Job]) -> str:
        """Return the time left: that of the steps to come, times how much longer the parts before took here."""
        rest = [part for step in self._steps.values() for part in step.pieces if part.name not in self._had]
        if not rest or any(part.seconds is None for part in rest) or self._expected < MEASURED_SECONDS:
            return ""
        running = {job.step.name: self._rest(job) for job in jobs if job.step.name not in self._ended}
        waiting = [name for name in self._steps if name not in self._ended and name not in running]
        seconds = self._schedule.left(waiting, self._ended, running, AT_ONCE)
        minutes = seconds * self._spent / self._expected / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"

    def _rest(self, job: _Job) -> float:
        """Return the seconds that the parts of a running job were expected to take from now on."""
        coming = sum(part.seconds or 0.0 for part in job.step.pieces if part.name not in self._had)
        return max(0.0, coming - (job.seconds() - job.parted))


class _Job:
    """A step's process."""

    def __init__(self, step: Step, log: Path, environment: Mapping[str, str]) -> None:
        self.step, self.log = step, log
        self._start = time.monotonic()
        self.parted = 0.0  # seconds from the start to the end of its last part
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
        return next((f"{part.proof} was not written" for part in self.step.pieces if not part.proof.exists()), None)


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
