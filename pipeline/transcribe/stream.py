"""The loop over a recording: chunks are read, transcribed in batches, and kept up to an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.transcribe.chunks import Chunk, Chunker
from pipeline.transcribe.transcript import ChunkResult, Transcript
from shards.errors import AudioError, ModelError


@dataclass(frozen=True)
class Update:
    """A change of one of several recordings."""

    number: int  # of the recording, from 0
    transcript: Transcript  # so far
    ended: bool = False
    fault: AudioError | ModelError | None = None  # nothing of it was transcribed


class Reading:
    """A recording that is read chunk by chunk, and its transcript, which grows."""

    def __init__(self, transcript: Transcript, chunker: Chunker, coming: Iterable[np.ndarray]) -> None:
        """Take an empty transcript, and blocks of audio."""
        self.transcript = transcript
        self._heard, self._chunks = chunker.heard, chunker.cut(coming)
        self._fault: AudioError | ModelError | None = None

    def take(self, most: int) -> list[Chunk]:
        """Return the next chunks, at most so many; none: the recording has ended, or cannot be read on."""
        found: list[Chunk] = []
        if self._fault is None:
            try:
                for chunk in islice(self._chunks, most):  # chunks before an error are kept
                    found.append(chunk)
            except AudioError as e:
                self._fault = e
            seconds, speech = self._heard.seconds, self._heard.speech
            self.transcript.seconds, self.transcript.speech = round(seconds, 3), round(speech, 3)
        return found

    def fail(self, fault: ModelError) -> None:
        """Read no further: the model cannot take the chunks that were read last.

        Raises:
            ModelError: the fault, if they were the first ones.
        """
        if not self.transcript.chunks:
            raise fault
        self._fault = fault

    def end(self) -> Transcript:
        """Return the transcript with its last warnings, and with the error that ended it.

        Raises:
            AudioError: nothing of the recording could be read.
        """
        transcript, fault = self.transcript, self._fault
        if fault is not None and transcript.seconds == 0:
            raise fault
        transcript.error = str(fault) if fault else None
        if not transcript.chunks:
            transcript.warnings.append(f"{transcript.audio}: no speech in {self._heard.seconds:.1f} s")
        elif not transcript.turns:
            transcript.warnings.append(
                f"{transcript.audio}: the model wrote nothing for {transcript.speech:.1f} s of speech; was it trained "
                "long enough, on this language, and on chunks of this length (--seconds)?"
            )
        return transcript


def stream(
    transcript: Transcript,
    chunker: Chunker,
    coming: Iterable[np.ndarray],
    batch: int,
    read: Callable[[Sequence[Chunk]], Iterable[ChunkResult]],
) -> Iterator[Transcript]:
    """Yield a transcript after every batch of chunks, and again at the end.

    Args:
        transcript: an empty one; it grows.
        coming: blocks of audio.
        batch: chunks that ``read`` gets together.
        read: transcribes chunks.

    Raises:
        AudioError: nothing of the recording could be read.
        ModelError: the model cannot take the first batch. After a later one, ``error`` is set.
    """
    reading = Reading(transcript, chunker, coming)
    while found := reading.take(batch):
        try:
            transcript.chunks += list(read(found))
        except ModelError as e:  # a chunk that is too long for the LLM; those before it are kept
            reading.fail(e)
            break
        yield transcript
    yield reading.end()
