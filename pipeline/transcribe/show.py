"""Output of the command while recordings are transcribed: turns, progress, and what was written or failed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.transcribe.audio_stream import seconds_of
from pipeline.transcribe.outputs import line, write_all
from pipeline.transcribe.stream import Update
from pipeline.transcribe.transcript import Transcript
from shards.commands import INTERRUPTED
from shards.errors import AudioError, ModelError
from shards.workers import progress as progress_of

logger = logging.getLogger(__name__)


def alone(audio: Path, transcripts: Iterable[Transcript]) -> Iterator[Update]:
    """Yield what is new of the only recording that is transcribed, from its transcripts so far."""
    transcript = Transcript(str(audio), "")
    try:
        for transcript in transcripts:
            yield Update(0, transcript)
    except (AudioError, ModelError) as fault:
        yield Update(0, transcript, True, fault)
    else:
        yield Update(0, transcript, True)


def show(updates: Iterable[Update], audio: Sequence[Path], out: Path, kinds: tuple[str, ...]) -> int:
    """Print turns as they come, and write each transcript when its recording ends.

    Turns of several recordings are mixed: each has the name of its recording.

    Returns:
        1 if a recording is damaged or unreadable, INTERRUPTED after Ctrl-C, else 0.
    """
    code = 0
    with _Shown(audio) as shown:
        try:
            for update in updates:
                shown.take(update)
                if update.fault is not None:  # the other recordings continue
                    logger.error("%s", update.fault)
                    code = 1
                elif update.ended:
                    code = max(code, _write(update.transcript, out, kinds))
        except KeyboardInterrupt:
            if not shown.any:
                raise
            for path, transcript in shown.open():
                _write(replace(transcript, error=f"{path}: interrupted"), out, kinds)
            code = INTERRUPTED
    return code


def _write(transcript: Transcript, out: Path, kinds: tuple[str, ...]) -> int:
    paths = write_all(transcript, out, kinds)
    for warning in transcript.warnings:
        logger.warning("%s", warning)
    logger.info("wrote %d turns to %s", len(transcript.turns), ", ".join(map(str, paths)))
    if transcript.error:
        logger.error("%s; the turns before it are transcribed", transcript.error)
    return int(transcript.error is not None)


@dataclass
class _Progress:
    """State of what is shown of a recording."""

    total: int | None  # seconds
    turns: int = 0
    seconds: int = 0
    transcript: Transcript | None = None
    ended: bool = False


class _Shown:
    """Turns on stdout, and one bar over the seconds of all recordings."""

    def __init__(self, audio: Sequence[Path]) -> None:
        self._audio = audio
        totals = [None if seconds is None else round(seconds) for seconds in map(seconds_of, audio)]
        self._of = [_Progress(total) for total in totals]
        whole = None if None in totals else sum(t for t in totals if t is not None)
        name = audio[0].name if len(audio) == 1 else f"{len(audio)} recordings"
        self._bar: Any = progress_of(desc=name, total=whole, unit="s")

    def __enter__(self) -> _Shown:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    @property
    def any(self) -> bool:
        """Whether something was transcribed."""
        return any(of.transcript is not None for of in self._of)

    def open(self) -> Iterator[tuple[Path, Transcript]]:
        """Yield the recordings that were begun and have not ended."""
        for path, of in zip(self._audio, self._of, strict=True):
            if of.transcript is not None and not of.ended:
                yield path, of.transcript

    def take(self, update: Update) -> None:
        """Show what is new."""
        of = self._of[update.number]
        of.ended = update.ended
        of.transcript = None if update.fault is not None else update.transcript
        turns = update.transcript.turns
        head = f"{self._audio[update.number].stem} " if len(self._audio) > 1 else ""
        for turn in turns[of.turns :]:
            tqdm.write(head + line(turn))
        of.turns = len(turns)
        seconds = min(round(update.transcript.seconds), of.total or 2**31)
        self._bar.update(seconds - of.seconds)
        of.seconds = seconds
