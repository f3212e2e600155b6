"""Text policies: normalization of punctuation, case and width, so that all targets follow one convention.

============ =========================================================================================================
``plain``    no punctuation, no noise marks, Latin letters in upper case, full-width letters and digits narrowed, spaces
             between Latin words only; apostrophes inside Latin words and signs of numbers (3.5, 50%) are kept
``raw``      text of the corpus; white space collapsed
============ =========================================================================================================

``plain`` is the convention that the recipes of M2MeT (AliMeeting) and AISHELL-2 and the texts of LibriSpeech share.
Neither policy converts between numerals and number words; the audit counts texts with digits instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

_MARKS = re.compile(r"<[^<>]{0,24}>|\((?:~|SIL|/OVERLAP)\)", re.IGNORECASE)  # <sil> <%> <COMMA> … (SIL) (/OVERLAP)
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_NO_LETTER = re.compile(r"[^\w\s]|[_丶]")  # 丶 is a character, but in transcripts a comma
_IN_WORD = re.compile(r"(?<=[A-Za-z\u00c0-\u024f])['’](?=[A-Za-z\u00c0-\u024f])")
_IN_NUMBER = re.compile(r"(?<=\d)[.,](?=\d)|(?<=\d)%")
_KEPT = {"'": "\ue000", ".": "\ue001", ",": "\ue002", "%": "\ue003"}  # private-use code points, absent from texts
_BACK = {ord(held): sign for sign, held in _KEPT.items()}
_CJK = r"\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SPACE_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}])\s+|\s+(?=[{_CJK}])")


def raw(text: str) -> str:
    """Collapse white space and remove byte order marks."""
    return " ".join(text.replace("\ufeff", "").split())


def plain(text: str) -> str:
    """Keep letters and numbers only, in upper case."""
    text = _MARKS.sub(" ", text.replace("\ufeff", "")).translate(_WIDE)
    text = unicodedata.normalize("NFC", text)
    text = _IN_WORD.sub(_KEPT["'"], text)
    text = _IN_NUMBER.sub(lambda m: _KEPT[m[0]], text)
    text = re.sub(r"[^\w\s\ue000-\ue003]|[_丶]", " ", text).translate(_BACK).upper()
    return _SPACE_BESIDE_CJK.sub("", " ".join(text.split()))


def joined(first: str, second: str) -> str:
    """Concatenate two texts, with a space unless one side of the seam is Chinese or Japanese."""
    return _SPACE_BESIDE_CJK.sub("", f"{first} {second}") if first and second else first or second


POLICIES: dict[str, Callable[[str], str]] = {"plain": plain, "raw": raw}
DESCRIPTIONS = {
    "plain": "punctuation and noise marks removed, Latin letters in upper case, numbers as the corpus writes them",
    "raw": "punctuation, case and numbers as the corpus writes them",
}


class TextPolicy:
    """A text policy that counts what its output contains."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._apply = POLICIES[name]
        self._seen: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        """Normalize a text for the training target."""
        text = self._apply(text)
        if text:
            self._seen["texts"] += 1
            self._seen["with_digits"] += bool(re.search(r"\d", text))
            self._seen["with_lower_case"] += text != text.upper()
            self._seen["with_punctuation"] += bool(_NO_LETTER.search(_IN_WORD.sub("", _IN_NUMBER.sub("", text))))
        return text

    def result(self) -> dict[str, object]:
        """Return the policy and the counts of its output, for the audit."""
        kinds = ("texts", "with_punctuation", "with_lower_case", "with_digits")
        return {"policy": self.name, "means": DESCRIPTIONS[self.name]} | {k: self._seen[k] for k in kinds}
