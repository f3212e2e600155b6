"""Text policies: normalization of punctuation, case and width, so that all targets follow one convention.

============ =========================================================================================================
``plain``    no punctuation, no noise marks, letters in upper case, full-width letters and digits narrowed, no spaces
             next to Chinese and Japanese characters; apostrophes inside words and signs of numbers (3.5, 50%) are kept,
             and so are combining marks (vowel signs, tones, points); format characters (zero-width joiners, soft
             hyphens) go without a space
``raw``      text of the corpus; white space collapsed
============ =========================================================================================================

``plain`` is the convention that the recipes of M2MeT (AliMeeting) and AISHELL-2 and the texts of LibriSpeech share.
Neither policy converts between numerals and number words; the audit counts texts with digits instead, and the noise
marks that ``plain`` removes.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial

_CJK = r"\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_NOISE = (
    r"(?:laugh(?:s|ter|ing)?|cough(?:s|ing)?|breath(?:s|e|es|ing)?|inhales?|exhales?|sighs?|sneezes?|lip[ -]?smack|"
    r"noise|music|silence|sil|applause|clapping|crosstalk|overlap|pause|clicks?|beep|inaudible|unintelligible|indiscernible|"
    r"笑|笑声|咳嗽|咳嗽声|噪音|噪声|音乐|掌声|静音|呼吸声|听不清)"
)
_MARKS = re.compile(
    r"<[^<>]{0,24}>"  # <sil> <%> <COMMA>
    rf"|\[(?:[^\[\]{_CJK}]{{0,40}}|{_NOISE})\]"  # [LAUGHTER] [*] [inaudible 0:00:58]; words in Chinese are kept
    rf"|\{{(?:[^{{}}\s{_CJK}]{{0,24}}|{_NOISE})\}}"  # {breath}
    rf"|\((?:~|/OVERLAP|{_NOISE}(?:\s[\d:.]+)?)\)|【{_NOISE}】",  # (SIL) (/OVERLAP); other words in brackets are speech
    re.IGNORECASE,
)
_SPOKEN_LAUGHING = re.compile(r"\[laughter-([^\[\]\s]+)\]", re.IGNORECASE)  # Switchboard's [laughter-yeah]
MARKS_LISTED = 50  # distinct marks in the audit

_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0xFEFF: None}
_WIDE |= dict.fromkeys(range(57344, 57351))  # private-use code points that hold signs below
_NO_LETTER = re.compile(r"[^\w\s]|[_丶]")  # 丶 is a character, but in transcripts a comma
_APOSTROPHE = re.compile(r"(?<=\S)['’‘`´](?=\w)")
_IN_NUMBER = re.compile(r"(?<=\d)[.,٫٬](?=\d)|(?<=\d)[%٪]")
_KEPT = {sign: chr(0xE000 + i) for i, sign in enumerate("'.,%٫٬٪")}
_BACK = {ord(held): sign for sign, held in _KEPT.items()}
_NOT_WORDS = re.compile(r"(?:[^\w\s\ue000-\ue006]|[_丶])+")
_CJK_LETTER = re.compile(rf"[{_CJK}]")
_SPACE_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}])\s+|\s+(?=[{_CJK}])")
_GEORGIAN_CAPITALS = {code: code - 0x1C90 + 0x10D0 for code in (*range(0x1C90, 0x1CBB), *range(0x1CBD, 0x1CC0))}


def raw(text: str) -> str:
    """Collapse white space and remove byte order marks."""
    return " ".join(text.replace("\ufeff", "").split())


def plain(text: str, found: Callable[[str], None] = lambda mark: None) -> str:
    """Keep letters, their combining marks and numbers only, in upper case.

    Args:
        found: called with each noise mark that is removed.
    """

    def removed(mark: re.Match[str]) -> str:
        found(mark[0])
        return " "

    text = unicodedata.normalize("NFC", text.translate(_WIDE))
    text = _MARKS.sub(removed, _SPOKEN_LAUGHING.sub(r"\1", text))
    text = _APOSTROPHE.sub(_apostrophe, text)
    text = _IN_NUMBER.sub(lambda m: _KEPT[m[0]], text)
    text = _NOT_WORDS.sub(_between_words, text).translate(_BACK)
    text = unicodedata.normalize(
        "NFC", text.upper().translate(_GEORGIAN_CAPITALS)
    )  # Georgian is not written in capitals
    return _SPACE_BESIDE_CJK.sub("", " ".join(text.split()))


def _upper(text: str) -> str:
    """Return a text in upper case, except Georgian, which is not written in its capitals."""
    return text.upper().translate(_GEORGIAN_CAPITALS)


def _apostrophe(match: re.Match[str]) -> str:
    """Keep an apostrophe between two letters of an alphabet."""
    before, after = match.string[match.start() - 1], match.string[match.end()]
    inside = (before.isalnum() or _is_mark(before)) and not _CJK_LETTER.search(before + after)
    return _KEPT["'"] if inside else " "


def _between_words(match: re.Match[str]) -> str:
    """Keep combining marks that follow a letter; drop format characters; replace anything else by a space."""
    kept, attached = "", match.start() > 0 and not match.string[match.start() - 1].isspace()
    for sign in match[0]:
        if unicodedata.category(sign) == "Cf" or _is_variation(sign):
            continue
        if not _is_mark(sign):
            return f"{kept} "
        kept += sign if attached else ""
    return kept


def _is_mark(sign: str) -> bool:
    return unicodedata.category(sign).startswith("M")


def _is_variation(sign: str) -> bool:
    """Return whether the sign chooses between glyphs, as after an emoji."""
    return "\ufe00" <= sign <= "\ufe0f" or "\U000e0100" <= sign <= "\U000e01ef"


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can encode a text: it has no lone surrogate, as a JSON escape or a damaged byte can produce."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def joined(first: str, second: str) -> str:
    """Concatenate two texts, with a space unless one side of the seam is Chinese or Japanese."""
    return _SPACE_BESIDE_CJK.sub("", f"{first} {second}") if first and second else first or second


POLICIES: dict[str, Callable[[str], str]] = {"plain": plain, "raw": raw}
DESCRIPTIONS = {
    "plain": "punctuation and noise marks removed, letters in upper case, numbers as the corpus writes them",
    "raw": "punctuation, case and numbers as the corpus writes them",
}


class TextPolicy:
    """A text policy that counts what its output contains, and the noise marks that it removes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._apply = partial(plain, found=self._count_mark) if name == "plain" else POLICIES[name]
        self._seen: Counter[str] = Counter()
        self._marks: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        """Normalize a text for the training target."""
        text = self._apply(text)
        if text:
            self._seen["texts"] += 1
            self._seen["with_digits"] += bool(re.search(r"\d", text))
            self._seen["with_lower_case"] += text != _upper(text)
            self._seen["with_punctuation"] += _has_punctuation(text)
        return text

    def _count_mark(self, mark: str) -> None:
        """Count a mark by its form: upper case, digits as 0."""
        form = re.sub(r"\d", "0", mark).upper()
        self._marks[form if form in self._marks or len(self._marks) < MARKS_LISTED else "other"] += 1

    def result(self) -> dict[str, object]:
        """Return the policy and the counts of its output, for the audit."""
        kinds = ("texts", "with_punctuation", "with_lower_case", "with_digits")
        said: dict[str, object] = {"policy": self.name, "means": DESCRIPTIONS[self.name]}
        said |= {kind: self._seen[kind] for kind in kinds}
        return said | ({"marks_removed": dict(sorted(self._marks.items()))} if self._marks else {})


def _has_punctuation(text: str) -> bool:
    """Return whether a text holds signs other than letters with their marks, numbers, and what ``plain`` keeps."""
    inside = _APOSTROPHE.sub(lambda m: "" if _apostrophe(m) != " " else m[0], _IN_NUMBER.sub("", text))
    return any(not (_is_mark(sign) or unicodedata.category(sign) == "Cf") for sign in _NO_LETTER.findall(inside))
