"""Lines of NIST's STM and RTTM files.

Fields are separated by white space::

    SESSION CHANNEL SPEAKER START END [<LABEL>] WORDS                                        STM
    SPEAKER SESSION CHANNEL START DURATION <NA> <NA> NAME <NA> [<NA>]                        RTTM

meeteval's parser is not used: it takes a channel for a number as soon as the start is an integer, so ``A`` or ``<NA>``
before ``1`` fails. In STM, ``ignore_time_segment_in_scoring`` (in any case, with or without a label before it) and the
speakers ``inter_segment_gap`` and ``excluded_region`` are time without a transcript.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from shards.errors import ManifestError
from shards.manifests.foreign_rows import name_of, text_of
from shards.sample import gender_of

IGNORED_TEXT = "ignore_time_segment_in_scoring"
_NO_SPEAKERS = ("inter_segment_gap", "excluded_region")
_LABEL = re.compile(r"^<[^<>\s,]*,[^<>\s]*>\s*")  # <o,f0,male>: no words, but maybe a gender
_RTTM_FIELDS = (9, 10)


@dataclass(frozen=True, slots=True)
class NistLine:
    """A line of STM or a SPEAKER line of RTTM; times in seconds."""

    session: str
    channel: str
    speaker: str | None  # None: <NA>
    start: float
    end: float
    text: str = ""
    ignored: bool = False  # time that is not transcribed
    gender: str | None = None  # of the speaker, if the label of an STM line states it


def parse_stm(line: str) -> NistLine:
    """Parse a line of STM.

    Raises:
        ManifestError: it has fewer than five fields, or times that are not finite numbers.
    """
    session, channel, speaker, start, end, *rest = _fields(line, "STM", 5, 5)
    words = rest[0].strip() if rest else ""
    label = _LABEL.match(words)
    text = words[label.end() :] if label else words
    gender = next(filter(None, map(gender_of, label[0].strip(" <>\t").split(","))), None) if label else None
    ignored = is_ignored(text) or speaker.lower() in _NO_SPEAKERS
    first, last = (_seconds(value, line, "STM") for value in (start, end))
    words = "" if ignored else text_of(text)
    return NistLine(session, channel, name_of(speaker), first, last, words, ignored, gender)


def parse_rttm(line: str) -> NistLine | None:
    """Parse a line of RTTM; None for lines other than turns, such as SPKR-INFO and NON-SPEECH.

    Raises:
        ManifestError: a turn does not have nine or ten fields, or its times are not finite numbers.
    """
    if line.split(maxsplit=1)[:1] != ["SPEAKER"]:
        return None
    fields = _fields(line, "RTTM", _RTTM_FIELDS[0])
    if len(fields) not in _RTTM_FIELDS:
        raise ManifestError(f"{_not_of('RTTM', line)} ({len(fields)} fields)")
    first, length = (_seconds(value, line, "RTTM") for value in fields[3:5])
    return NistLine(fields[1], fields[2], name_of(fields[7]), first, round(first + length, 6))


def is_ignored(text: str) -> bool:
    """Return whether the words of an STM line say that its time is not scored."""
    return IGNORED_TEXT in text.lower().split()


def has_label(text: str) -> bool:
    """Return whether a reader would take the beginning of the text for a label."""
    return bool(_LABEL.match(text))


def _fields(line: str, form: str, least: int, splits: int = -1) -> list[str]:
    fields = line.split(maxsplit=splits)
    if len(fields) < least:
        raise ManifestError(f"{_not_of(form, line)} ({len(fields)} fields)")
    return fields


def _seconds(value: str, line: str, form: str) -> float:
    try:
        number = float(value)
    except ValueError as error:
        raise ManifestError(f"{_not_of(form, line)} ({value!r} is not a time)") from error
    if not math.isfinite(number):
        raise ManifestError(f"{value} is not a time in seconds: {line.strip()[:80]!r}")
    return number


def _not_of(form: str, line: str) -> str:
    return f"not an {form} line: {line.strip()[:80]!r}"
