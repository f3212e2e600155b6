"""One process's share of a test set: batches are read and prepared ahead, answered, appended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.decode.engine import Engine, write
from pipeline.decode.generate import Answer
from pipeline.decode.store import DecodeFolder, Timing
from pipeline.ranks.memory import peak_bytes
from shards.workers import progress

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Share:
    """Batches of a job that one process decodes."""

    job: str
    batches: Sequence[Sequence[Any]]  # of clips, each with its ``key``
    rank: int
    world: int


class Writer(Protocol):
    """Fills rows with what the model writes."""

    def prepare(self, prompts: Sequence[Any]) -> Any:
        """Do what can be done in advance for a batch of prompts, beside :meth:`write` of the batch before it."""

    def write(self, rows: Sequence[dict[str, Any]], prepared: Any) -> Rows:
        """Return the rows of a batch with the model's text."""


class Answers:
    """One answer for each row."""

    def __init__(self, engine: Engine) -> None:
        """Take a loaded engine."""
        self._engine = engine

    def prepare(self, prompts: Sequence[Any]) -> Any:
        """Let the engine prepare the prompts."""
        return self._engine.prepare(prompts)

    def write(self, rows: Sequence[dict[str, Any]], prepared: Any) -> Rows:
        """Add the answers."""
        return [answered(row, answer) for row, answer in zip(rows, write(self._engine, prepared), strict=True)]


def answered(row: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """Add the model's text and how it ended to a row; the text is parsed when it is scored."""
    return {**row, "raw": answer.text, "stop": answer.stop, "tokens": answer.tokens}


def decode_share(
    share: Share, output: DecodeFolder, read: Callable[[Any], tuple[dict[str, Any], Any]], writer: Writer
) -> None:
    """Decode the missing batches of a share. A batch with a missing clip is decoded whole, for the same text.

    Args:
        read: clip → its row without an answer, and its prompt.
        writer: fills the rows.
    """
    done = output.rows(share.job).keys()
    todo = [b for b in share.batches if any(c.key not in done for c in b)]
    if not todo:
        return

    def read_all(clips: Sequence[Any]) -> tuple[Rows, Any]:
        asked = [read(c) for c in clips]
        return [row for row, _ in asked], writer.prepare([prompt for _, prompt in asked])

    with (
        output.part(share.job, share.rank, share.world) as part,
        _progress(share, sum(map(len, share.batches)) - sum(map(len, todo))) as bar,
        ThreadPoolExecutor(1) as reader,  # the next batch is read and encoded while this one is answered
    ):
        coming = reader.submit(read_all, todo[0])
        for i, clips in enumerate(todo):
            started = time.monotonic()
            rows, prepared = coming.result()
            if i + 1 < len(todo):
                coming = reader.submit(read_all, todo[i + 1])
            rows = writer.write(rows, prepared)
            timing = Timing(len(rows), sum(r["duration"] for r in rows), time.monotonic() - started, peak_bytes())
            part.append([r for r in rows if r["key"] not in done], timing)
            bar.update(len(clips))


def _progress(share: Share, done: int) -> Any:
    """Return the progress, which the first process alone shows."""
    total = sum(map(len, share.batches))
    return progress(desc=share.job, total=total, initial=done, unit="clip", disable=share.rank != 0)
