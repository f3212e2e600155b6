"""JSON turns of other systems: whole, in fences, inside other text, or cut off.

The objects of the turns are found by their braces. One that cannot be decoded is read field by field; if it has no
field of text, it is text without a speaker. Text outside of the outermost brackets is listed and is no turn.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.output_reading import CUT, Notes, Reading, Rows, clock, without_fences

_STRING = r'(?<!\\)"(?:[^"\\]|\\.)*"'  # begins at no escaped quote: a search is linear
_SCALAR = rf"{_STRING}|-?[\d.]+(?:[eE][-+]?\d+)?|null|true|false|NaN|-?Infinity"
_FIELD = re.compile(rf"({_STRING})\s*:\s*({_SCALAR}|\"(?:[^\"\\]|\\.)*\\?$)", re.DOTALL)
_SYNTAX = re.compile(r"[\s\[\]{},]*")
_FIELDS_BEFORE = rf"(?:{_STRING}\s*:\s*(?:{_SCALAR}|\{{[^{{}}]*\}}|\[[^\[\]{{}}]*\])\s*,\s*)*"
_BEGIN = re.compile(r'\{\s*["}]')  # decoding elsewhere fails, in time that is linear in the text before it
_BRACE = re.compile(r"[{}]")
_CLOSED = re.compile(r'\s*\]\s*,\s*"')  # the list of turns ends, and another field follows
_DEEPEST = 50  # brackets inside brackets


@dataclass(frozen=True)
class TurnKeys:
    """Keys of a format, in lower case; the first that is present counts.

    ``inside`` are the lists that hold turns, ``ignored`` fields that say nothing of a turn, ``not_turns`` lists that
    repeat the turns in another form. ``unit`` is what one of its numbers means, in seconds.
    """

    text: tuple[str, ...]
    start: tuple[str, ...]
    end: tuple[str, ...]
    speaker: tuple[str, ...]
    inside: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    not_turns: tuple[str, ...] = ()
    unit: float = 1.0
    wordless: bool = False  # turns have no text


def json_turns(session: str, text: str, keys: TurnKeys) -> tuple[Rows, Notes]:
    """Read the turns of a text; never raises."""
    reading = Reading(session)
    body = without_fences(text)
    try:
        whole = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        _scan(reading, body, keys)
    else:
        _walk(reading, whole, keys)
    return reading.result()


def _walk(reading: Reading, value: Any, keys: TurnKeys, depth: int = 0) -> None:
    """Add the turns of parsed JSON."""
    if isinstance(value, list) and depth < _DEEPEST:
        for item in value:
            _walk(reading, item, keys, depth + 1)
    elif isinstance(value, dict) and depth < _DEEPEST:
        lists = [k for k in value if k.lower() in keys.inside and isinstance(value[k], list)]
        if not lists:
            _add(reading, value, keys)
            return
        before = len(reading.rows)
        for key in lists:
            _walk(reading, value[key], keys, depth + 1)
        _note_head(reading, value, keys, before)
    else:
        reading.loose(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _add(reading: Reading, item: Mapping[str, Any], keys: TurnKeys, piece: str | None = None) -> None:
    """Add one object as a turn; without a field of text it is text itself."""
    present = {k.lower() for k in item}
    used: dict[str, Any] = {}

    def field(names: tuple[str, ...]) -> Any:
        for key in (k for n in names if n in present for k in item if k.lower() == n):
            if item[key] is not None:
                used[key] = item[key]
                return item[key]
        return None

    said, speaker = field(keys.text), field(keys.speaker)
    has_text = not present.isdisjoint(keys.text) or (keys.wordless and not present.isdisjoint(keys.start))
    if not has_text or not isinstance(said, str | int | float | None) or not isinstance(speaker, str | int | None):
        reading.loose(json.dumps(item, ensure_ascii=False) if piece is None else piece)
        return
    times = []
    for names in (keys.start, keys.end):
        value = field(names)
        number = clock(value)
        if value is not None and number is None:
            reading.odd("times that are not", json.dumps(value, ensure_ascii=False))
        times.append(None if number is None else round(number * keys.unit, 6))
    known = (*keys.text, *keys.start, *keys.end, *keys.speaker)
    for key, value in item.items():
        if key.lower() in known and key not in used and value is not None and value not in used.values():
            reading.odd("second fields for one thing", _as_json(key, value))
    _note_rest(reading, item, keys, known)
    reading.turn(None if speaker is None else str(speaker), "" if said is None else str(said), times[0], times[1])


def _note_head(reading: Reading, fields: Mapping[str, Any], keys: TurnKeys, before: int) -> None:
    """Note the fields around a list of turns; text of all turns counts only if the list has given no rows."""
    _note_rest(reading, fields, keys, known=(*keys.inside, *keys.not_turns, *keys.text))
    said = [v for k, v in fields.items() if k.lower() in keys.text and isinstance(v, str)]
    if len(reading.rows) == before:
        for text in said:
            reading.loose(text)


def _note_rest(reading: Reading, item: Mapping[str, Any], keys: TurnKeys, known: tuple[str, ...]) -> None:
    """Note the fields that the format does not have."""
    for key, value in item.items():
        if key.lower() not in (*known, *keys.ignored):
            reading.odd("fields that the format does not have", _as_json(key, value))


def _as_json(key: str, value: Any) -> str:
    return json.dumps({key: value}, ensure_ascii=False)[1:-1]


def _scan(reading: Reading, body: str, keys: TurnKeys) -> None:
    """Add the turns of text that is not JSON as a whole."""
    if keys.not_turns and (other := re.search(_list_of(keys.not_turns), body, re.IGNORECASE)):
        body = body[: other.start()]
    head = re.compile(rf"\{{\s*{_FIELDS_BEFORE}{_list_of(keys.inside)}\s*\[", re.IGNORECASE) if keys.inside else None
    found = list(_objects(body, head))
    if not found:
        reading.loose(body)
        if body.strip():
            reading.odd("no JSON")
        return
    at = 0
    heads: dict[str, Any] = {}
    for i, (start, end, item) in enumerate(found):
        if i and _CLOSED.match(body, at):
            break
        _between(reading, body[at:start], outside=i == 0)
        if isinstance(item, dict):
            _walk(reading, item, keys)
        elif item is None:
            _salvage(reading, body[start:end], keys)
        else:
            heads |= _object([(_value(m[1]), _value(m[2])) for m in _FIELD.finditer(body, start, end)])
        at = end
    _note_head(reading, heads, keys, 0)
    rest = body[at:]
    if found[-1][2] is None or body.count("[") > body.count("]"):
        reading.odd(CUT)
    _between(reading, rest, outside="]" in rest or "}" in rest or not body[: found[0][0]].rstrip().endswith("["))


def _list_of(names: tuple[str, ...]) -> str:
    return rf'"(?:{"|".join(map(re.escape, names))})"\s*:'


def _between(reading: Reading, piece: str, outside: bool) -> None:
    """Add or note text between objects."""
    if _SYNTAX.fullmatch(piece):
        return
    kept = piece.strip("[]{}, \t\r\n")
    if outside:
        reading.odd("text outside of the JSON", kept)
    else:
        reading.loose(kept)


def _objects(body: str, head: re.Pattern[str] | None) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, end, object) for each object: parsed, None if it is damaged, or "" for the head of a list."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    at = body.find("{")
    while at >= 0:
        item: Any
        try:
            item, end = decoder.raw_decode(body, at) if _BEGIN.match(body, at) else (None, _end_of_damaged(body, at))
        except RecursionError:
            item, end = None, len(body)
        except ValueError:
            opened = head.match(body, at) if head else None
            item, end = ("", opened.end()) if opened else (None, _end_of_damaged(body, at))
        yield at, end, item
        at = body.find("{", end)


def _end_of_damaged(body: str, at: int) -> int:
    """Return where an object that cannot be decoded ends: after its brace, or before the next object."""
    following = _BRACE.search(body, at + 1)
    if following is None:
        return len(body)
    return following.end() if following[0] == "}" else following.start()


def _salvage(reading: Reading, piece: str, keys: TurnKeys) -> None:
    """Add the turn of a damaged object if it consists of readable fields, the last of which may be cut."""
    if _SYNTAX.fullmatch(piece):
        reading.odd("objects without fields")
        return
    item: dict[str, Any] = {}
    rest: list[str] = []
    stop = len(piece)
    for match in reversed(list(_FIELD.finditer(piece))):
        key, value = _value(match[1]), _value(match[2])
        if key in item:
            break
        item[key] = value
        rest.append(piece[match.end() : stop])
        stop = match.start()
    rest.append(piece[:stop])
    if item and all(map(_SYNTAX.fullmatch, rest)):
        reading.odd("damaged objects, read field by field", piece)
        _add(reading, dict(reversed(item.items())), keys, piece)
    else:
        reading.loose(piece)


def _value(text: str) -> Any:
    """Return the value of a scalar; a string may lack its end."""
    for shape in (text, text + '"', text.rstrip("\\") + '"'):
        try:
            return json.loads(shape, strict=False)
        except ValueError:
            continue
    return text.strip('"')


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; a key that occurs again keeps its first value, and the others are kept under numbered names."""
    made: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for key, value in pairs:
        name = key
        while name in made:
            seen[key] += 1
            name = f"{key} ({seen[key] + 1})"
        made[name] = value
    return made
