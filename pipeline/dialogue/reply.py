"""Read one reply of a Speaker-Reasoner model, and say what is wrong with it.

Reading is tolerant and never raises: a reply that is cut, nested or written with other brackets gives what it holds.
The faults are the guards of the public inference script (arXiv 2604.03074); the caller decides whether to try again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.dialogue.lines import CENTISECONDS, SHORTEST, Line, find_span, format_time, parse_lines, unify

REPEATS = 11  # of a unit in a row on one line, from which a reply is a loop
PAST_END = 10  # centiseconds that an end may lie behind the audio: 1,600 samples at 16 kHz
_TAGS = ("think", "answer", "box")
_TAG = re.compile(rf"<\s*(?:(?P<close>/)\s*)?(?P<name>{'|'.join(_TAGS)})\s*>", re.IGNORECASE)
_LOOP = re.compile(rf"(\S(?:[^\n]{{0,39}}?))\1{{{REPEATS - 1},}}")


@dataclass(frozen=True, slots=True)
class Reply:
    """Content of a reply."""

    think: str | None  # text of the <think> blocks; None: there is no such tag
    box: tuple[int, int] | None  # the first bounds, centiseconds
    answer: str | None
    lines: tuple[Line, ...]  # of the answer; without an answer, of the thoughts
    rest: tuple[str, ...]  # text of an answer, or of thoughts with lines, that belongs to no line
    repairs: tuple[str, ...]  # what reading had to repair, in words

    @property
    def finished(self) -> bool:
        """Whether this reply ends the dialogue."""
        return self.answer is not None


def read_reply(text: str) -> Reply:
    """Read a reply; text outside of all tags counts as thought."""
    held: dict[str, list[str]] = {name: [] for name in _TAGS}
    repairs: list[str] = []
    for name, content, closed in blocks(text):
        if not name:
            if content.strip():
                repairs.append("text outside of tags")
                held["think"].append(content)
            continue
        if not closed:
            repairs.append(f"<{name}> is not closed")
        held[name].append(content)
    think = "\n".join(held["think"]) if held["think"] else None
    answer = "\n".join(held["answer"]) if held["answer"] else None
    boxes = [span for content in held["box"] if (span := find_span(content) or find_span(f"[{content}]"))]
    lines, rest = parse_lines(answer if answer is not None else think or "")
    return Reply(think, boxes[0] if boxes else None, answer, tuple(lines), tuple(rest), tuple(dict.fromkeys(repairs)))


def answered_lines(reply: Reply, thoughts: Sequence[Line]) -> tuple[list[Line], list[str]]:
    """Return the lines of an answer, and what was repaired, in words.

    Args:
        reply: one that ends the dialogue.
        thoughts: lines of the observations before it, which continue an answer that is cut.
    """
    lines, repairs = list(reply.lines), []
    if reply.rest:
        repairs.append("text of the answer without a label is left to no speaker: " + " ".join(reply.rest)[:200])
    if "<answer> is not closed" in reply.repairs:
        reached = lines[-1].start if lines else -1
        missing = [line for line in thoughts if line.start > reached]
        repairs += ["lines of observations continue a cut answer"] if missing else []
        lines += missing
    return lines, repairs


def blocks(text: str) -> Iterator[tuple[str, str, bool]]:
    """Name ("" outside of tags), content, and whether the tag is closed; a tag inside another ends the outer one."""
    plain = unify(text).replace("〈", "<").replace("〉", ">").replace("＜", "<").replace("＞", ">")
    at, name = 0, ""
    for match in _TAG.finditer(plain):
        found, closes = match["name"].lower(), bool(match["close"])
        content = text[at : match.start()]
        if closes:
            yield name, content, name == found
            name = ""
        else:
            if name == found and not content.strip():
                at = match.end()
                continue  # <think><think>
            if name or content.strip():
                yield name, content, False
            name = found
        at = match.end()
    if name or text[at:].strip():
        yield name, text[at:], False


def faults(reply: Reply, text: str, duration: int, previous: int, first: bool) -> list[str]:
    """Return what the guards reject, in words; nothing: the reply is valid.

    Args:
        reply: the reply, and ``text`` it was read from.
        duration: of the audio, centiseconds.
        previous: start of the box before, centiseconds; 0 in the first turn.
        first: whether this is the first turn, whose thought is a summary without times.
    """
    found = []
    if reply.answer is None and (reply.think is None or reply.box is None):
        found.append("neither <think> with a <box> nor an <answer>")
    if loop := _LOOP.search(text):
        found.append(f"{loop[1][:20]!r} is repeated {REPEATS} times or more in a row")
    checked = [] if first and reply.answer is None else [(line.start, line.end) for line in reply.lines]
    for start, end in [*([reply.box] if reply.box and reply.answer is None else []), *checked]:
        where = f"[{format_time(start)}, {format_time(end)}]"
        if start > duration or end > duration + PAST_END:
            found.append(f"{where} is outside of {duration / CENTISECONDS} s of audio")
        elif end - start < SHORTEST and reply.answer is None:
            found.append(f"{where} is shorter than {SHORTEST / CENTISECONDS} s")
    if reply.box and reply.answer is None and reply.box[0] < previous:
        found.append(f"the box starts at {format_time(reply.box[0])}, before the one before it")
    return found
