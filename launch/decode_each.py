"""Decode test sets one after another in one process, which imports torch once.

    python launch/decode_each.py RUN TEST OUT … + RUN TEST OUT …

Each part between + has the arguments of `speakerlm-decode`; those whose OUT/done exists are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout wins over any other package pipeline

from pipeline.decode import test_set

BETWEEN = "+"


def parts(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments between the signs."""
    part: list[str] = []
    for argument in [*arguments, BETWEEN]:
        if argument != BETWEEN:
            part.append(argument)
            continue
        yield part
        part = []


def main(arguments: Sequence[str]) -> int:
    """Decode each; return the exit code of the first that fails."""
    calls = list(parts(arguments))
    outputs = [test_set.parser().parse_args(call).out for call in calls]  # all are valid, or none is decoded
    for call, out in zip(calls, outputs, strict=True):
        if (out / "done").exists():
            print(f"{out} is decoded")
        elif code := test_set.main(call):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
