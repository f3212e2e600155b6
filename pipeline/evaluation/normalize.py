"""Named, versioned text normalisation. A figure without the name of its profile cannot be compared.

A profile is a list of rules applied in order and a way to split the result into tokens. Changing a rule means raising
the profile's version; both sides of a comparison always go through the same profile.

=============  =========================================================================================  ==========
profile        rules                                                                                      token
=============  =========================================================================================  ==========
``m2met``      those of the M2MeT and AliMeeting recipes: drop annotation tags and nine marks, Latin in   character
               upper case, no numerals, no script conversion
``paper-zh``   invisible characters dropped; NFKC; traditional → simplified (OpenCC); 〇 → 零;     character
               numerals → Chinese reading (cn2an); lower case; everything that is neither letter nor
               mark nor number dropped
``en``         invisible characters dropped; NFKC; lower case; numerals → words (num2words); punctuation  word
               dropped, apostrophes inside words kept, hyphenated words split
``mixed``      as ``paper-zh`` without numerals; CJK by character, other scripts by word                  both
=============  =========================================================================================  ==========

``+nofiller`` after a profile's name (``paper-zh+nofiller``) also drops hesitations. Its own version is added to the
profile's.

A space or comma that the profile drops changes no reading, except between digits: there a comma may separate thousands.
So text with a space after every Chinese character, as ASR toolkits write it, reads as without.
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
    first = sum(rule in _BEFORE_FILLERS for rule in found.rules)
    rules = (*found.rules[:first], drop_fillers, *found.rules[first:])
    return Profile(name, found.version + _FILLERS_VERSION - 1, rules, found.split, found.token)


# --- rules ---------------------------------------------------------------------------------------------------------

_M2MET_DROP = re.compile(r"<(?:sil|%|-|\$|#|_|space)>|\(~\)|\(SIL\)|\(/OVERLAP\)|[`&,，丶。、？！\s]", re.IGNORECASE)
_M2MET_WIDTH = str.maketrans("Ａａｂｃｋｔ", "AABCKT")


def m2met(text: str) -> str:
    """The rules of the M2MeT recipe's text_normalize.pl and text_format.pl."""
    return _M2MET_DROP.sub("", text).translate(_M2MET_WIDTH).upper()


# Invisible characters other than those of category Cf: fillers, joiners, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_TYPED = str.maketrans({**dict.fromkeys("，︐﹐", "、"), **dict.fromkeys("´`‛′", "'")})
_OWN_NUMBERS = "²³¹¼-¾⁰⁴-⁹₀-₉⅐-⅞↉①-⒛"
_RAISED = re.compile(f"(?<=[0-9０-９{_OWN_NUMBERS}])(?=[{_OWN_NUMBERS}])")


def visible(text: str) -> str:
    """Drop soft hyphens, zero-width characters, marks of direction and variation selectors."""
    if text.isascii():
        return text
    return "".join([c for c in _INVISIBLE.sub("", text) if unicodedata.category(c) != "Cf"])


def marks(text: str) -> str:
    """Keep apart what NFKC would join.

    A full-width comma, which separates no thousands, becomes ``、``; an accent typed for an apostrophe becomes one; a
    number in a circle or raised, or a fraction, after another number gets a space before it.
    """
    return _RAISED.sub(" ", text.translate(_TYPED))


def nfkc(text: str) -> str:
    """Full-width to half-width, compatibility forms to plain ones."""
    return unicodedata.normalize("NFKC", text)


def joined(text: str) -> str:
    """Drop white space between CJK characters, and in numbers with ○: 著 名 is converted as 著名 is."""
    if text.isascii():
        return text
    return _NUMBER_RUN.sub(_join_number, _BETWEEN_CJK.sub("", text.replace("◯", "○")))


