"""AliMeeting in its exact layout, with the faults that are known of it."""

from pathlib import Path

import numpy as np
import pytest

from shards.sound.audio import load
from tests.support.corpora import audio, grid, prepare


def ali(root: Path, nested: bool) -> None:
    """Train in two archives; Eval inside its folder or flat, as both occur."""
    far, near = root / "Train_Ali_far", root / "Train_Ali_near"
    audio(far / "audio_dir/R0003_M0046_MS002.wav", 20, channels=8)
    tiers = {
        "R0003_M0046_F_SPK0093": [(0, 2, ""), (2, 5, "嗯，我们开始吧。"), (5, 20, "")],
        "M_SPK0094": [(4, 6, "好<sil>的ａｂ"), (7, 8, "")],
        "R0003_M0046_M_SPK0099": [(0, 20, "")],
        "备注": [(1, 2, "关门")],
    }
    grid(far / "textgrid_dir/R0003_M0046.TextGrid", tiers, 20)
    audio(far / "audio_dir/R0004_M0050_MS001.wav", 10, channels=8)
    (far / "textgrid_dir/R0004_M0050.TextGrid").write_text('File type = "ooTextFile"\nbroken')
    audio(far / "audio_dir/R0005_M0051_MS001.wav", 10, channels=8)
    grid(far / "textgrid_dir/R0006_M0052.TextGrid", {"F_SPK1": [(0, 1, "没有声音")]})
    audio(near / "audio_dir/R0003_M0046_F_SPK0093.wav", 20)
    grid(near / "textgrid_dir/R0003_M0046_F_SPK0093.TextGrid", {"SPK0093": [(2, 5, "嗯，我们开始吧。")]}, 20, "utf-16")
    evaluation = root / "Eval_Ali" / "Eval_Ali_far" if nested else root / "Eval_Ali_far"
    audio(evaluation / "audio_dir/R8001_M8004_MS801.wav", 9, channels=8)
    grid(evaluation / "textgrid_dir/R8001_M8004.TextGrid", {"F_SPK8013": [(0, 9.5, "你好")]}, 9.5)


@pytest.mark.parametrize("nested", [True, False])
def test_alimeeting(tmp_path: Path, nested: bool) -> None:
    ali(tmp_path / "in", nested)
    made = prepare("alimeeting", tmp_path / "in", tmp_path / "out")
    assert set(made) == {"train-far", "train-near", "eval-far"}
    far = made["train-far"]
    assert far.texts("R0003_M0046_MS002") == [("alimeeting:SPK0093", "嗯我们开始吧"), ("alimeeting:SPK0094", "好的AB")]
    recording = far.recordings["R0003_M0046_MS002"]
    assert (recording.session, recording.split, recording.channel) == ("R0003_M0046", "train", 0)
    assert {s.speaker: (s.gender, s.person) for s in far.speakers.values()} == {
        "alimeeting:SPK0093": ("f", "alimeeting:SPK0093"),
        "alimeeting:SPK0094": ("m", "alimeeting:SPK0094"),
    }
    assert far.audit["skipped"] == {
        "TextGrid without audio": 1,
        "audio without TextGrid": 1,
        "recording with unreadable TextGrid": 1,
        "speaker without speech": 1,
        "non-speaker tier": 1,
    }
    assert "R0004_M0050" in far.audit["examples"]["recording with unreadable TextGrid"][0]
    assert (far.audit["sessions"], far.audit["num_speakers"], far.audit["overlap"]) == (1, 2, 0.25)
    assert far.audit["text"]["policy"] == "plain"
    assert far.audit["text"]["with_punctuation"] == 0
    near = made["train-near"]
    assert near.recordings["R0003_M0046_F_SPK0093"].session == "R0003_M0046"  # enrolment leaves the clip's span out
    assert list(near.speakers) == ["alimeeting:SPK0093"]
    assert made["eval-far"].recordings["R8001_M8004_MS801"].segments[0].end == pytest.approx(9.0)
    assert made["eval-far"].audit["changed"] == {"segment ends after the recording: trimmed": 1}


def test_first_far_field_channel_is_used(tmp_path: Path) -> None:
    ali(tmp_path / "in", True)
    made = prepare("alimeeting", tmp_path / "in", tmp_path / "out")
    recording = made["train-far"].recordings["R0003_M0046_MS002"]
    wave = load(recording.audio, channel=recording.channel)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(
        0.01, rel=0.05
    )  # channel c of the test's audio is c times as loud
