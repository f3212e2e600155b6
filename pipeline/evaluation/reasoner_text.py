"""Rows of what a Speaker-Reasoner model wrote: one reply, or all replies of a dialogue one after the other.

The transcript is the answer; without one it is the lines of the observations. An answer that is cut is continued by
them. The number of a label is the speaker, whatever its word: the format has one counter over both genders.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.dialogue.lines import CENTISECONDS, Line, format_time, parse_lines
from pipeline.dialogue.reply import answered_lines, read_reply
from pipeline.evaluation.records import SegLstRow


def reasoner_rows(session: str, text: str) -> tuple[tuple[SegLstRow, ...], tuple[str, ...]]:
    """Read a model's text into rows and notes on what was repaired; never raises.

    A line that ends before its start ends at its start. Text of an answer without a label has no speaker.
    """
    reply = read_reply(text)
    notes = list(reply.repairs)
    lines: Sequence[Line] = reply.lines
    rest: tuple[str, ...] = ()
    if reply.finished:
        lines, found = answered_lines(reply, parse_lines(reply.think or "")[0])
        notes += found
        rest = reply.rest
    elif text.strip():
        notes.append("no <answer>: the lines are those of the observations")
    labels: dict[int, str] = {}
    for line in lines:
        if line.label != labels.setdefault(line.number, line.label):
            notes.append(f"{labels[line.number]} is {line.label} too")
        if line.end < line.start:
            notes.append(f"{line.label} ends at {format_time(line.end)}, before its start {format_time(line.start)}")
    loose = [SegLstRow(session, None, piece) for piece in rest]
    rows = [_row(session, line, labels[line.number]) for line in lines]
    return (*rows, *loose), tuple(dict.fromkeys(notes))


def _row(session: str, line: Line, speaker: str) -> SegLstRow:
    times = (line.start / CENTISECONDS, max(line.start, line.end) / CENTISECONDS)
    return SegLstRow(session, speaker, line.text, *times, gender=line.gender)
