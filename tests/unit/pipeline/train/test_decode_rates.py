"""Rates of the small decode: by mode, and of dialogues."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.evaluation.script import choose_profile
from pipeline.train.decode_rates import OF_DIALOGUES, rates
from pipeline.train.validation import figures

PROFILE, _ = choose_profile("paper-zh", ["你好"])
REFERENCE = [
    {"speaker": "a", "start": 0.0, "end": 2.0, "text": "你好"},
    {"speaker": "b", "start": 2.0, "end": 4.0, "text": "再见"},
]


def row(key: str, raw: Any, **more: Any) -> dict[str, Any]:
    return {"key": key, "session": key, "mode": "no", "names": [], "raw": raw, "reference": REFERENCE, **more}


def dialogue(key: str, lines: str, at_once: int, turns: int, stop: str = "answer") -> dict[str, Any]:
    told = {"at_once": at_once, "turns": turns, "attempts": turns + 1, "stop": stop, "format": "speaker-reasoner"}
    return row(key, [f"<answer>\n{lines}</answer>"], **told)


def test_rates_of_dialogues() -> None:
    right = dialogue("a", "Male 1 [0.0, 2.0]: 你好\nSpeaker 2 [2.0, 4.0]: 再见\n", 3, 3)
    one_speaker = dialogue("b", "Male 1 [0.0, 2.0]: 你好\nMale 1 [2.0, 4.0]: 再见\n", 1, 2)
    nothing = dialogue("c", "", 0, 0, "no valid reply in 4 attempts")
    found = rates([right, one_speaker, nothing], PROFILE)
    assert list(found) == ["all"]
    all_ = found["all"]
    assert set(all_) == {"clips", *OF_DIALOGUES}
    assert all_["clips"] == 3
    assert all_["cer"] == pytest.approx(100 * 4 / 12)  # nothing of the third clip
    assert all_["cpcer"] > all_["cer"]
    assert all_["der"] == pytest.approx(100 * (2 + 4) / 12)  # half of the second clip, the third
    assert all_["right_speakers"] == pytest.approx(100 / 3)
    assert all_["well_formed"] == pytest.approx(100 * 4 / 6)
    assert figures({"loss": 1.0, "scores": found}) == {
        "loss": 1.0, "cer": all_["cer"], "cpcer": all_["cpcer"], "sacer": None, "der": all_["der"]
    }  # fmt: skip


def test_rates_by_mode_and_over_all() -> None:
    answers = [row("a", "spk1: 你好\nspk2: 再见"), row("a", "Mike: 你好", mode="match", names=["Mike", "Lucy"])]
    found = rates(answers, PROFILE)
    assert list(found) == ["no", "match", "all"]
    assert (found["no"]["cer"], found["no"]["sacer"], found["match"]["cer"]) == (0.0, None, 50.0)
    assert found["all"]["clips"] == 2
    assert found["all"]["cer"] == 25.0
    assert "der" not in figures({"loss": 1.0, "scores": found})
    assert figures({"loss": 1.0, "scores": None})["cer"] is None
