"""Names of figures by what their normaliser counts: CER characters, WER words, MER both (mixed)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.evaluation.normalize import PROFILES

_LETTERS = {"character": "C", "word": "W", "CJK character or word": "M"}
_CER = re.compile(r"(?<![A-Za-z])(cp|sa|ORC-|)CER\b")
_ANY = re.compile(r"(cp|sa|)[CWM]?ER")


def named(text: str, normalisers: Iterable[str]) -> str:
    """Return a text with CER, cpCER, saCER and ORC-CER named after these normalisers, by name or id (``en-v2``).

    With normalisers that count different tokens the name is ER.
    """
    letters = {_letter(n) for n in normalisers} or {"C"}
    letter = letters.pop() if len(letters) == 1 else ""
    return text if letter == "C" else _CER.sub(rf"\1{letter}ER", text)


def figure_of(name: str) -> str | None:
    """Return the key of a rate by its name: ``cpWER`` is ``cpcer``."""
    match = _ANY.fullmatch(name)
    return f"{match[1]}cer" if match else None


def _letter(normaliser: str) -> str:
    base = re.sub(r"-v\d+$", "", normaliser).partition("+")[0]
    return _LETTERS[PROFILES[base].token] if base in PROFILES else "C"