def _join_number(match: re.Match[str]) -> str:
    """Join ``二 ○ 二 四 年``: ○ with a numeral before and another character of a number after it."""
    number = match[0].strip()
    inside = number.find("○") > 0 and number.rfind("○") < len(number) - 1
    return match[0].replace(number, "".join(number.split())) if inside else match[0]


@functools.cache
def _opencc() -> Callable[[str], str]:
    import opencc

    return opencc.OpenCC("t2s").convert


def simplified(text: str) -> str:
    """Traditional Chinese characters to simplified ones, those of Taiwan included: 看著 becomes 看着, 著名 stays."""
    if not any(c >= "\u3400" for c in text):
        return text
    return _ZHE.sub("着", _opencc()(text).translate(_TAIWAN)).replace("甚么", "什么")


def zeros(text: str) -> str:
    """〇 to 零; in Chinese numbers also what is typed for it: ○, and the letter O between two numerals."""
    return _ZERO.sub(lambda m: "零" * len(m[0]), text.replace("〇", "零"))


def lower(text: str) -> str:
    """Lower case, the same for every script (``ß`` becomes ``ss``)."""
    return text.casefold()


# What OpenCC leaves: Taiwan's pronouns, two variants, and 著 where it is read zhe or zhuo.
_TAIWAN = str.maketrans("妳牠痺簷", "你它痹檐")
_ZHE = re.compile("(?<![显编原名土专论卓昭遗巨拙译])著(?!名(?![片字单])|[作述者录称])")
_ZH_NUMERALS = "零一二三四五六七八九十百千万亿"
_ZERO = re.compile(
    f"(?<=[{_ZH_NUMERALS}])[○◯]++|(?<![○◯])[○◯]++(?=[{_ZH_NUMERALS}]*年)|(?<=[{_ZH_NUMERALS}])[Oo]++(?=[{_ZH_NUMERALS}年])"
)

_BETWEEN_CJK = re.compile(rf"(?<=[{CJK}])\s+(?=[{CJK}])")
_NUMBER_RUN = re.compile(rf"[{_ZH_NUMERALS}〇○年\s]++")

# Marks of how a character is drawn: variation selectors and enclosing marks, as in ❤️ and 1️⃣.
_DRAWING = re.compile("[\u180b-\u180d\ufe00-\ufe0f\u20d0-\u20f0\U000e0100-\U000e01ef]")


def letters_only(text: str) -> str:
    """Drop everything but letters, marks and numbers, white space too."""
    return "".join([c for c in _DRAWING.sub("", text) if unicodedata.category(c)[0] in "LMN"])


_QUOTE = re.compile(f"(?<![^{CJK}' ])'|'(?![^{CJK}' ])")  # at an end of a word, or next to a CJK character


def words_only(text: str) -> str:
    """Keep letters, marks and numbers in words separated by one space; an apostrophe inside a word stays.

    An apostrophe next to a CJK character is a quotation mark.
    """
    text = re.sub(r"[\u2018\u2019\u02bc\uff07]", "'", _DRAWING.sub("", text))
    kept = [c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in text]
    return " ".join(_QUOTE.sub(" ", "".join(kept)).split())


# Digits in groups of three: after a comma, or after a space or another comma if a group is 000.
_THOUSANDS = re.compile(
    r"(?<!\d)(?<!\d[.,])[1-9]\d{0,2}(?:(?:,\d{3})+(?!,?\d)|(?=(?:S\d{3}){0,4}S000)(?:S\d{3}){1,5}(?!S?\d))".replace(
        "S", "(?: ?[,、] ?| )"
    ),
    re.ASCII,
)
_DROPPED = r"[\s,、]*"  # between a number and what says how it is read
_YEAR = re.compile(rf"(?<!\d)(?<!\d\.)\d{{4}}(?={_DROPPED}年)", re.ASCII)
_SIGN = rf"(?:{_DROPPED}(?P<sign>[%‰]))?"
_ZH_NUMBER = re.compile(rf"(?P<number>\d+(?:\.\d+)?){_SIGN}", re.ASCII)
_EN_NUMBER = re.compile(rf"(?P<number>\d+(?:\.\d+)?)(?P<ordinal>(?:st|nd|rd|th)(?![^\W\d_]))?{_SIGN}", re.ASCII)
_ZH_SIGNS = {"%": "百分之", "‰": "千分之", None: ""}
_EN_SIGNS = {"%": " percent", "‰": " per mille", None: ""}
_ZH_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")


