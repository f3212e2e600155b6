"""AliMeeting, AISHELL-4 and AISHELL-5 in their exact layouts, with the faults that are known of them."""

from pathlib import Path

import numpy as np
import pytest

from shards.cli import main
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
        "audio without a TextGrid": 1,
        "recording whose TextGrid cannot be read": 1,
        "speaker without speech": 1,
        "tier that is not a speaker": 1,
    }
    assert "R0004_M0050" in far.audit["examples"]["recording whose TextGrid cannot be read"][0]
    assert (far.audit["sessions"], far.audit["num_speakers"], far.audit["overlap"]) == (1, 2, 0.25)
    assert far.audit["text"]["policy"] == "plain"
    assert far.audit["text"]["with_punctuation"] == 0
    near = made["train-near"]
    assert near.recordings["R0003_M0046_F_SPK0093"].session == "R0003_M0046"  # enrolment leaves the clip's span out
    assert list(near.speakers) == ["alimeeting:SPK0093"]
    assert made["eval-far"].recordings["R8001_M8004_MS801"].segments[0].end == pytest.approx(9.0)
    assert made["eval-far"].audit["changed"] == {"segment ends after the recording: cut": 1}


def test_the_first_far_channel_is_taken(tmp_path: Path) -> None:
    ali(tmp_path / "in", True)
    made = prepare("alimeeting", tmp_path / "in", tmp_path / "out")
    recording = made["train-far"].recordings["R0003_M0046_MS002"]
    wave = load(recording.audio, channel=recording.channel)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(
        0.01, rel=0.05
    )  # channel c of the test's audio is c times as loud


def test_aishell4(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for part, stem in (
        ("train_L", "20200706_L_R001S01C01"),
        ("train_M", "20200622_M_R002S07C01"),
        ("test", "L_R003S01C02"),
    ):
        audio(root / part / "wav" / f"{stem}.flac", 12, channels=8)
    audio(root / "train_L/wav/20200706_L_R001S01C01.1channel.wav", 12)
    tiers = {"1": [(0, 3, "我\r\n们"), (3, 4, "")], "2": [(2, 5, "ATM\r\n机")], "overlap": [(2, 3, "x")]}
    grid(root / "train_L/TextGrid/20200706_L_R001S01C01.TextGrid", tiers, 12)
    (root / "train_L/TextGrid/20200706_L_R001S01C01.rttm").write_text("SPEAKER x 1 0 3 <NA> <NA> 1 <NA> <NA>\n")
    # The two sessions known as broken have reversed intervals: the rest of their words is used.
    grid(root / "train_M/TextGrid/20200622_M_R002S07C01.TextGrid", {"1": [(5, 4.5, "坏"), (6, 7, "好")]}, 12)
    grid(root / "test/TextGrid/L_R003S01C02.TextGrid", {"1": [(1, 2, "测试")]}, 12)
    made = prepare("aishell4", root, tmp_path / "out")
    assert set(made) == {"train", "test"}
    train = made["train"]
    key = "20200706_L_R001S01C01"
    assert train.texts(key) == [(f"aishell4:{key}:1", "我们"), (f"aishell4:{key}:2", "ATM机")]
    assert train.texts("20200622_M_R002S07C01") == [("aishell4:20200622_M_R002S07C01:1", "好")]
    assert len(train.speakers) == 3  # "1" of two meetings is two ids …
    assert all(s.person is None for s in train.speakers.values())  # … of which nobody knows who they are
    assert all(r.channel == 0 for r in train.recordings.values())
    assert train.audit["skipped"] == {
        "one-channel copy of a recording": 1,
        "segment with reversed or empty times": 1,
        "tier that is not a speaker": 1,
    }
    assert list(made["test"].recordings) == ["L_R003S01C02"]


def test_aishell5(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for name in ("DA01", "DA02", "DX01C01", "DX02C01", "DX04C01", "DX05C01", "DX06C01"):
        audio(root / f"train/003/{name}.wav", 8)
    grid(root / "train/003/DA01.TextGrid", {"DA01": [(1, 3, "\ufeff打开空调")]}, 8, "utf-8-sig")
    grid(root / "train/003/DA02.TextGrid", {"DA02": [(2, 4, "好")]}, 8)
    audio(root / "Eval2/003/DX02C01.wav", 8)
    grid(root / "Eval2/003/DA01.TextGrid", {"a": [(0, 1, "一")]}, 8)
    grid(root / "Eval2/003/DA04.TextGrid", {"b": [(1, 2, "二")]}, 8)
    made = prepare("aishell5", root, tmp_path / "out")
    assert set(made) == {"train-far", "train-near", "eval2-far"}
    far = made["train-far"]
    assert far.texts("train-003-DX01C01") == [
        ("aishell5:train-003:DA01", "打开空调"),
        ("aishell5:train-003:DA02", "好"),
    ]
    assert far.audit["skipped"] == {"echo reference of the stereo": 2}
    assert sorted(made["train-near"].recordings) == ["train-003-DA01", "train-003-DA02"]
    assert made["train-near"].recordings["train-003-DA01"].session == "train-003"
    # Without the first microphone the next one stands in; session 003 of another archive is another session.
    assert made["eval2-far"].texts("eval2-003-DX02C01") == [
        ("aishell5:eval2-003:DA01", "一"),
        ("aishell5:eval2-003:DA04", "二"),
    ]


def test_a_session_with_thirty_speakers_and_one_file_that_is_no_audio(tmp_path: Path) -> None:
    root = tmp_path / "in"
    audio(root / "test/wav/L_R003S01C02.flac", 40, channels=2)
    tiers = {str(i): [(i, i + 1.5, f"话{i}")] for i in range(30)}
    grid(root / "test/TextGrid/L_R003S01C02.TextGrid", tiers, 40)
    (root / "test/wav/S_bad.flac").write_bytes(b"not audio")
    grid(root / "test/TextGrid/S_bad.TextGrid", {"1": [(0, 1, "x")]}, 40)
    made = prepare("aishell4", root, tmp_path / "out")["test"]
    assert made.audit["num_speakers"] == len(made.speakers) == 30
    assert made.audit["skipped"] == {"recording whose audio cannot be read": 1}


def test_aishell4_without_its_audio_counts_the_text_grids(tmp_path: Path) -> None:
    """Archives that were unpacked in part."""
    grid(tmp_path / "train_L/TextGrid/a.TextGrid", {"1": [(0, 1, "好")]}, 5)
    audio(tmp_path / "test/wav/b.wav", 5)
    grid(tmp_path / "test/TextGrid/b.TextGrid", {"1": [(0, 1, "好")]}, 5)
    made = prepare("aishell4", tmp_path, tmp_path / "out")
    assert list(made["test"].recordings) == ["b"]
    assert made["train"].audit["skipped"] == {"TextGrid without audio": 1}


@pytest.mark.parametrize("corpus", ["alimeeting", "aishell1", "aishell2", "aishell4", "aishell5", "gigaspeech"])
def test_a_folder_that_is_not_the_corpus_says_what_is_expected(tmp_path: Path, corpus: str, capsys) -> None:
    assert main(["prepare", corpus, str(tmp_path), str(tmp_path / "out")]) == 1
    assert "there; expected" in capsys.readouterr().err


def test_nothing_usable_is_an_error(tmp_path: Path, capsys) -> None:
    audio(tmp_path / "test/wav/a.flac", 2)
    (tmp_path / "test/TextGrid").mkdir()
    assert main(["prepare", "aishell4", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "no recording of aishell4 could be used" in capsys.readouterr().err
