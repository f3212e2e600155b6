"""The first 30 minutes on a GPU: questions in the order of what their answers decide.

    python benchmarks/gpu_first.py --out results            # all, in this order; the bundle's run.sh calls it
    python benchmarks/gpu_first.py --small --out results    # tiny sizes on whatever is here: does every question run?

    kernels  are attention and the frontend right? If not, stop
    engines  bare, ZeRO-2, ZeRO-3: seconds of a step, and the card's share of them
    memory   checkpointing × LoRA's dropout: GiB and seconds, beside preflight's estimate
    syncs    waits for the device
    top      the 30 costliest kernels
    shapes   new against repeated shapes of a micro-batch; memory outside the allocator
    run      a real run on the bundle's data: train, stop by SIGTERM, resume, next stage
    step     benchmarks/gpu_step.py
    options  Liger's kernels, a compiled encoder, a base in float8: loss, seconds, GiB

Each is asked in a process of its own, so that a crash of one leaves the others. Every answer is a line of
OUT/answers.jsonl, written as it comes: a run that is cut off keeps what it has learned.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

MINUTES = {
    "kernels": 2,
    "engines": 7,
    "memory": 5,
    "syncs": 2,
    "top": 2,
    "shapes": 4,
    "run": 9,
    "step": 10,
    "options": 5,
}


class Answers:
    """OUT/answers.jsonl."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "answers.jsonl"

    def write(self, question: str, row: dict[str, Any]) -> None:
        """Append a line and sync it to the disk; print it."""
        line = json.dumps({"question": question, **row}, ensure_ascii=False, default=str)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(line, flush=True)


def answers_to(question: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of one question, in this process."""
    if question == "run":
        from benchmarks.gpu_run import real_run

        yield from real_run(args.out / "run", args.data, args.small)
        return
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    from benchmarks.gpu_questions import ASKED, Where

    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    yield from ASKED[question](Where(args.small, device, dtype))


def ask(question: str, args: argparse.Namespace, seconds: float) -> int:
    """Ask one in a process of its own; return its exit code, 124 if the time was up."""
    if question == "step":
        command = ["gpu_step.py", "--check", "--seconds", str(max(60, seconds - 60)), "--out", str(args.out)]
        command += ["--needs", str(args.needs)] if args.needs else []
    else:
        command = ["gpu_first.py", "--one", question, "--out", str(args.out), "--data", str(args.data)]
    command += ["--small"] * args.small
    full = [sys.executable, str(ROOT / "benchmarks" / command[0]), *command[1:]]
    with subprocess.Popen(full) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return 124


def main() -> int:
    """Ask, and return 1 if a question has no answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="default: all, in their order")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--out", type=Path, required=True, help="folder for answers.jsonl")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "data", help="the bundle's datasets")
    parser.add_argument("--needs", type=Path, help="the bundle's estimates of memory")
    parser.add_argument("--minutes", type=float, default=30, help="no question is asked later than this")
    parser.add_argument("--one", choices=MINUTES, help=argparse.SUPPRESS)  # in the process of a question
    args = parser.parse_args()
    from pipeline.ranks.memory import use_expandable_segments

    use_expandable_segments()
    answers = Answers(args.out)
    if args.one:
        right = True
        for row in answers_to(args.one, args):
            answers.write(args.one, row)
            right &= row.get("right", True)
        return int(not right)
    unknown = [q for q in args.questions if q not in MINUTES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; questions are {', '.join(MINUTES)}")
    from benchmarks.gpu_step import missing

    if lacking := missing():
        print(f"the package {lacking} is missing here: install it, or put its wheel beside the others", file=sys.stderr)
        return 3
    failed = []
    end = time.monotonic() + 60 * args.minutes
    for question in args.questions or MINUTES:
        if time.monotonic() > end:
            answers.write(question, {"not asked": f"the {args.minutes:g} minutes are over"})
            failed.append(question)
            continue
        began = time.monotonic()
        code = ask(question, args, 60 * MINUTES[question])
        answers.write(question, {"exit code": code, "took": round(time.monotonic() - began, 1)})
        failed += [question] if code else []
    figures = {"asked": len(args.questions or MINUTES), "failed": failed}
    print(json.dumps({"name": "gpu_first", "figures": figures, "targets": {"failed": []}, "met": not failed}))
    return int(bool(failed))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # DeepSpeed's threads would wait
