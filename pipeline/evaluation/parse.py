"""Parse model output into turns: tolerant, total, and without losing a character.

The target format is one turn per line, ``Name: text``; the paper prints turns on one line, separated by spaces. Both
are read, and so are deviations: a missing or full-width colon, an unknown name, a repeated turn, text before the first
name, a truncated end. :func:`parse` never raises. Joining ``raw`` of all turns gives the input back, and what is not
label, colon or surrounding white space is in some turn's ``text``.

What counts as a label:

1. anywhere: a registered name as it is written, or ``spk`` with a number, and a colon. A Latin name needs a word
   boundary before it
2. at the start of a line: a registered name or ``spkN`` without a colon, followed by white space, text or the end
3. at the start of a line: any other short run without sentence punctuation, followed by a colon: an unknown name, or a
   registered one in another case or width
4. after the end of a sentence, where no label of the first kind stands at a line's start: one to three capitalised
   words, or two to four Chinese characters, and a colon: an unknown name
5. a label may be followed by times, ``Name [0.0, 1.08]: text``, or by asterisks, ``**Name**: text``

A line without a label continues the turn before it; text before the first label has no speaker. So a colon inside text
splits it only after a name, which transcripts hardly ever contain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GENERIC = re.compile(r"spk[ _]?\d{1,3}", re.IGNORECASE)

_SPACE = r"[ \t\u00a0\u3000]"
_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_TIMES = rf"(?:{_SPACE}*\[[ \t]*(?P<start>{_NUMBER})[ \t]*,[ \t]*(?P<end>{_NUMBER})[ \t]*\])?"
_COLON = rf"\*{{0,2}}{_SPACE}*[:：]"
_LATIN = r"A-Za-z0-9_\u00c0-\u024f"
_NOT_IN_NAMES = r":：,，。.?？!！、；;\[\]\"“”*<>"
_UNKNOWN = rf"(?P<unknown>(?!\d+[:：])[^\s{_NOT_IN_NAMES}][^\n{_NOT_IN_NAMES}]{{0,23}}?)"
_SENTENCE = (
    r"(?P<sentence>(?<=[.?!。？！…] )[A-Z][\w'-]{0,19}(?: [A-Z][\w'-]{0,19}){0,2}|(?<=[。！？…])[\u4e00-\u9fff]{2,4})"
)
_NOTHING = r"(?P<sentence>(?!))"
_KINDS = ("known", "line", "unknown", "sentence")


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn of the output."""

    speaker: str | None  # None: text before the first label
    text: str  # stripped
    raw: str  # label, colon, text and white space, unchanged
    notes: tuple[str, ...] = ()
    start: float | None = None  # seconds, if the output has times
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """All turns of one output."""

    turns: tuple[ParsedTurn, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Deviations from the format, with the turn's number from 1."""
        return tuple(f"turn {i}: {note}" for i, t in enumerate(self.turns, 1) for note in t.notes)

    @property
    def unattributed(self) -> tuple[ParsedTurn, ...]:
        """Turns with text and no speaker: errors by definition."""
        return tuple(t for t in self.turns if t.speaker is None and t.text)


def parse(text: str, names: Sequence[str] = ()) -> Parsed:
    """Parse one output. ``names`` are the registered names, which are recognised without line starts and colons.

    Cost: linear in the text, times the number of names in the worst case.
    """
    names = [n for n in dict.fromkeys(n.strip() for n in names) if n]
    labels = list(_pattern(tuple(names), False).finditer(text))
    if not any(m["known"] and text[: m.start()].rpartition("\n")[2].strip() == "" for m in labels):
        labels = list(_pattern(tuple(names), True).finditer(text))
    starts = [m.start() for m in labels]
    turns = []
    head = text[: starts[0]] if starts else text
    if head:
        turns.append(ParsedTurn(None, head.strip(), head, ("no speaker",) if head.strip() else ()))
    stops = [*starts[1:], len(text)]
    for match, stop in zip(labels, stops, strict=False):
        turns.append(_turn(match, text[match.start() : stop], names, last=stop == len(text)))
    return Parsed(tuple(_mark_repeats(turns)))


def is_generic(speaker: str | None) -> bool:
    """Whether this is a label of the form ``spk0``, which only No-Regist may use."""
    return speaker is not None and GENERIC.fullmatch(speaker) is not None


def _turn(match: re.Match[str], raw: str, names: Sequence[str], last: bool) -> ParsedTurn:
    label = _canonical(next(match[kind] for kind in _KINDS if match[kind]), names)
    body = raw[match.end() - match.start() :]
    notes = []
    if match["line"]:
        notes.append("missing colon")
    if label not in names and not is_generic(label):
        notes.append("unknown name" if names else "name from the text")
    if "\n" in body.strip():
        notes.append("a line without a name continues this turn")
    if not body.strip():
        notes.append("cut off after the name" if last else "no text")
    times = [match[f"{p}{t}"] for t in ("start", "end") for p in "kus" if match[f"{p}{t}"]]
    start, end = (float(times[0]), float(times[1])) if len(times) == 2 else (None, None)
    return ParsedTurn(label, body.strip(), raw, tuple(notes), start, end)


def _canonical(label: str, names: Sequence[str]) -> str:
    """``Spk 3`` → ``spk3``; a registered name in another case or width → that name."""
    if label in names:
        return label
    plain = unicodedata.normalize("NFKC", label).strip()
    if GENERIC.fullmatch(plain):
        return "spk" + str(int(re.sub(r"\D", "", plain)))
    folded = {unicodedata.normalize("NFKC", n).casefold(): n for n in names}
    return folded.get(plain.casefold(), label.strip())


def _pattern(names: tuple[str, ...], sentences: bool) -> re.Pattern[str]:
    """Return the label pattern for these names, longest name first; with rule 4 if ``sentences``."""
    times = {p: _TIMES.replace("<start", f"<{p}start").replace("<end", f"<{p}end") for p in "kus"}
    generic = r"[sS][pP][kK][ _]?\d{1,3}(?!\d)"
    known = "|".join([*(_bounded(n) for n in sorted(names, key=len, reverse=True)), rf"(?<![{_LATIN}]){generic}"])
    behind = rf"(?=\s|$|[^{_LATIN}:：])"
    return re.compile(
        rf"(?P<known>{known}){times['k']}{_COLON}"
        rf"|^{_SPACE}*+(?P<line>{known})(?:{behind})"
        rf"|^{_SPACE}*+{_UNKNOWN}{times['u']}{_COLON}(?!//)"
        rf"|{_SENTENCE if sentences else _NOTHING}{times['s']}{_COLON}(?!//)",
        re.MULTILINE,
    )


def _bounded(name: str) -> str:
    """Return a pattern of a name that does not begin or end inside a longer Latin word."""
    before = rf"(?<![{_LATIN}])" if re.match(rf"[{_LATIN}]", name) else ""
    after = rf"(?![{_LATIN}])" if re.search(rf"[{_LATIN}]$", name) else ""
    return f"{before}{re.escape(name)}{after}"


def _mark_repeats(turns: Iterable[ParsedTurn]) -> list[ParsedTurn]:
    """Add a note to turns equal to the one before: decoding in a loop."""
    out: list[ParsedTurn] = []
    for t in turns:
        again = bool(out) and t.text != "" and (out[-1].speaker, out[-1].text) == (t.speaker, t.text)
        out.append(ParsedTurn(t.speaker, t.text, t.raw, (*t.notes, "repeated"), t.start, t.end) if again else t)
    return out
