"""Lines of a Speaker-Reasoner transcript, ``Male 1 [0.0, 1.08]: words``: labels, times and their text.

The format is that of the public inference script (arXiv 2604.03074): one counter over both genders by first appearance,
times in seconds of the whole audio with at most two decimals. Times are whole centiseconds here, so that they survive
being written and read. A speaker of unknown gender is ``Speaker 1``, which is ours: the script knows two genders.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shards.sample import FEMALE, MALE, gender_of

CENTISECONDS = 100  # per second
SHORTEST = 10  # centiseconds of a line or box; the script rejects a shorter one
_TOLERANCE = 1e-6  # centiseconds: 1.08 s is 108 of them, and not 109

WORDS = {MALE: "Male", FEMALE: "Female", None: "Speaker"}

_NUMBER = r"(?:\d{1,3}:)?(?:\d{1,4}:)?\d{1,7}(?:\.\d{0,6})?"
_UNIT = r"(?:\s*(?:s|sec|seconds?|秒))?"
SPAN = rf"\[\s*(?P<start>{_NUMBER}){_UNIT}\s*(?:[,、~–—-]|to)\s*(?P<end>{_NUMBER}){_UNIT}\s*\]"
_LABEL = r"(?P<word>male|female|speaker|person|spk|男性|女性|男|女|说话人|說話人)\s*(?:[_#-]\s*)?(?P<number>\d{1,4})"
# White space and asterisks before a label are taken from their first one: a search in a long run of them is linear.
_LINE = re.compile(rf"(?:(?<!\s)\s+)?(?:[-*•]\s*)?(?:(?<!\*)\*+)?{_LABEL}\**\s*{SPAN}\**\s*:?", re.IGNORECASE)
_NAME = re.compile(rf"\s*{_LABEL}\s*", re.IGNORECASE)
_SPAN = re.compile(SPAN, re.IGNORECASE)
_BRACKETS = str.maketrans("【〔〖（(【］］[】〕〗）)，：～", "[[[[[[]][]]]]],:~")


@dataclass(frozen=True, slots=True)
class Line:
    """One line: who says what, and when."""

    number: int  # of the speaker, from 1
    gender: str | None  # MALE, FEMALE or None
    start: int  # centiseconds
    end: int
    text: str

    @property
    def label(self) -> str:
        """Label of the speaker as the line shows it."""
        return label(self.number, self.gender)

    def __str__(self) -> str:
        return f"{self.label} [{format_time(self.start)}, {format_time(self.end)}]: {self.text}"


def label(number: int, gender: str | None) -> str:
    """Return a speaker's label: ``Male 1``, ``Female 2``, ``Speaker 3``."""
    return f"{WORDS[gender]} {number}"


def gender_of_label(text: str) -> str | None:
    """Return the gender that a label states: ``Female 2`` → FEMALE; None for ``Speaker 3`` or a name."""
    match = _NAME.fullmatch(unify(text))
    return gender_of(match["word"]) if match else None


def format_time(centiseconds: int) -> str:
    """Write a time as the public script does: seconds with one or two decimals, ``0.0``, ``1.08``, ``12.5``."""
    return repr(centiseconds / CENTISECONDS)


def parse_time(text: str) -> int:
    """Read a time in seconds, or ``minutes:seconds``, or ``hours:minutes:seconds``, rounded to centiseconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return round(seconds * CENTISECONDS)


def quantize(start: float, end: float, duration: int, decimals: int = 2) -> tuple[int, int]:
    """Round a span to decimals of a second, at least :data:`SHORTEST` long, inside the audio.

    With two decimals it is rounded outwards and holds all of its speech; with one to the nearest, since 0.1 s at each
    end would count as false alarm.

    Args:
        start, end: seconds.
        duration: of the audio, centiseconds, at least :data:`SHORTEST`.
        decimals: 1 or 2.
    """
    a, b = start * CENTISECONDS, end * CENTISECONDS
    if decimals == 1:
        a, b, duration = 10 * round(a / 10), 10 * round(b / 10), duration // 10 * 10
    a = min(max(0, math.floor(a + _TOLERANCE)), duration)
    b = min(math.ceil(b - _TOLERANCE), duration)
    b = max(b, min(a + SHORTEST, duration))
    return max(0, min(a, b - SHORTEST)), b


def number_speakers(speakers: Iterable[str], first: Sequence[str] = ()) -> dict[str, int]:
    """Number speakers from 1 by first appearance; ``first`` come before (those of a cache)."""
    return {speaker: i for i, speaker in enumerate(dict.fromkeys([*first, *speakers]), 1)}


def labels(numbers: Mapping[str, int], genders: Mapping[str, str]) -> dict[str, str]:
    """Return speaker id → label; ``genders``: speaker id → gender, without the unknown ones."""
    return {speaker: label(n, genders.get(speaker)) for speaker, n in numbers.items()}


def unify(text: str) -> str:
    """Narrow full-width letters, digits and brackets of any kind, for matching; the length of the text is kept."""
    return "".join(_narrow(c) for c in text)


def _narrow(char: str) -> str:
    char = char.translate(_BRACKETS)
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 and folded.isascii() else char


def parse_lines(text: str) -> tuple[list[Line], list[str]]:
    """Read lines of a reply, tolerantly; never raises.

    Several lines may stand on one row of text, and text without a head of its own continues the line before it.

    Returns:
        The lines in their order, and the pieces of text that belong to none.
    """
    lines: list[Line] = []
    rest: list[str] = []
    for row in text.splitlines():
        plain = unify(row)
        heads = list(_heads(plain))
        before = row[: heads[0].start()] if heads else row
        if before.strip():
            if lines:
                lines[-1] = _extended(lines[-1], before.strip())
            else:
                rest.append(before.strip())
        for head, stop in zip(heads, [*(m.start() for m in heads[1:]), len(row)], strict=False):
            words = row[head.end() : stop].strip()
            start, end = parse_time(head["start"]), parse_time(head["end"])
            lines.append(Line(int(head["number"]), gender_of(head["word"]), start, end, words))
    return lines, rest


def _heads(plain: str) -> Iterable[re.Match[str]]:
    at = 0
    while match := _LINE.search(plain, at):
        yield match
        at = match.end()


def _extended(line: Line, text: str) -> Line:
    return Line(line.number, line.gender, line.start, line.end, f"{line.text} {text}".strip())


def find_span(text: str) -> tuple[int, int] | None:
    """Return the first ``[start, end]`` of a text in centiseconds, or None."""
    match = _SPAN.search(unify(text))
    return (parse_time(match["start"]), parse_time(match["end"])) if match else None
