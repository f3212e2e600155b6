"""Named, versioned text normalisation. A figure without the name of its profile cannot be compared.

A profile is a list of rules applied in order and a way to split the result into tokens. Changing a rule means raising
the profile's version; both sides of a comparison always go through the same profile.

=============  =========================================================================================  ==========
profile        rules                                                                                      token
=============  =========================================================================================  ==========
``m2met``      those of the M2MeT and AliMeeting recipes: drop annotation tags and nine marks, Latin in   character
               upper case, no numerals, no script conversion
``paper-zh``   NFKC; traditional → simplified (OpenCC); numerals → Chinese reading (cn2an); lower case;   character
               everything that is neither letter nor mark nor number dropped, variation selectors too
``en``         NFKC; lower case; numerals → words (num2words); punctuation dropped, apostrophes inside    word
               words kept, hyphenated words split
``mixed``      as ``paper-zh`` without numerals; CJK by character, other scripts by word                  both
=============  =========================================================================================  ==========

``+nofiller`` after a profile's name (``paper-zh+nofiller``) also drops hesitations.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from shards.errors import ScoreError

Rule = Callable[[str], str]

# Ideographs, kana and hangul: scripts written without spaces between words, or scored by character by custom.
CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_CJK_OR_WORD = re.compile(f"[{CJK}]|[^{CJK}\\s]+")


@dataclass(frozen=True)
class Profile:
    """One row of the table above."""

    name: str
    version: int
    rules: tuple[Rule, ...]
    split: Callable[[str], list[str]]
    token: str  # what is counted, for headings

    @property
    def id(self) -> str:
        """Name and version, stored with each figure."""
        return f"{self.name}-v{self.version}"

    def normalize(self, text: str) -> str:
        """Apply the rules."""
        for rule in self.rules:
            text = rule(text)
        return text

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of the normalised text."""
        return self.split(self.normalize(text))


def profile(name: str) -> Profile:
    """Return a profile by name, ``+nofiller`` included.

    Raises:
        ScoreError: the name is unknown.
    """
    base, _, option = name.partition("+")
    if base not in PROFILES or option not in ("", "nofiller"):
        raise ScoreError(f"unknown normaliser {name!r}, known: {', '.join(PROFILES)}, each also with +nofiller")
    found = PROFILES[base]
    if not option:
        return found
    return Profile(name, found.version, (drop_fillers, *found.rules), found.split, found.token)


# --- rules ---------------------------------------------------------------------------------------------------------

_M2MET_DROP = re.compile(r"<(?:sil|%|-|\$|#|_|space)>|\(~\)|\(SIL\)|\(/OVERLAP\)|[`&,，丶。、？！\s]", re.IGNORECASE)
_M2MET_WIDTH = str.maketrans("Ａａｂｃｋｔ", "AABCKT")


def m2met(text: str) -> str:
    """The rules of the M2MeT recipe's text_normalize.pl and text_format.pl."""
    return _M2MET_DROP.sub("", text).translate(_M2MET_WIDTH).upper()


def nfkc(text: str) -> str:
    """Full-width to half-width, compatibility forms to plain ones."""
    return unicodedata.normalize("NFKC", text)


@functools.cache
def _opencc() -> Callable[[str], str]:
    import opencc

    return opencc.OpenCC("t2s").convert


def simplified(text: str) -> str:
    """Traditional Chinese characters to simplified ones."""
    return _opencc()(text) if any(c >= "\u3400" for c in text) else text


def lower(text: str) -> str:
    """Lower case, the same for every script (``ß`` becomes ``ss``)."""
    return text.casefold()


# Marks of how a character is drawn: variation selectors and enclosing marks, as in ❤️ and 1️⃣.
_DRAWING = re.compile("[\u180b-\u180d\ufe00-\ufe0f\u20d0-\u20f0\U000e0100-\U000e01ef]")


def letters_only(text: str) -> str:
    """Drop everything but letters, marks and numbers, white space too."""
    return "".join([c for c in _DRAWING.sub("", text) if unicodedata.category(c)[0] in "LMN"])


