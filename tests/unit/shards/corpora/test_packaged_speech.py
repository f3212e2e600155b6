"""Packaged speech: texts of the packages, and the real packages."""

import gzip
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from shards.corpora import packaged_speech
from shards.corpora.packaged_speech import (
    DIGITS,
    SYLLABLES,
    VOICES,
    Voice,
    clean_text,
    digit_tasks,
    prepare_voices,
    read_texts,
)
from shards.errors import ManifestError
from shards.manifests.manifest import read_manifest, read_speakers
from shards.manifests.prepare_types import PrepareOptions
from shards.prepare import write_prepared
from shards.sample import SAMPLE_RATE
from shards.sound.audio import load
from shards.sound.conditioning import frame_levels
from tests.support.speech import package_cache


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (" Agent  logged in. ", "Agent logged in."),
        ("[this is a simple beep tone]", ""),
        ("<beep ascending>", ""),
        ("slash [/]", "slash"),
        ("Spiacente, [quello] non è", "Spiacente, quello non è"),
        ("In order to...", "In order to"),
    ],
)
def test_clean_text_removes_annotations_only(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


def test_first_of_two_texts_is_used(tmp_path: Path) -> None:
    path = tmp_path / "name_1/usr/share/doc/name/core-sounds-es.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"; comment\n\ndigits/0: cero\ndigits/0: diez\n"))
    skipped: Counter[str] = Counter()
    assert read_texts(tmp_path / "name_1", "es", skipped) == {"digits/0": "cero"}
    assert sum(skipped.values()) == 1


def test_digit_with_another_text_is_rejected() -> None:
    voice = Voice("v", "p", "en", None, "package", "folder", ".wav", "texts")
    files = {f"digits/{d}": Path(f"{d}.wav") for d in range(10)}
    texts = {f"digits/{d}": f" {w.title()}." for d, w in enumerate(DIGITS["en"])}
    assert [t.text for t in digit_tasks(voice, files, texts)] == DIGITS["en"]
    with pytest.raises(ManifestError, match=r"digits/3 is 'Five', expected 'three'"):
        list(digit_tasks(voice, files, texts | {"digits/3": "Five"}))
    with pytest.raises(ManifestError, match=r"digits/9 is missing"):
        list(digit_tasks(voice, {k: v for k, v in files.items() if k != "digits/9"}, texts))


def test_tables_are_consistent() -> None:
    assert len(VOICES) == 10
    assert len({v.person for v in VOICES}) == 9
    assert {len(words) for words in DIGITS.values()} == {10}
    assert len(set(SYLLABLES)) == 10
    packages = {p.name for p in packaged_speech.PACKAGES}
    assert {v.package for v in VOICES} | {v.texts for v in VOICES if v.texts} == packages


def test_real_packages(tmp_path: Path) -> None:
    """Manifests of two small packages: real words, and no recording of one manifest in another."""
    voices = tuple(v for v in VOICES if v.name in ("es-co", "zh-gcin5"))
    for prepared in prepare_voices(voices, package_cache(), tmp_path, PrepareOptions(workers=2)):
        write_prepared(tmp_path / prepared.name, prepared)
    digits, prompts = (list(read_manifest(tmp_path / name)) for name in ("digits", "prompts"))
    assert [r.segments[0].text for r in digits] == DIGITS["es"] + DIGITS["zh"]
    assert all(0.2 < (r.duration or 0) < 0.8 for r in digits)
    assert {s.speaker for s in read_speakers(tmp_path / "digits")} == {v.speaker for v in voices}
    assert len(prompts) > 300
    assert all(r.segments[0].end == pytest.approx(r.duration) for r in prompts)
    heard = [hashlib.sha256(Path(r.audio).read_bytes()).digest() for r in [*digits, *prompts]]
    assert len(set(heard[:20])) == 20
    assert not set(heard[:20]) & set(heard[20:])
    wave = load(digits[0].audio)
    assert len(wave) == round((digits[0].duration or 0) * SAMPLE_RATE)
    assert -30 < frame_levels(wave).max() < -15
