"""VibeVoice's streaming model: chunks ended by ``<|text_chunk_end|>``, ``NAME: text`` without times."""

from __future__ import annotations

from pipeline.evaluation.output_reading import CUT, Notes, Reading, Rows
from pipeline.evaluation.records import split_label

END = "<|text_chunk_end|>"


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the lines of all chunks; a line without a name has no speaker."""
    reading = Reading(session)
    *chunks, rest = text.split(END)
    for line in (line for chunk in (*chunks, rest) for line in chunk.split("\n") if line.strip()):
        speaker, said = split_label(line.strip())
        if speaker is None:
            reading.loose(line)
        else:
            reading.turn(speaker, said)
    if rest.strip():
        reading.odd(CUT)
    return reading.result()


def sniff(text: str) -> bool:
    """Whether it has an end of a chunk."""
    return END in text
