"""Times of words: a text, and units that spell it with times → each of its words with its time

A word is a Chinese or Japanese character, or a run of other letters and digits; punctuation belongs to the word before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np

from pipeline.baselines.interfaces import Word

# The ranges have marks that are no letters, such as the dot of ジョン・スミス; they are punctuation.
_SINGLE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"(?=[^\W_])[{_SINGLE}]|[^\W_{_SINGLE}]+(?:['’][^\W_{_SINGLE}]+)*")


def cut(text: str, places: Sequence[re.Match[str]]) -> list[str]:
    """Cut a text before each place but the first: nothing of it is lost, unless there is no place."""
    ends = [*(p.start() for p in places[1:]), len(text)]
    return [text[0 if i == 0 else p.start() : end] for i, (p, end) in enumerate(zip(places, ends, strict=False))]


def spread(text: str, start: float, end: float) -> list[Word]:
    """Spread the words of a text over a stretch, in seconds, in proportion to their letters."""
    letters = sum(c.isalnum() for c in text)
    edges = np.linspace(start, end, letters + 1)
    return _words(text, edges[:-1], edges[1:])


def placed(text: str, units: Sequence[Word]) -> list[Word]:
    """Give the words of a text the times of units that spell it.

    Units may be cut otherwise than words, and lack spaces and punctuation. A letter that no unit has, or another one,
    gets its time from its neighbours.

    Args:
        units: at least one, unless the text has no word.
    """
    said = "".join(c for c in text if c.isalnum())
    heard = "".join(c for u in units for c in u.text if c.isalnum())
    if not said:
        return []
    if not heard:
        return spread(text, min(u.start for u in units), max(u.end for u in units))
    edges = [np.linspace(u.start, max(u.start, u.end), n + 1) for u in units if (n := sum(c.isalnum() for c in u.text))]
    first, last = np.concatenate([e[:-1] for e in edges]), np.concatenate([e[1:] for e in edges])
    begins, ends = np.full(len(said), np.nan), np.full(len(said), np.nan)
    for i, j, size in _equal(said, heard):
        begins[i : i + size], ends[i : i + size] = first[j : j + size], last[j : j + size]
    _fill(begins, ends, float(first.min()), float(last.max()))
    return _words(text, begins, ends)


def _equal(said: str, heard: str) -> list[tuple[int, int, int]]:
    """Return places in both, and lengths, of what they have in common."""
    if said == heard:
        return [(0, 0, len(said))]
    return [(b.a, b.b, b.size) for b in SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()]


def _fill(begins: np.ndarray, ends: np.ndarray, start: float, end: float) -> None:
    """Share the time between known letters among unknown ones, in place."""
    at = 0
    while at < len(begins):
        if not np.isnan(begins[at]):
            at += 1
            continue
        stop = at
        while stop < len(begins) and np.isnan(begins[stop]):
            stop += 1
        left = float(ends[at - 1]) if at else start
        right = max(left, float(begins[stop]) if stop < len(begins) else end)
        edges = np.linspace(left, right, stop - at + 1)
        begins[at:stop], ends[at:stop] = edges[:-1], edges[1:]
        at = stop


def _words(text: str, begins: np.ndarray, ends: np.ndarray) -> list[Word]:
    """Words of a text whose letters have times."""
    places = list(_WORD.finditer(text))
    before = np.concatenate([[0], np.cumsum([c.isalnum() for c in text])]).astype(int)  # letters before each character
    return [
        Word(part, float(begins[before[p.start()]]), float(ends[before[p.end()] - 1]))
        for p, part in zip(places, cut(text, places), strict=True)
    ]
