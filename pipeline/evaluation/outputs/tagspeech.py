"""TagSpeech: words by time in ``<text>``, times and gender of each speaker in ``<speaker>``; joined by equal times."""

from __future__ import annotations

import re

from pipeline.evaluation.output_reading import CUT, NUMBER, Notes, Reading, Rows, without_fences

_SPAN = rf"({NUMBER})-({NUMBER})"
_LINE = re.compile(rf"\s*{_SPAN}>(.*)", re.DOTALL)
_SPEAKER = re.compile(r'<spk((?:\s+[a-z]+="[^"]*")*)\s*(?:/?>|$)|<spk\b[^<>]*$')
_FIELD = re.compile(r'([a-z]+)="([^"]*)"?')
_GENDER = {"m": "male", "f": "female"}
_OPEN = re.compile(r"<text>|<speaker>|</text>|</speaker>")


def parse(session: str, text: str) -> tuple[Rows, Notes]:
    """Read the turns in the order of the words, then times of speakers without words."""
    reading = Reading(session)
    said, tags, outside = _parts(without_fences(text))
    if not said.strip() and not tags.strip():
        reading.loose(outside)
    elif outside.strip():
        reading.odd("text outside of the tags", outside.strip())
    voices = _voices(reading, tags)
    for line in said.split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            reading.loose(line)
            continue
        start, end = float(match[1]), float(match[2])
        heard = voices.get((start, end))
        name, gender = heard.pop(0) if heard else (None, None)
        if name is None:
            reading.odd("lines without a speaker of equal times", line.strip())
        reading.turn(name, match[3], start, end, gender)
    for (start, end), left in voices.items():
        for name, gender in left:
            reading.odd("times of a speaker without words", f"{name} {start:g}-{end:g}")
            reading.turn(name, "", start, end, gender)
    if text.count("<text>") > text.count("</text>") or text.count("<speaker>") > text.count("</speaker>"):
        reading.odd(CUT)
    return reading.result()


def _parts(text: str) -> tuple[str, str, str]:
    """Return what is inside ``<text>``, inside ``<speaker>``, and outside of both."""
    found: dict[str, list[str]] = {"text": [], "speaker": [], "": []}
    inside, at = "", 0
    for match in _OPEN.finditer(text):
        found[inside].append(text[at : match.start()])
        inside = "" if match[0].startswith("</") else match[0][1:-1]
        at = match.end()
    found[inside].append(text[at:])
    return "\n".join(found["text"]), "\n".join(found["speaker"]), "\n".join(found[""])


def _voices(reading: Reading, tags: str) -> dict[tuple[float, float], list[tuple[str | None, str | None]]]:
    """Return (start, end) → speakers and their genders; what is no such tag is noted."""
    voices: dict[tuple[float, float], list[tuple[str | None, str | None]]] = {}
    at = 0
    for match in _SPEAKER.finditer(tags):
        if tags[at : match.start()].strip():
            reading.odd("tags that do not parse", tags[at : match.start()].strip())
        at = match.end()
        found = _FIELD.findall(match[0])
        fields, rest = dict(found), _FIELD.sub("", match[0]).removeprefix("<spk").strip(" \t\n/>")
        spans = [s.strip() for s in fields.get("t", "").split(",") if s.strip()]
        right = [m for m in (re.fullmatch(_SPAN, s) for s in spans) if m]
        whole = "id" in fields and len(right) == len(spans) and len(fields) == len(found)
        known = set(fields) <= {"id", "g", "t"} and fields.get("g", "") in ("", *_GENDER)
        if not whole or rest or not known:
            reading.odd("tags that do not parse", match[0])
        for span in right:
            voice = (fields.get("id"), _GENDER.get(fields.get("g", "")))
            voices.setdefault((float(span[1]), float(span[2])), []).append(voice)
    if tags[at:].strip():
        reading.odd("tags that do not parse", tags[at:].strip())
    return voices


def sniff(text: str) -> bool:
    """Whether a line of words is inside its tag, or a speaker is."""
    return re.search(rf"<text>\s*{_SPAN}>|<spk id=", text) is not None
