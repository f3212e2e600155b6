"""Choice of a normaliser by the language that is stated, else by the script of the reference; a mismatch is found.

================================  ==============================================================
reference                         profile
================================  ==============================================================
Chinese                           ``paper-zh``: characters
Latin script                      ``en``: words
both, or any other script         ``mixed``: CJK characters, and words of other scripts
================================  ==============================================================

A script counts from a tenth of the text, in CJK characters and words of other scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.evaluation.normalize import CJK, Profile, profile

AUTO = "auto"
SHARE = 0.1
TEXT = 1_000_000  # characters of the reference that are looked at

_UNIT = re.compile(
    f"(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff])|(?P<cjk>[{CJK}])|(?P<word>[^\\W\\d_{CJK}]+)"
)
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")  # Thai, Lao, Burmese, Khmer
_CHINESE = re.compile(r"(zh|zho|chi|cmn|yue|wuu|nan|hak|chinese|mandarin)\b", re.IGNORECASE)
_ENGLISH = re.compile(r"(en|eng|english)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Script:
    """Numbers of characters and words of a text by script."""

    han: int = 0
    cjk: int = 0  # kana, hangul and other characters of scripts without spaces
    latin: int = 0  # words
    other: int = 0  # words
    unspaced: int = 0  # stretches of scripts without spaces whose words are not known here

    @property
    def units(self) -> int:
        """Characters and words."""
        return self.han + self.cjk + self.latin + self.other + self.unspaced

    @property
    def profile(self) -> str:
        """Name of the profile for this script; without letters, ``paper-zh``."""
        if not self.units or self.han >= (1 - SHARE) * self.units:
            return "paper-zh"
        return "en" if self.latin >= (1 - SHARE) * self.units else "mixed"


def script_of(texts: Iterable[str]) -> Script:
    """Count the first :data:`TEXT` characters of texts by script."""
    counts = {"han": 0, "cjk": 0, "latin": 0, "other": 0, "unspaced": 0}
    left = TEXT
    for text in texts:
        for match in _UNIT.finditer(text[:left]):
            kind = str(match.lastgroup)
            counts[_kind_of_word(match[0]) if kind == "word" else kind] += 1
        left -= len(text)
        if left <= 0:
            break
    return Script(**counts)


def _kind_of_word(word: str) -> str:
    if _LATIN.match(word):
        return "latin"
    return "unspaced" if _UNSPACED.match(word) else "other"


def choose_profile(name: str, texts: Iterable[str], language: str | None = None) -> tuple[Profile, str | None]:
    """Return the profile of a name, and a warning if it does not fit the reference.

    Args:
        name: a profile, ``+nofiller`` included; ``auto`` is that of the language, else of the script.
        texts: of the reference.
        language: code of its language, if stated.

    Raises:
        ScoreError: the name is unknown.
    """
    base, plus, option = name.partition("+")
    script = script_of(texts)
    if base == AUTO:
        stated = language and (
            "paper-zh" if _CHINESE.match(language) else "en" if _ENGLISH.match(language) else "mixed"
        )
        base = stated or script.profile
    chosen = profile(base + plus + option)
    return chosen, mismatch(chosen, script)


def mismatch(chosen: Profile, script: Script) -> str | None:
    """Return a warning if a profile counts characters of words, or takes a sentence without spaces for a word."""
    if not script.units:
        return None
    characters = (script.han + script.cjk) / script.units
    if "word" in chosen.token and script.unspaced >= SHARE * script.units:
        return (
            f"normaliser {chosen.name} counts words between spaces, which {100 * script.unspaced / script.units:.0f} % "
            "of the reference, in Thai, Lao, Burmese or Khmer script, does not have; use --normaliser none"
        )
    base = chosen.name.partition("+")[0]
    if base in ("paper-zh", "m2met") and characters < 0.5:
        return (
            f"normaliser {chosen.name} counts characters, but {100 * (1 - characters):.0f} % of the reference are "
            f"words of other scripts; use --normaliser {script.profile}"
        )
    if chosen.token == "word" and characters >= SHARE:
        return (
            f"normaliser {chosen.name} counts words between spaces, but {100 * characters:.0f} % of the reference are "
            f"characters of scripts without spaces; use --normaliser {script.profile}"
        )
    return None