def thousands(text: str) -> str:
    """Drop the separators inside numbers such as ``1,000`` and ``1 000``; ``100，200`` stays two numbers."""
    return _THOUSANDS.sub(lambda m: re.sub(r"\D", "", m[0]), text)


def numerals_zh(text: str) -> str:
    """Arabic numerals as they are read in Chinese: ``2024年`` 二零二四年, ``123`` 一百二十三, ``50%`` 百分之五十.

    A number with a leading zero or of more than 16 digits is read digit by digit, as codes and telephone numbers are.
    """
    return _ZH_NUMBER.sub(_read_zh, thousands(_YEAR.sub(lambda m: m[0].translate(_ZH_DIGITS), text)))


def _read_zh(match: re.Match[str]) -> str:
    import cn2an

    whole, _, decimals = match["number"].partition(".")
    by_digit = len(whole) > 16 or (len(whole) > 1 and whole[0] == "0")
    reading = whole.translate(_ZH_DIGITS) if by_digit else cn2an.an2cn(whole, "low")
    if decimals:  # every digit is read, where cn2an stops at the 16th
        reading += "点" + decimals.translate(_ZH_DIGITS)
    return _ZH_SIGNS[match["sign"]] + reading


def numerals_en(text: str) -> str:
    """Arabic numerals as English words, ``%`` as ``percent``; more than 12 digits are read one by one."""
    return _EN_NUMBER.sub(_read_en, thousands(text))


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
    return f" {reading}{_EN_SIGNS[match['sign']]} "


_FILLERS_VERSION = 2
_BEFORE_FILLERS = (visible, marks, nfkc, joined, simplified)
_IN_WORD = rf"[^\W_{CJK}]"
_FILLERS_EN = (
    r"u+h+-h+u+h+|u+h+m*|u+m+|h+m+|mm+(?:h+m*)?|mh+m+|e+h+m+|er|ee+r|err{2,}|e+r+m+|a+h+|o+h+|e+h+"  # "err" is a verb
)
_FILLERS = re.compile(
    rf"[呃嗯啊哦噢喔唉哎诶誒欸嗳噯唔]|(?<!{_IN_WORD})(?<!{_IN_WORD}['’])(?:{_FILLERS_EN})(?!['’]?{_IN_WORD})",
    re.IGNORECASE,
)
_NARROW = str.maketrans({0xFF01 + i: 0x21 + i for i in range(94)})


def drop_fillers(text: str) -> str:
    """Drop hesitations and interjections, Chinese and English, simplified and traditional, in either width.

    A space takes their place, so that the words around them stay apart.
    """
    kept, at = [], 0
    for match in _FILLERS.finditer(text.translate(_NARROW)):  # of the same length
        kept += [text[at : match.start()], " "]
        at = match.end()
    return "".join([*kept, text[at:]])


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


_WRITING = (visible, marks, nfkc, joined, simplified, zeros)
PROFILES = {
    p.name: p
    for p in (
        Profile("m2met", 1, (m2met,), characters, "character"),
        Profile("paper-zh", 2, (*_WRITING, numerals_zh, lower, letters_only), characters, "character"),
        Profile("en", 2, (visible, marks, nfkc, lower, numerals_en, words_only), words, "word"),
        Profile("mixed", 2, (*_WRITING, thousands, lower, words_only), cjk_or_words, "CJK character or word"),
        Profile("none", 1, (), characters, "character"),
    )
}