def words_only(text: str) -> str:
    """Keep letters, marks and numbers in words separated by one space; an apostrophe inside a word stays."""
    text = re.sub(r"[\u2018\u2019\u02bc\uff07]", "'", _DRAWING.sub("", text))
    kept = "".join([c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text])
    return " ".join([w for w in (w.strip("'") for w in kept.split()) if w])


_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d,])")
_ZH_NUMBER = re.compile(r"(?P<year>\d{4})(?=年)|(?P<percent>\d+(?:\.\d+)?)%|(?P<number>\d+(?:\.\d+)?)", re.ASCII)
_EN_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<ordinal>st|nd|rd|th)?(?P<percent>%)?", re.ASCII)
_ZH_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")


def numerals_zh(text: str) -> str:
    """Arabic numerals as they are read in Chinese: ``2024年`` 二零二四年, ``123`` 一百二十三, ``50%`` 百分之五十.

    A number with a leading zero or of more than 16 digits is read digit by digit, as codes and telephone numbers are.
    """
    return _ZH_NUMBER.sub(_read_zh, _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text))


def _read_zh(match: re.Match[str]) -> str:
    import cn2an

    if match["year"]:
        return match["year"].translate(_ZH_DIGITS)
    digits = match["percent"] or match["number"]
    whole, _, decimals = digits.partition(".")
    by_digit = len(whole) > 16 or (len(whole) > 1 and whole[0] == "0")
    reading = whole.translate(_ZH_DIGITS) if by_digit else cn2an.an2cn(whole, "low")
    if decimals:  # every digit is read, where cn2an stops at the 16th
        reading += "点" + decimals.translate(_ZH_DIGITS)
    return f"百分之{reading}" if match["percent"] else reading


def numerals_en(text: str) -> str:
    """Arabic numerals as English words, ``%`` as ``percent``; more than 12 digits are read one by one."""
    return _EN_NUMBER.sub(_read_en, _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text))


def _read_en(match: re.Match[str]) -> str:
    from num2words import num2words

    whole, _, decimals = match["number"].partition(".")
    if len(whole) > 12 or (len(whole) > 1 and whole[0] == "0"):
        reading = " ".join([num2words(int(d)) for d in whole])
    else:
        reading = num2words(int(whole), to="ordinal" if match["ordinal"] and not decimals else "cardinal")
        reading = reading.replace(" and ", " ").replace("-", " ").replace(",", "")
    if decimals:
        reading += " point " + " ".join([num2words(int(d)) for d in decimals])
    return f" {reading}{' percent' if match['percent'] else ''} "


_FILLERS_ZH = re.compile("[呃嗯啊哦噢喔唉哎诶欸唔]")
_FILLERS_EN = re.compile(r"\b(?:uh|um|uhm|umm|hmm|hm|mm|mhm|mmhm|er|erm|ah|oh|eh)\b", re.IGNORECASE)


def drop_fillers(text: str) -> str:
    """Drop hesitations and interjections, Chinese and English."""
    return _FILLERS_EN.sub("", _FILLERS_ZH.sub("", text))


# --- splits --------------------------------------------------------------------------------------------------------


def characters(text: str) -> list[str]:
    """Split into characters, white space dropped."""
    return [c for c in text if not c.isspace()]


def words(text: str) -> list[str]:
    """Split at white space."""
    return text.split()


def cjk_or_words(text: str) -> list[str]:
    """Split into CJK characters and words of other scripts."""
    return _CJK_OR_WORD.findall(text)


PROFILES = {
    p.name: p
    for p in (
        Profile("m2met", 1, (m2met,), characters, "character"),
        Profile("paper-zh", 1, (nfkc, simplified, numerals_zh, lower, letters_only), characters, "character"),
        Profile("en", 1, (nfkc, lower, numerals_en, words_only), words, "word"),
        Profile("mixed", 1, (nfkc, simplified, lower, words_only), cjk_or_words, "CJK character or word"),
        Profile("none", 1, (), characters, "character"),
    )
}
