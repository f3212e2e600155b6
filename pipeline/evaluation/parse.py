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
5. a label may be followed by times, ``Name [0.0, 1.08]: text``, and stand between asterisks, ``**Name**: text`` or
   ``**Name:** text``; at the start of a line also in brackets, ``[Name]: text``, a registered one in any other marks
6. a label at the start of a line may follow a list marker: ``- Name: text``, ``• Name: text``, ``1) Name: text``

A label of the first kind ends the search for one of kinds 3 and 4: in ``there Lucy: good`` the word before a registered
name is text. List marker and asterisks belong to the label.

A line without a label continues the turn before it; text before the first label has no speaker. So a colon inside text
splits it only after a name, which transcripts hardly ever contain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pipeline.prompts import NOT_ON_ONE_LINE

GENERIC = re.compile(r"spk[ _]?\d{1,3}", re.IGNORECASE)

_SPACE = r"[ \t\u00a0\u3000]"
_NUMBER = r"\d{1,6}(?:\.\d{1,6})?"
_TIMES = rf"(?:\*{{0,3}}{_SPACE}*\[[ \t]*(?P<start>{_NUMBER})[ \t]*,[ \t]*(?P<end>{_NUMBER})[ \t]*\])?"
_COLON = rf"\*{{0,3}}{_SPACE}*[:：]"
# A list marker at the start of a line. Possessive, so that no part of it becomes a name.
_BULLET = r"[->‒–—―•·●◦▪‣■□◆◇▶►→✓✔]{1,3}|\*(?!\*)|(?:\+|#{1,6})(?=[ \t])"
_ORDER = r"[(（]?(?:\d{1,3}|[A-Za-z])[)）]|\[\d{1,3}\]|\d{1,3}[.．、](?!\d)|[①-⒇]"
_MARKER = rf"(?:(?:{_BULLET}|{_ORDER}){_SPACE}*+){{0,2}}+"
_LATIN = r"A-Za-z0-9_\u00c0-\u024f"
_NOT_IN_NAMES = r":：,，。.?？!！、；;\[\]\"“”*<>"
# Points of titles and initials do not end a name: Dr. Smith, J. R. Smith, Mike B.
_TITLES = r"(?:(?:Dr|Mr|Mrs|Ms|Prof|St|[A-Z])\.[ ]?){0,3}"
_UNKNOWN = (
    r"(?P<bracket>[\[<])?"
    rf"(?P<unknown>(?!\d+[:：]){_TITLES}[^\s{_NOT_IN_NAMES}][^\n{_NOT_IN_NAMES}]{{0,23}}?(?:[ ](?:Jr|Sr|[A-Z])\.)?)"
    r"(?(bracket)[\]>])"
)
_WRAPPING = "_`'()（）【】「」"
_END = r"[.?!。？！…]"
_SENTENCE = (
    rf"(?P<sentence>(?:(?<={_END} )|(?<={_END} \*)|(?<={_END} \*\*))[A-Z][\w'-]{{0,19}}(?: [A-Z][\w'-]{{0,19}}){{0,2}}"
    r"|(?:(?<=[。！？…])|(?<=[。！？…]\*)|(?<=[。！？…]\*\*))[\u4e00-\u9fff]{2,4})"
)
_NOTHING = r"(?P<sentence>(?!))"
PATTERNS = (
    1024  # kept: a test set's clips have the same names in every decoding of it, and a pattern takes milliseconds
)
_KINDS = ("known", "marked", "line", "unknown", "sentence")


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
    labels = _labels(text, names, sentences=False)
    if not any((m["known"] or m["marked"]) and _begins_a_line(text, m.start()) for m in labels):
        labels = _labels(text, names, sentences=True)
    starts = [m.start() for m in labels]
    turns = []
    head = text[: starts[0]] if starts else text
    if head:
        turns.append(ParsedTurn(None, head.strip(), head, ("no speaker",) if head.strip() else ()))
    stops = [*starts[1:], len(text)]
    for match, stop in zip(labels, stops, strict=False):
        turns.append(_turn(match, text[match.start() : stop], names, last=stop == len(text)))
    return Parsed(tuple(_mark_repeats(turns)))


