"""The part of a model card on use, for what a folder may carry."""

from __future__ import annotations

import re

from pipeline.export.card_use import usage

NETWORK = {"network": {"module": "funasr.x"}, "sha256": "ab12"}


def code(text: str) -> str:
    return "\n".join(re.findall("```python\n(.*?)```", text, re.DOTALL))


def test_a_folder_with_the_extractor_enrols_from_clips() -> None:
    text = usage("out", 192, "campplus", True, NETWORK | {"weights": "speaker_extractor.pt", "licence": "Apache-2.0"})
    assert 'enrol={"Mike": "mike.wav"' in code(text)
    assert "(`speaker_extractor.pt`, Apache-2.0, sha256 `ab12`)" in text


def test_a_folder_without_its_weights_names_their_hash() -> None:
    text = usage("out", 192, "eres2netv2", True, NETWORK)
    assert "enrol" not in code(text)
    assert 'naming="none"' in code(text)
    assert 'mode="asr"' not in code(text)
    assert "**eres2netv2**" in text
    assert "sha256 `ab12`): pass them as `processor.enrol(…, weights=FILE)`" in text
    assert "neither its code nor its weights" in usage("out", 16, "other", True, {})


def test_a_model_that_reads_no_names_is_asked_for_words() -> None:
    text = usage("out", 192, "campplus", False, {})
    assert 'mode="asr"' in code(text)
    assert "registered by" not in text
    assert "FOLDER" not in text
