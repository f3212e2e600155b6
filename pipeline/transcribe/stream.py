"""The loop over a recording: chunks are read, transcribed in batches, and kept up to an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from pipeline.transcribe.chunks import Chunk, Chunker
from pipeline.transcribe.transcript import ChunkResult, Transcript
from shards.errors import AudioError, ModelError


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
    chunks = chunker.cut(coming)
    fault: AudioError | ModelError | None = None
    while fault is None:
        found: list[Chunk] = []
        try:
            for chunk in islice(chunks, batch):  # chunks before an error are kept
                found.append(chunk)
        except AudioError as e:
            fault = e
        transcript.seconds, transcript.speech = round(chunker.heard.seconds, 3), round(chunker.heard.speech, 3)
        if not found:
            break
        try:
            results = list(read(found))
        except ModelError as e:  # a chunk that is too long for the LLM; those before it are kept
            if not transcript.chunks:
                raise
            fault = e
            break
        transcript.chunks += results
        yield transcript
    if fault is not None and transcript.seconds == 0:
        raise fault
    transcript.error = str(fault) if fault else None
    if not transcript.chunks:
        transcript.warnings.append(f"{transcript.audio}: no speech in {chunker.heard.seconds:.1f} s")
    elif not transcript.turns:
        transcript.warnings.append(
            f"{transcript.audio}: the model wrote nothing for {transcript.speech:.1f} s of speech; was it trained long "
            "enough, on this language, and on chunks of this length (--seconds)?"
        )
    yield transcript