def _begins_a_line(text: str, at: int) -> bool:
    """Whether only white space is before this place in its line."""
    while at and text[at - 1].isspace() and text[at - 1] != "\n":
        at -= 1
    return at == 0 or text[at - 1] == "\n"


def _labels(text: str, names: Sequence[str], sentences: bool) -> list[re.Match[str]]:
    """Find the labels; a label of the first kind inside a longer unknown name counts, the words before it are text."""
    pattern, known = _pattern(tuple(names), sentences), _known_pattern(tuple(names))
    found, at = [], 0
    while match := pattern.search(text, at):
        if match["unknown"] or match["sentence"]:
            inside = known.search(text, match.start(), match.end())
            if inside and (shorter := pattern.match(text, inside.start())):
                match = shorter
        at = match.end()
        if _canonical(next(match[kind] for kind in _KINDS if match[kind]), names):  # not control characters alone
            found.append(match)
    return found


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
    times = [match[f"{p}{t}"] for t in ("start", "end") for p in "kmus" if match[f"{p}{t}"]]
    start, end = (float(times[0]), float(times[1])) if len(times) == 2 else (None, None)
    return ParsedTurn(label, body.strip(), raw, tuple(notes), start, end)


def _canonical(label: str, names: Sequence[str]) -> str:
    """``Spk 3`` → ``spk3``; a registered name in other case, width or marks → that name; else one line."""
    if label in names:
        return label
    folded = {unicodedata.normalize("NFKC", n).casefold(): n for n in names}
    for written in (label, label.strip(_WRAPPING)):
        plain = unicodedata.normalize("NFKC", written).strip()
        if GENERIC.fullmatch(plain):
            return "spk" + str(int(re.sub(r"\D", "", plain)))
        if plain.casefold() in folded:
            return folded[plain.casefold()]
    return " ".join(NOT_ON_ONE_LINE.sub(" ", label).split())


@lru_cache(maxsize=PATTERNS)
def _pattern(names: tuple[str, ...], sentences: bool) -> re.Pattern[str]:
    """Return the label pattern for these names, longest name first; with rule 4 if ``sentences``."""
    times = {p: _TIMES.replace("<start", f"<{p}start").replace("<end", f"<{p}end") for p in "kmus"}
    known = _known(names)
    behind = rf"(?=\s|$|[^{_LATIN}:：])"
    return re.compile(
        rf"{_label(f'(?P<known>{known})', times['k'], 'kb')}"
        rf"|^{_SPACE}*+{_MARKER}{_label(f'(?P<marked>{known})', times['m'], 'mb')}"
        rf"|^{_SPACE}*+{_MARKER}\*{{0,3}}(?P<line>{known})\*{{0,3}}(?:{behind})"
        rf"|^{_SPACE}*+{_MARKER}{_label(_UNKNOWN, times['u'], 'ub')}(?!//)"
        rf"|{_label(_SENTENCE if sentences else _NOTHING, times['s'], 'sb')}(?!//)",
        re.MULTILINE,
    )


@lru_cache(maxsize=PATTERNS)
def _known_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return the pattern of labels of the first kind alone."""
    return re.compile(_label(f"(?:{_known(names)})", re.sub(r"\?P<\w+>", "?:", _TIMES), "b"))


def _known(names: tuple[str, ...]) -> str:
    """Return a pattern of the registered names and of ``spkN``."""
    generic = r"[sS][pP][kK][ _]?\d{1,3}(?!\d)"
    return "|".join([*(_bounded(n) for n in sorted(names, key=len, reverse=True)), rf"(?<![{_LATIN}]){generic}"])


def _label(name: str, times: str, bold: str) -> str:
    """Return a pattern of a name with times, a colon, and asterisks around it; ``bold`` names the group of these."""
    return rf"(?P<{bold}>\*{{1,3}})?{name}{times}{_COLON}(?({bold})\*{{0,3}})"


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
